#include "runtime/kernel_name.hpp"

#include <cstdint>
#include <cstdio>

namespace convt {
namespace {

/// FNV-1a over texts: names stay the same from build to build, unlike the hashes of tables.
std::uint64_t hash_text(std::uint64_t hash, const std::string& text) {
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return (hash ^ 0xff) * 0x100000001b3u;
}

bool is_identifier_character(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

}  // namespace

std::string make_kernel_name(const Problem& problem, const Target& target, const Plan& plan) {
  const std::string layer = problem.to_text();
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const std::string& text : {layer, plan.to_text(), target.to_text()}) {
    hash = hash_text(hash, text);
  }
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  std::string name = std::string("convt_") + to_string(plan.family) + "_" + layer + "_" +
                     to_string(target.isa) + "_" + digits;
  for (char& c : name) {
    if (!is_identifier_character(c)) c = '_';
  }
  return name;
}

}  // namespace convt
