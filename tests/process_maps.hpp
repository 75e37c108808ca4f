// What /proc/self/maps says of this process.
#pragma once

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

namespace convt {

struct MappedRange {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  bool writable = false;
  bool executable = false;
  std::string line;
};

inline std::vector<MappedRange> mapped_ranges() {
  std::vector<MappedRange> ranges;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    MappedRange range;
    char permissions[5] = {};
    unsigned long begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, permissions) != 3) continue;
    range.begin = begin;
    range.end = end;
    range.writable = permissions[1] == 'w';
    range.executable = permissions[2] == 'x';
    range.line = line;
    ranges.push_back(range);
  }
  return ranges;
}

/// The first range that is writable and executable, as its line; empty if there is none.
inline std::string writable_and_executable_range() {
  for (const MappedRange& range : mapped_ranges()) {
    if (range.writable && range.executable) return range.line;
  }
  return {};
}

/// The range that holds `address`; an empty one if none does.
inline MappedRange range_of(const void* address) {
  const auto value = reinterpret_cast<std::uintptr_t>(address);
  for (const MappedRange& range : mapped_ranges()) {
    if (value >= range.begin && value < range.end) return range;
  }
  return {};
}

}  // namespace convt
