// Uses the installed headers, and one function that only the library has.
#include <convt/problem.hpp>
#include <convt/version.hpp>
#include <cstdio>

int main() {
  convt::Problem problem;
  const bool valid = validate(problem).ok();
  std::printf("convt %s: %s\n", CONVT_VERSION_STRING, problem.to_text().c_str());
  return valid ? 0 : 1;
}
