// Readable text of a Program, as shown by `convt dump --stage program`.

#include <string>

#include "compiler/program/instruction_info.hpp"
#include "compiler/program/passes.hpp"

namespace convt::program {
namespace {

class Printer {
 public:
  explicit Printer(const Program& program) : program_(program) {}

  std::string run() {
    text_ = "program " + program_.name + "\n";
    for (const Buffer& buffer : program_.buffers) print_buffer(buffer);
    for (const Table& table : program_.tables)
      text_ += "table " + table.name + " " + std::to_string(table.rows()) + " x " +
               std::to_string(table.columns) + "\n";
    for (const Stage& stage : program_.stages) print_stage(stage);
    return std::move(text_);
  }

 private:
  void print_buffer(const Buffer& buffer) {
    text_ += "buffer " + buffer.name + " [";
    for (int a = 0; a < buffer.axes; ++a) {
      const auto axis = static_cast<std::size_t>(a);
      text_ += (a == 0 ? "" : ", ") +
               (a == buffer.batch_axis ? "N" : std::to_string(buffer.extent[axis])) + ":" +
               std::to_string(buffer.stride[axis]);
    }
    text_ += "]\n";
  }

  void print_stage(const Stage& stage) {
    text_ += "stage " + stage.name + ", grid";
    for (const Coordinate& coordinate : stage.grid) {
      const Extent& extent = coordinate.extent;
      const std::string count = extent.batch_block == 0   ? std::to_string(extent.constant)
                                : extent.batch_block == 1 ? "N"
                                                          : "N/" + std::to_string(extent.batch_block);
      text_ += " (" + name(coordinate.scalar) + " " + count + ")";
    }
    text_ += "\n";
    int depth = 1;
    for (const Inst& inst : stage.code) {
      if (closes_block(inst.op)) --depth;
      text_.append(static_cast<std::size_t>(2 * depth), ' ');
      text_ += instruction(inst) + "\n";
      if (opens_block(inst.op)) ++depth;
    }
  }

  std::string name(ScalarId scalar) const {
    return scalar < program_.scalars.size() ? program_.scalars[scalar].name + "." + std::to_string(scalar)
                                            : "?";
  }

  std::string affine(const Affine& value, std::int64_t delta) const {
    std::string text;
    for (const Affine::Term& term : value.terms) {
      const bool negative = term.coefficient < 0;
      const std::int64_t size = negative ? -term.coefficient : term.coefficient;
      text += text.empty() ? (negative ? "-" : "") : (negative ? " - " : " + ");
      if (size != 1) text += std::to_string(size) + "*";
      text += name(term.scalar);
    }
    const std::int64_t constant = value.constant + delta;
    if (text.empty()) return std::to_string(constant);
    if (constant > 0) text += " + " + std::to_string(constant);
    if (constant < 0) text += " - " + std::to_string(-constant);
    return text;
  }

  std::string memory(const Mem& mem) const {
    if (mem.address >= program_.addresses.size()) return "?";
    const Address& address = program_.addresses[mem.address];
    const Buffer& buffer = program_.buffers[address.buffer];
    std::string text = buffer.name + "[";
    for (int a = 0; a < buffer.axes; ++a) {
      const auto axis = static_cast<std::size_t>(a);
      text += (a == 0 ? "" : ", ") + affine(address.index[axis], mem.delta[axis]);
    }
    return text + "]";
  }

  std::string mask(const Inst& inst) const {
    if (inst.mask == kNone) return "";
    return " {" + std::string(masks_are_vectors(program_) ? "v" : "k") + std::to_string(inst.mask) +
           (inst.zero_masked ? ", zero}" : "}");
  }

  std::string structure(const Inst& inst) const;
  std::string instruction(const Inst& inst) const;

  const Program& program_;
  std::string text_;
};

std::string Printer::structure(const Inst& inst) const {
  switch (inst.op) {
    case Op::loop:
      return "loop " + name(inst.scalar) + " in 0.." +
             (inst.trip_scalar == kNone ? std::to_string(inst.imm) : name(inst.trip_scalar));
    case Op::if_equal: return "if " + name(inst.scalar) + " == " + std::to_string(inst.imm);
    case Op::let: {
      const Scalar& scalar = program_.scalars[inst.scalar];
      if (scalar.kind == ScalarKind::batch_count)
        return name(inst.scalar) + " = min(" + std::to_string(scalar.batch_block) + ", N - " +
               std::to_string(scalar.batch_block) + "*" + name(scalar.block) + ")";
      return name(inst.scalar) + " = " + program_.tables[scalar.table].name + "[" +
             affine(scalar.row, 0) + "][" + std::to_string(scalar.column) + "]";
    }
    case Op::comment: return "; " + program_.comments[static_cast<std::size_t>(inst.imm)];
    default: return "end";
  }
}

std::string Printer::instruction(const Inst& inst) const {
  if (is_structure(inst.op)) return structure(inst);
  std::string text = to_string(inst.op);
  std::string separator = " ";
  const auto add = [&](const std::string& operand) {
    text += separator + operand;
    separator = ", ";
  };
  const auto vector = [](Reg reg) { return "v" + std::to_string(reg); };
  if (writes_memory(inst.op) || inst.op == Op::prefetch) add(memory(inst.mem));
  if (writes_mask(inst.op)) {
    add("k" + std::to_string(inst.dst));
  } else if (writes_dst(inst.op)) {
    add(vector(inst.dst));
  }
  if (reads_a(inst.op)) add(vector(inst.a));
  if (reads_b(inst)) add(vector(inst.b));
  if (reads_memory(inst))
    add((inst.b_kind == Operand::broadcast_mem ? "broadcast " : "") + memory(inst.mem));
  if (inst.op == Op::shuffle128 || inst.op == Op::mask_const || inst.op == Op::prefetch)
    add(std::to_string(inst.imm));
  return text + mask(inst);
}

}  // namespace

std::string to_text(const Program& program) { return Printer(program).run(); }

}  // namespace convt::program
