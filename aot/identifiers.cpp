#include "aot/identifiers.hpp"

#include <algorithm>

namespace convt::aot {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

}  // namespace

std::string Identifiers::make(std::string_view name) {
  std::string word = prefix_ + std::string(name.empty() ? "layer" : name);
  for (char& c : word) {
    if (!is_word(c)) c = '_';
  }
  if (is_digit(word.front()) || word.front() == '_') word.insert(0, "layer_");
  std::string unique = word;
  for (int i = 2; !taken_.insert(unique).second; ++i) unique = word + "_" + std::to_string(i);
  return unique;
}

bool is_identifier_prefix(std::string_view text) {
  return std::all_of(text.begin(), text.end(), is_word) &&
         (text.empty() || !is_digit(text.front()));
}

}  // namespace convt::aot
