#include "tools/disassemble.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <optional>

#include <Zydis/Zydis.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace convt::tools {
namespace {

struct Line {
  std::size_t offset = 0;
  std::string text;
  std::optional<std::size_t> branch_target;
  std::optional<std::size_t> constant;  ///< offset of a constant that it reads
};

// Addresses are offsets: the code is taken to stand at 0.
std::optional<std::size_t> target_of(const ZydisDisassembledInstruction& instruction,
                                     const ZydisDecodedOperand& operand) {
  ZyanU64 address = 0;
  const bool known = ZYAN_SUCCESS(
      ZydisCalcAbsoluteAddress(&instruction.info, &operand, instruction.runtime_address, &address));
  return known ? std::optional<std::size_t>(address) : std::nullopt;
}

Line make_line(const ZydisDisassembledInstruction& instruction) {
  Line line{instruction.runtime_address, instruction.text, std::nullopt, std::nullopt};
  for (int i = 0; i < instruction.info.operand_count_visible; ++i) {
    const ZydisDecodedOperand& operand = instruction.operands[i];
    if (operand.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && operand.imm.is_relative != 0) {
      line.branch_target = target_of(instruction, operand);
    } else if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY &&
               operand.mem.base == ZYDIS_REGISTER_RIP) {
      line.constant = target_of(instruction, operand);
    }
  }
  return line;
}

// What assemblers put between code and data: no instructions of the kernel.
bool is_padding(std::span<const std::uint8_t> bytes) {
  return std::all_of(bytes.begin(), bytes.end(),
                     [](std::uint8_t b) { return b == 0x00 || b == 0x90 || b == 0xcc; });
}

std::vector<Line> decode(std::span<const std::uint8_t> code) {
  std::vector<Line> lines;
  std::size_t at = 0;
  while (at < code.size()) {
    const std::span<const std::uint8_t> rest = code.subspan(at);
    if (is_padding(rest)) {
      lines.push_back({at, fmt::format("; {} bytes of padding", rest.size()), {}, {}});
      break;
    }
    ZydisDisassembledInstruction instruction;
    if (!ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, at, rest.data(),
                                            rest.size(), &instruction))) {
      lines.push_back({at, fmt::format("db {:#04x}", rest[0]), {}, {}});
      ++at;
      continue;
    }
    lines.push_back(make_line(instruction));
    at += instruction.info.length;
  }
  return lines;
}

using Labels = std::map<std::size_t, std::string>;

Labels make_labels(const std::vector<Line>& lines) {
  Labels labels;
  for (const Line& line : lines) {
    if (line.branch_target) labels.emplace(*line.branch_target, "");
  }
  int number = 0;
  for (auto& [offset, name] : labels) name = fmt::format("L{}", ++number);
  return labels;
}

// "jnz 0x0000000000000040" -> "jnz L3"
std::string with_label(const Line& line, const Labels& labels) {
  const std::size_t space = line.text.find_last_of(' ');
  return line.text.substr(0, space + 1) + labels.at(*line.branch_target);
}

std::string instruction_text(const Line& line, const Labels& labels, std::size_t constants_offset) {
  if (line.branch_target) return with_label(line, labels);
  if (line.constant && *line.constant >= constants_offset) {
    return fmt::format("{:<58} ; constants+{:#x}", line.text, *line.constant - constants_offset);
  }
  return line.text;
}

std::vector<std::int32_t> words_of(std::span<const std::uint8_t> bytes) {
  std::vector<std::int32_t> words(bytes.size() / sizeof(std::int32_t));
  std::memcpy(words.data(), bytes.data(), words.size() * sizeof(std::int32_t));
  return words;
}

std::string constants_text(std::span<const std::uint8_t> block) {
  constexpr std::size_t kRow = 64;
  constexpr std::size_t kRowsShown = 24;
  if (block.empty()) return "; no constants\n";
  const std::size_t rows = (block.size() + kRow - 1) / kRow;
  std::string text = fmt::format("; constants, {} bytes, as 32-bit integers\n", block.size());
  for (std::size_t row = 0; row < std::min(rows, kRowsShown); ++row) {
    const std::vector<std::int32_t> words =
        words_of(block.subspan(row * kRow, std::min(kRow, block.size() - row * kRow)));
    fmt::format_to(std::back_inserter(text), ";   +{:#05x}  {}\n", row * kRow,
                   fmt::join(words, " "));
  }
  if (rows > kRowsShown) {
    fmt::format_to(std::back_inserter(text), ";   ... and {} rows more\n", rows - kRowsShown);
  }
  return text;
}

}  // namespace

std::string disassemble(std::span<const std::uint8_t> bytes, std::size_t constants_offset,
                        std::span<const CodeNote> notes) {
  constants_offset = std::min(constants_offset, bytes.size());
  const std::vector<Line> lines = decode(bytes.first(constants_offset));
  const Labels labels = make_labels(lines);
  std::string text;
  auto note = notes.begin();
  for (const Line& line : lines) {
    for (; note != notes.end() && note->offset <= line.offset; ++note) {
      fmt::format_to(std::back_inserter(text), "; {}\n", note->text);
    }
    const auto label = labels.find(line.offset);
    if (label != labels.end()) text += label->second + ":\n";
    fmt::format_to(std::back_inserter(text), "  {:#06x}  {}\n", line.offset,
                   instruction_text(line, labels, constants_offset));
  }
  return text + constants_text(bytes.subspan(constants_offset));
}

}  // namespace convt::tools
