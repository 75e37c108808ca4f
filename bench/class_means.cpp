#include "bench/class_means.hpp"

#include <string>

#include <fmt/format.h>

#include "measuring/measure.hpp"
#include "tools/text_table.hpp"

namespace convt::bench {

void print_class_means(const ClassRatios& ratios) {
  if (ratios.empty()) return;
  using tools::TextTable;
  TextTable table({{"geometric means", TextTable::Align::left}, {"layers"}, {"ratio"}});
  const auto add = [&](const std::string& name, const std::vector<double>& some) {
    table.add({"  " + name, fmt::format("{}", some.size()),
               fmt::format("{:.3f}", measuring::geometric_mean(some))});
  };
  std::vector<double> all;
  for (const auto& [kind, some] : ratios) {
    add(kind.name(), some);
    all.insert(all.end(), some.begin(), some.end());
  }
  add("all", all);
  fmt::print("\n{}", table.to_text());
}

}  // namespace convt::bench
