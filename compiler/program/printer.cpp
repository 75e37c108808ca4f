// Printer: a Program as text, one instruction a line. Notation:
//     src[n, ic, row - kh + 1, 0:16]   lanes along the last axis; without `:16` one element
//     v0 += v1 * src[...] {k1}         masked: other lanes keep v0; {k1, zero}: they become 0
//     row.7                            scalar 7, where several are called row
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "compiler/program/instruction_info.hpp"
#include "compiler/program/passes.hpp"

namespace convt::program {
namespace {

std::string decimal(std::int64_t value) { return std::to_string(value); }

std::string hexadecimal(std::uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

const char* to_string(BufferKind kind) {
  static constexpr const char* kNames[] = {
      "src",        "weights",          "bias",       "dst",
      "workspace",  "staged_src",       "staged_dst", "residual",
      "parameters", "input_parameters", "constants"};
  return kNames[static_cast<std::size_t>(kind)];
}

const char* to_string(Type type) {
  static constexpr const char* kNames[] = {"f32", "i32", "f16", "bf16", "s8", "u8", "u16"};
  return kNames[static_cast<std::size_t>(type)];
}

class Printer {
 public:
  explicit Printer(const Program& program) : program_(program) {
    std::map<std::string, int> uses;
    for (const Scalar& scalar : program.scalars) ++uses[scalar.name];
    for (std::size_t id = 0; id < program.scalars.size(); ++id) {
      const std::string& name = program.scalars[id].name;
      names_.push_back(uses[name] == 1 && !name.empty() ? name : name + "." + std::to_string(id));
    }
  }

  std::string print() {
    line("program " + program_.name + ": " + decimal(program_.lanes) + " lanes, " +
         decimal(program_.vector_registers) + " vector and " + decimal(program_.mask_registers) +
         " mask registers" + (program_.allocated ? "" : ", not allocated"));
    for (const Buffer& buffer : program_.buffers) print_buffer(buffer);
    for (const Table& table : program_.tables) print_table(table);
    print_constants();
    for (const Stage& stage : program_.stages) print_stage(stage);
    return std::move(text_);
  }

 private:
  void line(const std::string& text) {
    text_.append(static_cast<std::size_t>(2 * depth_), ' ');
    text_ += text;
    text_ += '\n';
  }

  // -- Declarations.

  void print_buffer(const Buffer& buffer) {
    std::string extents, strides;
    for (int a = 0; a < buffer.axes; ++a) {
      const auto axis = static_cast<std::size_t>(a);
      const char* comma = a == 0 ? "" : ", ";
      extents += comma + (a == buffer.batch_axis ? "N" : decimal(buffer.extent[axis]));
      strides += comma + decimal(buffer.stride[axis]);
    }
    line("buffer " + buffer.name + " [" + extents + "] strides [" + strides + "] " +
         to_string(buffer.kind) + " " + to_string(buffer.type));
  }

  void print_table(const Table& table) {
    constexpr std::int64_t kRowsPerLine = 8;
    line("table " + table.name + ", " + decimal(table.rows()) + " rows");
    for (std::int64_t r = 0; r < table.rows(); r += kRowsPerLine) {
      std::string rows = "  " + decimal(r) + ":";
      const std::int64_t end = std::min(r + kRowsPerLine, table.rows());
      for (std::int64_t row = r; row < end; ++row) rows += " " + table_row(table, row);
      line(rows);
    }
  }

  static std::string table_row(const Table& table, std::int64_t row) {
    std::string text;
    for (std::int64_t c = 0; c < table.columns; ++c) {
      const auto at = static_cast<std::size_t>(row * table.columns + c);
      text += (c == 0 ? "(" : " ") + std::to_string(table.values[at]);
    }
    return text + ")";
  }

  void print_constants() {
    const auto lanes = static_cast<std::size_t>(program_.lanes);
    for (std::size_t at = 0; at < program_.constants.size(); at += lanes) {
      std::string words;
      for (std::size_t i = at; i < std::min(at + lanes, program_.constants.size()); ++i) {
        words += " " + hexadecimal(program_.constants[i]);
      }
      line("constants " + std::to_string(at) + ":" + words);
    }
  }

  // -- Stages.

  void print_stage(const Stage& stage) {
    std::string grid;
    for (const Coordinate& coordinate : stage.grid) {
      grid += " (" + name(coordinate.scalar) + " " + extent(coordinate.extent) + ")";
    }
    line("stage " + stage.name + ", grid" + grid);
    depth_ = 1;
    for (const Inst& inst : stage.code) {
      if (closes_block(inst.op) && depth_ > 1) --depth_;
      line(instruction(inst) + mask(inst));
      if (opens_block(inst.op)) ++depth_;
    }
    depth_ = 0;
  }

  static std::string extent(const Extent& extent) {
    if (extent.batch_block == 0) return decimal(extent.constant);
    return extent.batch_block == 1 ? "N" : "ceil(N/" + decimal(extent.batch_block) + ")";
  }

  // -- Operands. Ids that name nothing print as "?": a Program that is to be refused must still
  // print.

  [[nodiscard]] std::string name(ScalarId id) const {
    return id < names_.size() ? names_[id] : "?";
  }

  [[nodiscard]] std::string affine(const Affine& value, std::int64_t delta) const {
    std::string text;
    const auto add = [&text](bool negative, const std::string& term) {
      text += text.empty() ? (negative ? "-" : "") : (negative ? " - " : " + ");
      text += term;
    };
    for (const Affine::Term& term : value.terms) {
      const bool negative = term.coefficient < 0;
      const std::int64_t size = negative ? -term.coefficient : term.coefficient;
      add(negative, (size == 1 ? "" : decimal(size) + "*") + name(term.scalar));
    }
    const std::int64_t constant = value.constant + delta;
    if (constant < 0) add(true, decimal(-constant));
    if (constant > 0 || text.empty()) add(false, decimal(constant));
    return text;
  }

  [[nodiscard]] std::string memory(const Inst& inst) const {
    const Mem& mem = inst.mem;
    if (mem.address >= program_.addresses.size()) return "?";
    const Address& address = program_.addresses[mem.address];
    if (address.buffer >= program_.buffers.size()) return "?";
    const Buffer& buffer = program_.buffers[address.buffer];
    std::string text = buffer.name + "[";
    for (std::size_t axis = 0; axis < static_cast<std::size_t>(buffer.axes); ++axis) {
      text += axis == 0 ? "" : ", ";
      text += affine(address.index[axis], mem.delta[axis]);
      if (axis == mem.lane_axis && !is_element_access(inst)) text += ":" + decimal(program_.lanes);
    }
    return text + "]";
  }

  static std::string vector(Reg reg) { return reg == kNone ? "?" : "v" + std::to_string(reg); }

  [[nodiscard]] std::string mask_register(Reg reg) const {
    return (masks_are_vectors(program_) ? "v" : "k") + std::to_string(reg);
  }

  [[nodiscard]] std::string mask(const Inst& inst) const {
    if (inst.mask == kNone || is_structure(inst.op) || inst.op == Op::select) return "";
    const bool zero = inst.zero_masked || inst.op == Op::load;
    return " {" + mask_register(inst.mask) + (zero ? ", zero}" : "}");
  }

  [[nodiscard]] std::string operand_b(const Inst& inst) const {
    return inst.b_kind == Operand::reg    ? vector(inst.b)
           : inst.b_kind == Operand::none ? "?"
                                          : memory(inst);
  }

  // -- Instructions.

  [[nodiscard]] std::string instruction(const Inst& inst) const {
    if (is_structure(inst.op)) return structure(inst);
    const std::string d = vector(inst.dst) + " = ";
    switch (inst.op) {
      case Op::zero:
        return d + "0";
      case Op::copy:
        return d + vector(inst.a);
      case Op::load:
        return d + memory(inst);
      case Op::broadcast:
        return d + "broadcast " + memory(inst);
      case Op::store:
        return memory(inst) + (inst.imm == 0 ? "" : " first " + decimal(inst.imm)) + " = " +
               vector(inst.a);
      case Op::stream:
        return "stream " + memory(inst) + " = " + vector(inst.a);
      case Op::prefetch:
        return "prefetch L" + decimal(inst.imm) + " " + memory(inst);
      case Op::mask_const:
        return mask_register(inst.dst) + " = " + hexadecimal(static_cast<std::uint64_t>(inst.imm));
      case Op::mask_scalar:
        return mask_register(inst.dst) + " = bits of " + name(inst.scalar);
      case Op::compare:
        return mask_register(inst.dst) + " = " + comparison(inst);
      default:
        return is_unary(inst.op) ? d + unary(inst) : computation(inst, d);
    }
  }

  [[nodiscard]] static std::string comparison(const Inst& inst) {
    static constexpr const char* kNames[] = {" < ", " <= ", " == ", " unordered "};
    const bool known = inst.imm >= 0 && inst.imm < static_cast<std::int64_t>(std::size(kNames));
    return vector(inst.a) + (known ? kNames[inst.imm] : " ? ") + vector(inst.b);
  }

  [[nodiscard]] static std::string unary(const Inst& inst) {
    const std::string a = vector(inst.a);
    switch (inst.op) {
      case Op::shift_left:
        return a + " << " + decimal(inst.imm);
      case Op::shift_right:
        return a + " >> " + decimal(inst.imm);
      case Op::shift_right_signed:
        return "i32 " + a + " >> " + decimal(inst.imm);
      case Op::narrow:
        return "narrow " + a + " to " + to_string(inst.type) +
               (inst.imm == 0               ? ""
                : inst.imm == kNarrowNative ? " (native)"
                                            : " (low halves)");
      default:
        return std::string(program::to_string(inst.op)) + " " + a;
    }
  }

  [[nodiscard]] std::string computation(const Inst& inst, std::string d) const {
    const std::string a = vector(inst.a), b = operand_b(inst);
    if (is_arithmetic(inst.op) && inst.type == Type::i32) d += "i32 ";
    switch (inst.op) {
      case Op::dot_bf16:
        return vector(inst.dst) + " += bf16 dot " + a + ", " + b;
      case Op::dot_u8s8:
        return vector(inst.dst) + " += u8s8 dot " + a + ", " + b;
      case Op::mul_add:
        return d + vector(inst.dst) + " * " + a + " + " + b;
      case Op::div:
        return d + a + " / " + b;
      case Op::bit_and:
        return d + a + " & " + b;
      case Op::bit_or:
        return d + a + " | " + b;
      case Op::bit_xor:
        return d + a + " ^ " + b;
      case Op::fma:
        return vector(inst.dst) + " += " + a + " * " + b;
      case Op::add:
        return d + a + " + " + b;
      case Op::sub:
        return d + a + " - " + b;
      case Op::mul:
        return d + a + " * " + b;
      case Op::select:
        return d + mask_register(inst.mask) + " ? " + a + " : " + b;
      case Op::permute:
        return d + "permute " + a + " by " + b;
      case Op::permute2:
        return d + "permute2 " + vector(inst.dst) + ", " + a + " by " + b;
      case Op::shuffle128:
        return d + "shuffle128 " + a + ", " + b + ", " +
               hexadecimal(static_cast<std::uint64_t>(inst.imm));
      default:
        return d + program::to_string(inst.op) + " " + a + ", " + b;
    }
  }

  [[nodiscard]] std::string structure(const Inst& inst) const {
    switch (inst.op) {
      case Op::loop:
        return "loop " + name(inst.scalar) + " in 0.." +
               (inst.trip_scalar == kNone ? decimal(inst.imm) : name(inst.trip_scalar));
      case Op::if_equal:
        return "if " + name(inst.scalar) + " == " + decimal(inst.imm);
      case Op::let:
        return name(inst.scalar) + " = " + definition(inst.scalar);
      case Op::comment: {
        const auto id = static_cast<std::size_t>(inst.imm);
        return "; " + (id < program_.comments.size() ? program_.comments[id] : "?");
      }
      default:
        return "end";
    }
  }

  [[nodiscard]] std::string definition(ScalarId id) const {
    if (id >= program_.scalars.size()) return "?";
    const Scalar& scalar = program_.scalars[id];
    if (scalar.kind == ScalarKind::batch_count) {
      const std::string block = decimal(scalar.batch_block);
      return "min(" + block + ", N - " + block + "*" + name(scalar.block) + ")";
    }
    const bool exists = scalar.table < program_.tables.size();
    return (exists ? program_.tables[scalar.table].name : "?") + "[" + affine(scalar.row, 0) +
           "][" + std::to_string(scalar.column) + "]";
  }

  const Program& program_;
  std::vector<std::string> names_;  ///< of scalars
  std::string text_;
  int depth_ = 0;
};

}  // namespace

std::string to_text(const Program& program) { return Printer(program).print(); }

}  // namespace convt::program
