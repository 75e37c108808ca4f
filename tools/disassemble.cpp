#include "tools/disassemble.hpp"

#include <algorithm>
#include <array>
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

/// Zydis set up for the kernels' code. Addresses are offsets: the code is taken to stand at 0.
class Decoder {
 public:
  Decoder() {
    ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter_, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterSetProperty(&formatter_, ZYDIS_FORMATTER_PROP_IMM_SIGNEDNESS,
                              ZYDIS_SIGNEDNESS_SIGNED);
    ZydisFormatterSetProperty(&formatter_, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
    ZydisFormatterSetProperty(&formatter_, ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE,
                              ZYDIS_PADDING_DISABLED);
  }

  /// The instruction at `at`, or nothing if there is none. `length` is set with it.
  std::optional<Line> decode(std::span<const std::uint8_t> code, std::size_t at,
                             std::size_t* length) {
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, code.data() + at, code.size() - at,
                                             &instruction_, operands_.data()))) {
      return std::nullopt;
    }
    *length = instruction_.length;
    Line line{at, format(at), std::nullopt, std::nullopt};
    for (std::size_t i = 0; i < instruction_.operand_count_visible; ++i) {
      const ZydisDecodedOperand& operand = operands_[i];
      if (operand.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && operand.imm.is_relative != 0) {
        line.branch_target = target_of(operand, at);
      } else if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY &&
                 operand.mem.base == ZYDIS_REGISTER_RIP) {
        line.constant = target_of(operand, at);
      }
    }
    return line;
  }

 private:
  std::string format(std::size_t at) {
    std::array<char, 256> text{};
    ZydisFormatterFormatInstruction(&formatter_, &instruction_, operands_.data(),
                                    instruction_.operand_count_visible, text.data(), text.size(),
                                    at, nullptr);
    return text.data();
  }

  std::optional<std::size_t> target_of(const ZydisDecodedOperand& operand, std::size_t at) {
    ZyanU64 address = 0;
    const bool known =
        ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&instruction_, &operand, at, &address));
    return known ? std::optional<std::size_t>(address) : std::nullopt;
  }

  ZydisDecoder decoder_{};
  ZydisFormatter formatter_{};
  ZydisDecodedInstruction instruction_{};
  std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operands_{};
};

// What assemblers put between code and data: no instructions of the kernel.
bool is_padding(std::span<const std::uint8_t> bytes) {
  return std::all_of(bytes.begin(), bytes.end(),
                     [](std::uint8_t b) { return b == 0x00 || b == 0x90 || b == 0xcc; });
}

std::vector<Line> decode(std::span<const std::uint8_t> code) {
  Decoder decoder;
  std::vector<Line> lines;
  std::size_t length = 0;
  for (std::size_t at = 0; at < code.size(); at += length) {
    if (is_padding(code.subspan(at))) {
      lines.push_back({at, fmt::format("; padding, {} B", code.size() - at), {}, {}});
      break;
    }
    const std::optional<Line> line = decoder.decode(code, at, &length);
    if (!line) length = 1;
    lines.push_back(line ? *line : Line{at, fmt::format("db {:#04x}", code[at]), {}, {}});
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

/// Replaces the address (a number as Zydis prints it) by a name.
std::string with_name(std::string text, std::size_t address, const std::string& name) {
  const std::string number = fmt::format("{:#x}", address);
  const std::size_t at = text.rfind(number);
  return at == std::string::npos ? text + " ; " + name : text.replace(at, number.size(), name);
}

std::string instruction_text(const Line& line, const Labels& labels, std::size_t constants_offset) {
  if (line.branch_target) {
    return with_name(line.text, *line.branch_target, labels.at(*line.branch_target));
  }
  if (line.constant && *line.constant >= constants_offset) {
    return with_name(line.text, *line.constant,
                     fmt::format("constants+{:#x}", *line.constant - constants_offset));
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
