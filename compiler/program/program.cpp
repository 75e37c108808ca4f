#include "compiler/program/program.hpp"

#include <algorithm>

#include "compiler/program/instruction_info.hpp"

namespace convt::program {

Affine Affine::of(ScalarId scalar, std::int64_t coefficient) {
  Affine result;
  if (coefficient != 0) result.terms.push_back({scalar, coefficient});
  return result;
}

Affine& Affine::operator+=(const Affine& other) {
  constant += other.constant;
  for (std::size_t i = 0, at = 0; i < other.terms.size(); ++i) {
    const Term term = other.terms[i];  // a copy: `other` may be *this
    while (at < terms.size() && terms[at].scalar < term.scalar) ++at;
    if (at < terms.size() && terms[at].scalar == term.scalar) {
      terms[at].coefficient += term.coefficient;
    } else {
      terms.insert(terms.begin() + static_cast<std::ptrdiff_t>(at), term);
    }
  }
  std::erase_if(terms, [](const Term& term) { return term.coefficient == 0; });
  return *this;
}

Affine& Affine::operator*=(std::int64_t factor) {
  constant *= factor;
  if (factor == 0) terms.clear();
  for (Term& term : terms) term.coefficient *= factor;
  return *this;
}

std::int64_t Extent::count(std::int64_t batch) const {
  return batch_block == 0 ? constant : (batch + batch_block - 1) / batch_block;
}

std::int64_t item_count(const Stage& stage, std::int64_t batch) {
  std::int64_t count = 1;
  for (const Coordinate& coordinate : stage.grid) count *= coordinate.extent.count(batch);
  return count;
}

namespace {

/// Id of the address of word 0 of the constant block; keeps the block's extent in step.
AddressId constants_address(Program& program) {
  std::size_t buffer = 0;
  while (buffer < program.buffers.size() && program.buffers[buffer].kind != BufferKind::constants) {
    ++buffer;
  }
  if (buffer == program.buffers.size()) {
    Buffer block;
    block.kind = BufferKind::constants;
    block.name = "constants";
    block.type = Type::i32;
    block.stride[0] = 1;
    program.buffers.push_back(std::move(block));
  }
  program.buffers[buffer].extent[0] = static_cast<std::int64_t>(program.constants.size());
  Address address;
  address.buffer = static_cast<BufferId>(buffer);
  for (std::size_t i = 0; i < program.addresses.size(); ++i) {
    if (program.addresses[i] == address) return static_cast<AddressId>(i);
  }
  if (program.addresses.size() >= kNone) return kNone;
  program.addresses.push_back(std::move(address));
  return static_cast<AddressId>(program.addresses.size() - 1);
}

}  // namespace

Mem vector_constant(Program& program, std::span<const std::uint32_t> words) {
  const auto lanes = static_cast<std::size_t>(program.lanes);
  std::size_t at = 0;
  while (at < program.constants.size() &&
         !std::equal(words.begin(), words.end(),
                     program.constants.begin() + static_cast<std::ptrdiff_t>(at))) {
    at += lanes;
  }
  if (at == program.constants.size()) {
    program.constants.insert(program.constants.end(), words.begin(), words.end());
    program.constants.resize(at + lanes);
  }
  Mem mem;
  mem.address = constants_address(program);
  mem.delta[0] = static_cast<std::int32_t>(at);
  return mem;
}

const char* to_string(Op op) {
  static constexpr const char* kNames[] = {"loop",        "end_loop",
                                           "if_equal",    "end_if",
                                           "let",         "comment",
                                           "zero",        "copy",
                                           "load",        "broadcast",
                                           "store",       "stream",
                                           "prefetch",    "fma",
                                           "mul_add",     "dot_bf16",
                                           "dot_u8s8",    "add",
                                           "sub",         "mul",
                                           "div",         "min",
                                           "max",         "bit_and",
                                           "bit_or",      "bit_xor",
                                           "select",      "permute",
                                           "permute2",    "unpack_lo32",
                                           "unpack_hi32", "unpack_lo64",
                                           "unpack_hi64", "madd16",
                                           "shuffle128",  "shift_left",
                                           "shift_right", "shift_right_signed",
                                           "round",       "to_int",
                                           "to_float",    "narrow",
                                           "compare",     "mask_scalar",
                                           "mask_const"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(Op::mask_const) + 1);
  return kNames[static_cast<std::size_t>(op)];
}

}  // namespace convt::program
