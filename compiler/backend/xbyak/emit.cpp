#include "compiler/backend/xbyak/emit.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <utility>
#include <vector>

#include "compiler/backend/xbyak/stage_emitter.hpp"
#include "compiler/program/instruction_info.hpp"

namespace convt {
namespace {

using program::Inst;
using program::Program;
using Xbyak::CodeGenerator;

constexpr std::size_t kCodeAlignment = 64;
constexpr std::uint8_t kBreakpoint = 0xcc;

/// Instructions go here first, so that an emitter never sees executable memory. Larger than a
/// kernel may be: what is a little too large can then be told by how much.
class Buffer {
 public:
  static constexpr std::size_t kBytes = 2 * kMaxCodeBytes;
  std::uint8_t* begin() {
    const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(bytes_.data()) % kCodeAlignment;
    return bytes_.data() + (kCodeAlignment - misaligned) % kCodeAlignment;
  }

 private:
  std::vector<std::uint8_t> bytes_ = std::vector<std::uint8_t>(kBytes + kCodeAlignment);
};

Error unsupported(std::string message) { return {ErrorCode::unsupported, std::move(message)}; }

/// An empty string, or what in the Program this backend does not take.
std::string find_obstacle(const Program& program) {
  if (program.lanes != 16) {
    return "the Xbyak backend emits AVX-512 (16 lanes), the program has " +
           std::to_string(program.lanes) + " lanes";
  }
  if (!program.allocated) return "the program's registers are not allocated";
  bool in_range = true;
  const auto check = [&](program::Reg reg, bool is_mask) {
    // k0 means "no mask" in the encoding: mask registers count from 1.
    in_range = in_range && (is_mask ? reg >= 1 && reg <= 7 : reg < 32);
  };
  for (const program::Stage& stage : program.stages) {
    for (const Inst& inst : stage.code) {
      for_each_read(inst, check);
      for_each_write(inst, check);
    }
  }
  return in_range ? "" : "the program names registers other than zmm0 to zmm31 and k1 to k7";
}

std::string too_large(std::size_t bytes, const char* qualifier) {
  return "the kernel's instructions take " + std::string(qualifier) + std::to_string(bytes) +
         " bytes; at most " + std::to_string(kMaxCodeBytes) + " are allowed";
}

xbyak::ConstantBlock make_constant_block(const Program& program) {
  xbyak::ConstantBlock block;
  std::size_t words = program.constants.size();
  for (const program::Table& table : program.tables) {
    block.table_offset.push_back(static_cast<std::int64_t>(4 * words));
    if (!table.dynamic) words += table.values.size();  // else in the shape block
  }
  return block;
}

void emit_padding(CodeGenerator& code) {
  while (code.getSize() % kCodeAlignment != 0) code.db(kBreakpoint);
}

template <class Word>
void append_words(std::vector<std::uint8_t>& bytes, const std::vector<Word>& words) {
  static_assert(sizeof(Word) == 4);
  const std::size_t at = bytes.size();
  bytes.resize(at + 4 * words.size());
  if (!words.empty()) std::memcpy(bytes.data() + at, words.data(), 4 * words.size());
}

Result<Code> emit_program(const Program& program, std::string symbol, int integer_registers) {
  thread_local Buffer buffer;
  CodeGenerator assembler(Buffer::kBytes, buffer.begin());
  xbyak::ConstantBlock constants = make_constant_block(program);
  Code code;
  code.symbol = std::move(symbol);
  for (const program::Stage& stage : program.stages) {
    emit_padding(assembler);
    code.stage_entries.push_back(assembler.getSize());
    xbyak::StageEmitter emitter(assembler, program, stage, constants, integer_registers,
                                code.roles);
    const std::string error = emitter.emit();
    if (!error.empty()) return unsupported("stage " + stage.name + ": " + error);
    code.frames.push_back(emitter.take_frame());
  }
  if (assembler.getSize() > kMaxCodeBytes) return unsupported(too_large(assembler.getSize(), ""));
  emit_padding(assembler);
  assembler.L(constants.begin);
  code.constants_offset = assembler.getSize();
  code.bytes.assign(assembler.getCode(), assembler.getCode() + assembler.getSize());
  append_words(code.bytes, program.constants);
  for (const program::Table& table : program.tables)
    if (!table.dynamic) append_words(code.bytes, table.values);
  return code;
}

}  // namespace

std::string xbyak_version() {
  // 0xABCD is A.BC(.D).
  return "Xbyak " + std::to_string(Xbyak::VERSION >> 12) + "." +
         std::to_string((Xbyak::VERSION >> 8 & 0xf) * 10 + (Xbyak::VERSION >> 4 & 0xf)) + "." +
         std::to_string(Xbyak::VERSION & 0xf);
}

Result<Code> emit_xbyak(const Program& program, std::string symbol, int integer_registers) {
  std::string obstacle = find_obstacle(program);
  if (!obstacle.empty()) return unsupported(std::move(obstacle));
  try {
    return emit_program(program, std::move(symbol), integer_registers);
  } catch (const Xbyak::Error& error) {
    if (error == Xbyak::ERR_CODE_IS_TOO_BIG) {
      return unsupported(too_large(Buffer::kBytes, "more than "));
    }
    return Error{ErrorCode::internal, std::string("Xbyak: ") + error.what()};
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "no memory to emit a kernel"};
  }
}

}  // namespace convt
