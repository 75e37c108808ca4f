// Names of layers as identifiers of C.
#pragma once

#include <set>
#include <string>
#include <string_view>

namespace convt::aot {

class Identifiers {
 public:
  explicit Identifiers(std::string prefix) : prefix_(std::move(prefix)) {}

  /// The prefix and the name, other characters than letters, digits and '_' replaced by '_'; with
  /// "_2" and so on where another layer has that name.
  std::string make(std::string_view name);

 private:
  const std::string prefix_;
  std::set<std::string> taken_{"convt_aot"};  // the runtime's own functions begin so
};

/// Whether `text` may begin an identifier ("" may).
bool is_identifier_prefix(std::string_view text);

}  // namespace convt::aot
