#include "compiler/object/unwind.hpp"

#include <cstring>
#include <string_view>

namespace convt::object {
namespace {

// DWARF 5, section 7.24, and the Linux Standard Base on .eh_frame.
enum CallFrame : std::uint8_t {
  kNop = 0x00,
  kAdvance1 = 0x02,
  kAdvance2 = 0x03,
  kAdvance4 = 0x04,
  kDefineCfa = 0x0c,
  kDefineCfaOffset = 0x0e,
  kAdvance = 0x40,  // the low 6 bits: bytes
  kOffset = 0x80,   // the low 6 bits: a register, saved at CFA + offset * kDataAlignment
  kRestore = 0xc0,  // the low 6 bits: a register, which is the caller's again
};
enum PointerEncoding : std::uint8_t { kAbsolute = 0x00, kRelative4 = 0x1b };

constexpr int kDataAlignment = -8;
constexpr unsigned kStackPointer = 7;    // rsp
constexpr unsigned kReturnAddress = 16;  // the column of x86-64

class UnwindMaker {
 public:
  /// Adds the entry that all others refer to.
  explicit UnwindMaker(PointerEncoding encoding) : encoding_(encoding) {
    const std::size_t at = begin_entry();
    add_word<std::uint32_t>(0);  // this is such an entry
    add_byte(1);                 // version
    for (const char c : std::string_view("zR")) add_byte(static_cast<std::uint8_t>(c));
    add_byte(0);
    add_unsigned(1);  // offsets in code count bytes
    add_signed(kDataAlignment);
    add_unsigned(kReturnAddress);
    add_unsigned(1);  // bytes of what "R" says
    add_byte(encoding);
    add_byte(kDefineCfa);
    add_unsigned(kStackPointer);
    add_unsigned(8);
    add_byte(kOffset | kReturnAddress);
    add_unsigned(1);
    end_entry(at);
  }

  void add_stage(const Code::StageFrame& frame, std::uint64_t address) {
    const std::size_t at = begin_entry();
    add_word(static_cast<std::uint32_t>(out_.bytes.size()));  // back to the first entry
    if (encoding_ == kAbsolute) {
      add_word(address + frame.begin);
      add_word(static_cast<std::uint64_t>(frame.end - frame.begin));
    } else {
      out_.fixups.push_back({out_.bytes.size(), frame.begin});
      add_word<std::uint32_t>(0);
      add_word(static_cast<std::uint32_t>(frame.end - frame.begin));
    }
    add_unsigned(0);  // nothing of its own
    std::size_t place = frame.begin;
    for (const Code::FrameStep& step : frame.steps) {
      advance(step.offset - place);
      place = step.offset;
      add_step(step);
    }
    end_entry(at);
  }

  RelocatableUnwind take() { return std::move(out_); }
  void terminate() { add_word<std::uint32_t>(0); }

 private:
  template <class Word>
  void add_word(Word word) {
    const auto* begin = reinterpret_cast<const std::uint8_t*>(&word);
    out_.bytes.insert(out_.bytes.end(), begin, begin + sizeof word);
  }
  void add_byte(unsigned byte) { out_.bytes.push_back(static_cast<std::uint8_t>(byte)); }
  void add_unsigned(std::uint64_t value) {  // LEB128
    for (; value >= 0x80; value >>= 7) add_byte(static_cast<unsigned>(value & 0x7f) | 0x80);
    add_byte(static_cast<unsigned>(value));
  }
  void add_signed(int value) { add_byte(static_cast<unsigned>(value) & 0x7f); }  // -64 .. 63

  std::size_t begin_entry() {
    const std::size_t at = out_.bytes.size();
    add_word<std::uint32_t>(0);
    return at;
  }
  void end_entry(std::size_t at) {
    while (out_.bytes.size() % 8 != 0) add_byte(kNop);
    const auto length = static_cast<std::uint32_t>(out_.bytes.size() - at - 4);
    std::memcpy(out_.bytes.data() + at, &length, sizeof length);
  }

  void advance(std::size_t bytes) {
    if (bytes == 0) return;
    if (bytes < 0x40) {
      add_byte(kAdvance | static_cast<unsigned>(bytes));
    } else if (bytes <= 0xff) {
      add_byte(kAdvance1);
      add_byte(static_cast<unsigned>(bytes));
    } else if (bytes <= 0xffff) {
      add_byte(kAdvance2);
      add_word(static_cast<std::uint16_t>(bytes));
    } else {
      add_byte(kAdvance4);
      add_word(static_cast<std::uint32_t>(bytes));
    }
  }

  void add_step(const Code::FrameStep& step) {
    const auto reg = static_cast<unsigned>(step.dwarf_register);
    add_byte(kDefineCfaOffset);
    add_unsigned(static_cast<std::uint64_t>(step.frame_bytes));
    if (step.saves == Code::FrameStep::Saves::pushes) {
      add_byte(kOffset | reg);
      add_unsigned(static_cast<std::uint64_t>(step.frame_bytes / -kDataAlignment));
    } else if (step.saves == Code::FrameStep::Saves::pops) {
      add_byte(kRestore | reg);
    }
  }

  const PointerEncoding encoding_;
  RelocatableUnwind out_;
};

RelocatableUnwind make_unwind(const Code& code, PointerEncoding encoding, std::uint64_t address) {
  UnwindMaker maker(encoding);
  for (const Code::StageFrame& frame : code.frames) maker.add_stage(frame, address);
  if (encoding == kAbsolute) maker.terminate();
  return maker.take();
}

}  // namespace

std::vector<std::uint8_t> make_unwind_at(const Code& code, std::uint64_t address) {
  return make_unwind(code, kAbsolute, address).bytes;
}

RelocatableUnwind make_relocatable_unwind(const Code& code) {
  return make_unwind(code, kRelative4, 0);
}

}  // namespace convt::object
