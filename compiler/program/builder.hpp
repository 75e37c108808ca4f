// Builder: the only way lowerings write a Program. Keeps ids, interning and nesting right.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "compiler/program/program.hpp"

namespace convt::program {

class Builder {
 public:
  Builder(std::string name, int lanes, int vector_registers, int mask_registers);

  /// Only declarations and grids matter: lowerings may leave out the bodies of their stages.
  void declare_only() { declares_only_ = true; }
  [[nodiscard]] bool declares_only() const { return declares_only_; }

  // Declarations.
  BufferId buffer(Buffer buffer);
  TableId table(std::string name, std::uint16_t columns, std::vector<std::int32_t> values,
                bool dynamic = false);
  /// Further rows of a table; the first one's number.
  std::int64_t append(TableId table, std::span<const std::int32_t> values);
  /// A vector constant: `lanes` 32-bit words in the constant block. Equal constants are shared.
  /// As a broadcast operand it is its first word.
  Mem constant(std::span<const std::uint32_t> words);

  // Stages.
  void begin_stage(std::string name);
  ScalarId coordinate(std::string name, Extent extent);
  void end_stage();

  // Structure.
  ScalarId begin_loop(std::string name, std::int64_t trip);
  ScalarId begin_loop(std::string name, ScalarId trip);
  ScalarId begin_loop(std::string name, int trip) {
    return begin_loop(std::move(name), std::int64_t{trip});
  }
  void end_loop();
  void begin_if_equal(ScalarId scalar, std::int64_t value);
  void end_if();
  ScalarId let(std::string name, TableId table, Affine row, std::uint16_t column);
  ScalarId let_batch_count(std::string name, ScalarId block, std::int64_t batch_block);
  void comment(std::string text);

  // Memory operands. Equal addresses get the same id. A Program has at most 65,535 of them; past
  // that the id is kNone, which the verifier refuses.
  AddressId address(BufferId buffer, std::initializer_list<Affine> index);
  AddressId address(BufferId buffer, std::span<const Affine> index);

  // Registers.
  Reg vector() { return program_.vreg_count < kNone ? program_.vreg_count++ : kNone; }
  Reg mask(std::uint64_t bits);  ///< a fresh mask register, set to `bits` here
  Reg mask_of(ScalarId let);     ///< the same, set to the low bits of a let

  // Instructions. `m` is a mask register or kNone.
  void zero(Reg d);
  void copy(Reg d, Reg a);
  /// Loads and stores convert as the buffer's type says (see Type). `type` only matters to buffers
  /// of constants, which are of words.
  void load(Reg d, const Mem& mem, Reg m = kNone, Type type = Type::f32);
  void broadcast(Reg d, const Mem& mem);
  void store(const Mem& mem, Reg a, Reg m = kNone);
  void store_first(const Mem& mem, Reg a, int count);  ///< 1, 2, 4 or 8 lanes
  void stream(const Mem& mem, Reg a);
  void prefetch(const Mem& mem, int level);
  void fma(Reg d, Reg a, Reg b, Reg m = kNone);
  void fma(Reg d, Reg a, const Mem& b, Operand kind, Reg m = kNone);
  void binary(Op op, Reg d, Reg a, Reg b, Reg m = kNone);
  void binary(Op op, Reg d, Reg a, const Mem& b, Operand kind, Reg m = kNone);
  void mul_add(Reg d, Reg a, Reg b, Reg m = kNone);
  void mul_add(Reg d, Reg a, const Mem& b, Operand kind, Reg m = kNone);
  /// add, sub, min or max of i32.
  void integer(Op op, Reg d, Reg a, Reg b, Reg m = kNone);
  void integer(Op op, Reg d, Reg a, const Mem& b, Operand kind, Reg m = kNone);
  /// Shifts (imm), round, to_int, to_float.
  void unary(Op op, Reg d, Reg a, int imm = 0, Reg m = kNone);
  void narrow(Reg d, Reg a, Type type);  ///< d is packed: what a store to such elements takes
  Reg compare(Compare predicate, Reg a, Reg b);  ///< a fresh mask register
  void select(Reg d, Reg m, Reg a, Reg b);
  void permute(Reg d, Reg a, Reg index, Reg m = kNone, bool zero_masked = false);
  void permute(Reg d, Reg a, const Mem& index, Reg m = kNone, bool zero_masked = false);
  void permute2(Reg d, Reg a, Reg index);
  void shuffle128(Reg d, Reg a, Reg b, int imm);

  /// What has been written so far.
  [[nodiscard]] const Program& program() const { return program_; }

  Program finish();

 private:
  Inst& emit(Op op);
  [[nodiscard]] Type memory_type(const Mem& mem) const;
  Inst& emit_binary(Op op, Reg d, Reg a, Reg m);
  void open_block(Inst& begin);
  void close_block(Op op);
  ScalarId scalar(ScalarKind kind, std::string name);
  Stage& stage() { return program_.stages.back(); }
  AddressId intern(Address address);
  void grow_slots();

  Program program_;
  bool declares_only_ = false;
  std::vector<std::int32_t> open_;  ///< indices of open loops and ifs
  std::vector<AddressId> slots_;    ///< open-addressing hash set of addresses; kNone: free
};

}  // namespace convt::program
