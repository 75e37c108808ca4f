#include "tests/mutation.hpp"

#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "compiler/program/instruction_info.hpp"

namespace convt::test {
namespace {

using namespace program;

class Mutator {
 public:
  Mutator(const Program& program, std::mt19937& random)
      : mutant_{program, ""}, program_(mutant_.program), random_(random) {}

  Mutant run() {
    static constexpr std::array kKinds = {
        &Mutator::change_table,    &Mutator::change_trip,   &Mutator::change_coefficient,
        &Mutator::change_constant, &Mutator::change_delta,  &Mutator::change_mask,
        &Mutator::change_register, &Mutator::change_extent, &Mutator::change_if,
        &Mutator::change_scalar,   &Mutator::drop,          &Mutator::repeat};
    do {
      pick_stage();
    } while (!(this->*kKinds[below(kKinds.size())])());
    return std::move(mutant_);
  }

 private:
  std::size_t below(std::size_t count) {
    return std::uniform_int_distribution<std::size_t>(0, count - 1)(random_);
  }

  void pick_stage() { stage_ = &program_.stages[below(program_.stages.size())]; }

  template <class T>
  bool pick(std::vector<T>& from, T*& picked) {
    if (from.empty()) return false;
    picked = &from[below(from.size())];
    return true;
  }

  /// An instruction for which `fits`, if a few tries find one.
  template <class Fits>
  bool pick_inst(Fits fits) {
    for (int tries = 0; tries < 50 && !stage_->code.empty(); ++tries) {
      at_ = below(stage_->code.size());
      if (fits(stage_->code[at_])) return true;
    }
    return false;
  }
  Inst& inst() { return stage_->code[at_]; }

  /// Another value near the old one: defects are off by one, or by a vector.
  template <class T>
  bool move(T& value, const std::string& what) {
    static constexpr std::array<std::int64_t, 9> kSteps = {1, -1, 1, -1, 2, -2, 8, 16, -16};
    const auto old = static_cast<std::int64_t>(value);
    value = static_cast<T>(old + kSteps[below(kSteps.size())]);
    return say(what + " from " + std::to_string(old) + " to " +
               std::to_string(static_cast<std::int64_t>(value)));
  }
  bool say(const std::string& what) {
    mutant_.what = what;
    return true;
  }
  [[nodiscard]] std::string place() const {
    return "stage " + stage_->name + ", instruction " + std::to_string(at_) + " (" +
           to_string(stage_->code[at_].op) + "): ";
  }

  bool change_table() {
    Table* table = nullptr;
    std::int32_t* value = nullptr;
    if (!pick(program_.tables, table) || !pick(table->values, value)) return false;
    return move(*value,
                "table " + table->name + ", value " + std::to_string(value - table->values.data()));
  }

  bool change_trip() {
    const auto fits = [](const Inst& i) { return i.op == Op::loop && i.trip_scalar == kNone; };
    return pick_inst(fits) && move(inst().imm, place() + "trip");
  }

  /// An index of an address, or the row of a let.
  Affine& pick_affine() {
    const std::size_t scalar = below(program_.scalars.size());
    if (below(4) == 0 && program_.scalars[scalar].kind == ScalarKind::let) {
      affine_name_ = "row of " + program_.scalars[scalar].name;
      return program_.scalars[scalar].row;
    }
    const std::size_t id = below(program_.addresses.size());
    Address& address = program_.addresses[id];
    const std::size_t axis = below(static_cast<std::size_t>(program_.buffers[address.buffer].axes));
    affine_name_ = "axis " + std::to_string(axis) + " of address " + std::to_string(id) + " (" +
                   program_.buffers[address.buffer].name + ")";
    return address.index[axis];
  }

  bool change_coefficient() {
    if (program_.addresses.empty()) return false;
    Affine& affine = pick_affine();
    Affine::Term* term = nullptr;
    if (!pick(affine.terms, term)) return false;
    return move(term->coefficient,
                affine_name_ + ": coefficient of " + program_.scalars[term->scalar].name);
  }

  bool change_constant() {
    if (program_.addresses.empty()) return false;
    Affine& affine = pick_affine();
    return move(affine.constant, affine_name_ + ": constant");
  }

  bool change_delta() {
    if (!pick_inst(has_memory)) return false;
    Mem& mem = inst().mem;
    const Buffer& buffer = program_.buffers[program_.addresses[mem.address].buffer];
    const std::size_t axis = below(static_cast<std::size_t>(buffer.axes));
    return move(mem.delta[axis],
                place() + "delta on axis " + std::to_string(axis) + " of " + buffer.name);
  }

  bool change_mask() {
    if (!pick_inst([](const Inst& i) { return i.op == Op::mask_const || i.mask != kNone; })) {
      return false;
    }
    if (inst().op != Op::mask_const) {
      inst().mask = inst().op == Op::select ? inst().mask : kNone;
      return say(place() + "mask left out");
    }
    inst().imm ^= std::int64_t{1} << below(static_cast<std::size_t>(program_.lanes) + 1);
    return say(place() + "mask is " + std::to_string(inst().imm));
  }

  bool change_register() {
    std::vector<Reg*> registers;
    const auto fits = [](const Inst& i) { return !is_structure(i.op) && i.op != Op::prefetch; };
    if (!pick_inst(fits)) return false;
    for_each_register(inst(), [&](Reg& reg, bool) { registers.push_back(&reg); });
    Reg** reg = nullptr;
    if (!pick(registers, reg)) return false;
    const Reg old = **reg;
    const int count = program_.allocated ? program_.vector_registers : program_.vreg_count;
    **reg = static_cast<Reg>(below(static_cast<std::size_t>(count) + 1));
    return say(place() + "register " + std::to_string(old) + " is now " + std::to_string(**reg));
  }

  bool change_extent() {
    Coordinate* coordinate = nullptr;
    if (!pick(stage_->grid, coordinate)) return false;
    const std::string what = "extent of " + program_.scalars[coordinate->scalar].name;
    if (coordinate->extent.batch_block == 0) return move(coordinate->extent.constant, what);
    coordinate->extent.batch_block = coordinate->extent.batch_block == 1 ? 2 : 1;
    return say(what + ": another batch block");
  }

  bool change_if() {
    return pick_inst([](const Inst& i) { return i.op == Op::if_equal; }) &&
           move(inst().imm, place() + "value");
  }

  /// A trip, a condition, or a term of an index names another scalar.
  bool change_scalar() {
    const auto other = static_cast<ScalarId>(below(program_.scalars.size()));
    const std::string what = "is now " + program_.scalars[other].name;
    if (pick_inst([](const Inst& i) { return i.op == Op::if_equal || i.trip_scalar != kNone; })) {
      (inst().op == Op::if_equal ? inst().scalar : inst().trip_scalar) = other;
      return say(place() + "scalar " + what);
    }
    return false;
  }

  /// Not brackets: without its partner one is refused at once, which teaches nothing.
  static bool stands_alone(const Inst& i) {
    return !opens_block(i.op) && !closes_block(i.op) && i.op != Op::comment;
  }

  bool drop() {
    if (!pick_inst(stands_alone)) return false;
    say(place() + "left out");
    stage_->code.erase(stage_->code.begin() + static_cast<std::ptrdiff_t>(at_));
    shift_matches(-1);
    return true;
  }

  bool repeat() {
    if (!pick_inst(stands_alone)) return false;
    say(place() + "doubled");
    stage_->code.insert(stage_->code.begin() + static_cast<std::ptrdiff_t>(at_), Inst(inst()));
    shift_matches(1);
    return true;
  }

  void shift_matches(std::int32_t by) {
    for (Inst& other : stage_->code) {
      if (other.match >= static_cast<std::int32_t>(at_)) other.match += by;
    }
  }

  Mutant mutant_;
  Program& program_;
  std::mt19937& random_;
  Stage* stage_ = nullptr;
  std::size_t at_ = 0;
  std::string affine_name_;
};

}  // namespace

Mutant mutate(const Program& program, std::mt19937& random) {
  return Mutator(program, random).run();
}

}  // namespace convt::test
