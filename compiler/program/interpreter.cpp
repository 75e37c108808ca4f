#include "compiler/program/interpreter.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "compiler/program/instruction_info.hpp"
#include "compiler/target/float_formats.hpp"

namespace convt::program {
namespace {

// One vector register. Words are raw bits; arithmetic reads them as float.
template <int L>
struct alignas(64) Lanes {
  std::array<std::uint32_t, L> word;
};
template <int L>
using Floats = std::array<float, L>;

template <int L>
Floats<L> floats(const Lanes<L>& v) {
  return std::bit_cast<Floats<L>>(v.word);
}
template <int L>
Lanes<L> lanes(const Floats<L>& v) {
  return {std::bit_cast<std::array<std::uint32_t, L>>(v)};
}

// a * b + d, rounded once, whatever this file is compiled for: std::fma is a slow but exact library
// call where the compiler may not assume the instruction.

template <int L>
void fma_portable(const Floats<L>& a, const Floats<L>& b, Floats<L>& d) {
  for (std::size_t l = 0; l < L; ++l) d[l] = std::fma(a[l], b[l], d[l]);
}

template <int L>
using FmaFunction = void (*)(const Floats<L>&, const Floats<L>&, Floats<L>&);

#if defined(__x86_64__)

template <int L>
__attribute__((target("avx2,fma"))) void fma_instruction(const Floats<L>& a, const Floats<L>& b,
                                                         Floats<L>& d) {
  Floats<L> sum;
  for (std::size_t l = 0; l < L; ++l) sum[l] = __builtin_fmaf(a[l], b[l], d[l]);
  d = sum;
}

template <int L>
FmaFunction<L> choose_fma() {
  const bool has_fma = __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2");
  return has_fma ? fma_instruction<L> : fma_portable<L>;
}

#else

template <int L>
FmaFunction<L> choose_fma() {
  return fma_portable<L>;
}

#endif

/// Ties to even, whatever the rounding mode.
float nearest_integer(float value) {
  if (!(std::fabs(value) < 0x1p23f)) return value;  // it is one, or infinite, or NaN
  const auto towards_zero = static_cast<std::int32_t>(value);
  auto result = static_cast<float>(towards_zero);
  const float rest = std::fabs(value - result);
  const bool away = rest > 0.5f || (rest == 0.5f && (towards_zero & 1) != 0);
  if (away) result += std::copysign(1.0f, value);
  return std::copysign(result, value);
}

std::int32_t nearest_int(float value) {
  const float nearest = nearest_integer(value);
  const bool fits = nearest >= -0x1p31f && nearest < 0x1p31f;
  return fits ? static_cast<std::int32_t>(nearest) : std::numeric_limits<std::int32_t>::min();
}

template <class Element>
Element read_element(const std::byte* from) {
  Element element;
  std::memcpy(&element, from, sizeof element);
  return element;
}

/// The lane that an element in memory becomes.
std::uint32_t widened(Type type, const std::byte* from) {
  switch (type) {
    case Type::f32:
    case Type::i32:
      return read_element<std::uint32_t>(from);
    case Type::f16:
      return f16_to_f32(read_element<std::uint16_t>(from));
    case Type::bf16:
      return bf16_to_f32(read_element<std::uint16_t>(from));
    case Type::u16:
      return read_element<std::uint16_t>(from);
    case Type::u8:
      return read_element<std::uint8_t>(from);
    case Type::s8:
      return static_cast<std::uint32_t>(std::int32_t{read_element<std::int8_t>(from)});
  }
  return 0;
}

/// The element that `narrow` makes of a lane, in the low bits.
std::uint32_t narrowed(const Inst& inst, std::uint32_t lane) {
  switch (inst.type) {
    case Type::f16:
      return f32_to_f16(lane);
    case Type::bf16:
      return inst.imm == kNarrowNative      ? f32_to_bf16_native(lane)
             : inst.imm == kNarrowLowHalves ? lane
                                            : f32_to_bf16(lane);
    case Type::u8:
      return std::min<std::uint32_t>(lane, 255);
    case Type::s8:
      return static_cast<std::uint32_t>(
          std::clamp<std::int32_t>(static_cast<std::int32_t>(lane), -128, 127));
    default:
      return lane;
  }
}

std::uint32_t product_of_halves(std::uint32_t a, std::uint32_t b) {
  const std::int32_t x = static_cast<std::int16_t>(a), y = static_cast<std::int16_t>(b);
  return static_cast<std::uint32_t>(x * y);
}

std::uint32_t dot_u8s8(std::uint32_t a, std::uint32_t b, std::uint32_t d) {
  for (int shift = 0; shift < 32; shift += 8) {
    const std::int32_t x = static_cast<std::uint8_t>(a >> shift);
    const std::int32_t y = static_cast<std::int8_t>(b >> shift);
    d += static_cast<std::uint32_t>(x * y);
  }
  return d;
}

/// Of the active lanes, at least one.
int first_lane(std::uint64_t active) { return std::countr_zero(active); }
int last_lane(std::uint64_t active) { return 63 - std::countl_zero(active); }

Error defect(std::string message) { return {ErrorCode::internal, std::move(message)}; }

// ---- Checks before anything runs: every id in range and blocks nested, so that execution may
// index without looking. (That programs are *right* is the verifier's business; this one must
// merely be safe to run even on what the verifier would refuse.)

class Checker {
 public:
  Checker(const Program& program, const Stage& stage) : program_(program), stage_(stage) {}

  /// Empty when the stage can be executed.
  std::string check() {
    if (program_.lanes != 4 && program_.lanes != 8 && program_.lanes != 16) {
      return "lanes are none of 4, 8, 16";
    }
    if (std::string why = check_declarations(); !why.empty()) return why;
    for (std::size_t i = 0; i < stage_.code.size(); ++i) {
      const char* why = check_inst(static_cast<std::int32_t>(i), stage_.code[i]);
      if (why != nullptr) return where(i) + why;
    }
    return open_.empty() ? "" : "a block is not closed";
  }

 private:
  [[nodiscard]] std::string where(std::size_t i) const {
    return "instruction " + std::to_string(i) + " (" + to_string(stage_.code[i].op) + "): ";
  }

  [[nodiscard]] bool is_scalar(ScalarId id) const { return id < program_.scalars.size(); }
  [[nodiscard]] bool is_affine(const Affine& affine) const {
    return std::all_of(affine.terms.begin(), affine.terms.end(),
                       [this](const Affine::Term& term) { return is_scalar(term.scalar); });
  }

  [[nodiscard]] std::string check_declarations() const {
    for (const Coordinate& coordinate : stage_.grid) {
      if (!is_scalar(coordinate.scalar)) return "a coordinate names no scalar";
    }
    for (const Buffer& buffer : program_.buffers) {
      if (buffer.axes < 1 || buffer.axes > kMaxAxes) return buffer.name + ": number of axes";
    }
    for (const Address& address : program_.addresses) {
      if (address.buffer >= program_.buffers.size()) return "an address names no buffer";
      for (const Affine& index : address.index) {
        if (!is_affine(index)) return "an address names no scalar";
      }
    }
    return "";
  }

  const char* check_inst(std::int32_t i, const Inst& inst) {
    if (opens_block(inst.op)) return check_open(i, inst);
    if (closes_block(inst.op)) return check_close(i, inst);
    if (inst.op == Op::let) return check_let(inst);
    if (inst.op == Op::comment) return nullptr;
    if (const char* why = check_form(inst)) return why;
    if (const char* why = check_registers(inst)) return why;
    return has_memory(inst) ? check_memory(inst) : nullptr;
  }

  [[nodiscard]] const char* check_form(const Inst& inst) const {
    if (inst.op == Op::mask_const && masks_are_vectors(program_)) return "masks are vectors here";
    if (inst.op == Op::mask_scalar && !is_scalar(inst.scalar)) return "no such scalar";
    if (inst.op == Op::select && inst.mask == kNone) return "it needs a mask";
    if (inst.op == Op::shuffle128 && program_.lanes < 8) return "a vector is one block";
    if (inst.mask != kNone && !may_be_masked(inst.op)) return "it cannot have a mask";
    if (!type_fits(inst)) return "it cannot have this type";
    if (!immediate_fits(inst)) return "its immediate is out of range";
    return operand_fits(inst) ? nullptr : "it cannot have this kind of second operand";
  }

  const char* check_open(std::int32_t i, const Inst& inst) {
    if (!is_scalar(inst.scalar)) return "no such scalar";
    if (inst.op == Op::loop) {
      if (inst.trip_scalar != kNone && !is_scalar(inst.trip_scalar)) return "no such trip scalar";
      if (program_.scalars[inst.scalar].kind != ScalarKind::loop) return "counter is no counter";
      for (const std::int32_t outer : open_) {
        const Inst& begin = stage_.code[static_cast<std::size_t>(outer)];
        if (begin.op == Op::loop && begin.scalar == inst.scalar) return "counter is in use";
      }
    }
    open_.push_back(i);
    return nullptr;
  }

  const char* check_close(std::int32_t i, const Inst& inst) {
    if (open_.empty()) return "nothing is open";
    const Inst& begin = stage_.code[static_cast<std::size_t>(open_.back())];
    const Op opened_by = inst.op == Op::end_loop ? Op::loop : Op::if_equal;
    if (begin.op != opened_by || begin.match != i || inst.match != open_.back()) return "match";
    open_.pop_back();
    return nullptr;
  }

  [[nodiscard]] const char* check_let(const Inst& inst) const {
    if (!is_scalar(inst.scalar)) return "no such scalar";
    const Scalar& scalar = program_.scalars[inst.scalar];
    if (scalar.kind == ScalarKind::batch_count) {
      return is_scalar(scalar.block) ? nullptr : "no such block scalar";
    }
    if (scalar.kind != ScalarKind::let) return "scalar is not of kind let";
    if (scalar.table >= program_.tables.size()) return "no such table";
    if (scalar.column >= program_.tables[scalar.table].columns) return "no such column";
    return is_affine(scalar.row) ? nullptr : "row names no scalar";
  }

  static const char* check_registers(const Inst& inst) {
    const char* why = nullptr;
    for_each_read(inst, [&why](Reg reg, bool) { why = reg == kNone ? "operand missing" : why; });
    for_each_write(inst, [&why](Reg reg, bool) { why = reg == kNone ? "no destination" : why; });
    return why;
  }

  [[nodiscard]] const char* check_memory(const Inst& inst) const {
    if (inst.mem.address >= program_.addresses.size()) return "no such address";
    const Buffer& buffer = program_.buffers[program_.addresses[inst.mem.address].buffer];
    if (!memory_fits(inst, buffer.type)) return "it cannot access elements of this type";
    if (is_element_access(inst)) return nullptr;
    if (inst.mem.lane_axis >= buffer.axes) return "no such lane axis";
    return buffer.stride[inst.mem.lane_axis] == 1 ? nullptr : "lanes are not of stride 1";
  }

  const Program& program_;
  const Stage& stage_;
  std::vector<std::int32_t> open_;
};

// ---- Execution.

/// A buffer with its pointers and this call's extents.
struct View {
  const std::byte* read = nullptr;
  std::byte* write = nullptr;  ///< null: an input
  std::array<std::int64_t, kMaxAxes> extent{};
};

/// An Address evaluated; valid while no scalar has changed since.
struct Evaluated {
  std::uint64_t version = 0;
  std::array<std::int64_t, kMaxAxes> index{};
};

/// Numbers of registers that a stage names, plus one.
struct RegisterCounts {
  std::size_t vectors = 0;
  std::size_t masks = 0;
};

RegisterCounts count_registers(const Program& program, const Stage& stage) {
  RegisterCounts counts;
  const bool vector_masks = masks_are_vectors(program);
  const auto see = [&](Reg reg, bool is_mask) {
    std::size_t& count = is_mask && !vector_masks ? counts.masks : counts.vectors;
    count = std::max<std::size_t>(count, reg + 1u);
  };
  for (const Inst& inst : stage.code) {
    for_each_read(inst, see);
    for_each_write(inst, see);
  }
  return counts;
}

template <int L>
class Machine {
 public:
  Machine(const Program& program, const Stage& stage, const Args& args)
      : program_(program), stage_(stage), args_(args), fma_(choose_fma<L>()) {
    const RegisterCounts counts = count_registers(program, stage);
    vectors_.resize(counts.vectors);
    vector_defined_.resize(counts.vectors);
    masks_.resize(counts.masks);
    mask_defined_.resize(counts.masks);
    scalars_.resize(program.scalars.size());
    scalar_defined_.resize(program.scalars.size());
    limits_.resize(stage.code.size());
    evaluated_.resize(program.addresses.size());
    vector_masks_ = masks_are_vectors(program);
    for (const Buffer& buffer : program.buffers) views_.push_back(make_view(buffer));
  }

  Status run(std::int64_t begin, std::int64_t end) {
    for (item_ = begin; item_ < end; ++item_) {
      begin_item();
      for (pc_ = 0; pc_ < stage_.code.size() && !error_; ++pc_) step(stage_.code[pc_]);
      if (error_) return *std::move(error_);
    }
    return ok_status();
  }

 private:
  using Vector = Lanes<L>;
  static constexpr std::uint64_t kAllLanes = (std::uint64_t{1} << L) - 1;

  // -- Set-up.

  View make_view(const Buffer& buffer) {
    View view;
    view.extent = buffer.extent;
    if (buffer.batch_axis >= 0 && buffer.batch_axis < kMaxAxes) {
      view.extent[static_cast<std::size_t>(buffer.batch_axis)] = args_.batch;
    }
    const void* read = nullptr;
    switch (buffer.kind) {
      case BufferKind::src:
        read = args_.src;
        break;
      case BufferKind::weights:
        read = args_.weights;
        break;
      case BufferKind::bias:
        read = args_.bias;
        break;
      case BufferKind::residual:
        read = args_.residual;
        break;
      case BufferKind::parameters:
        read = args_.parameters;
        break;
      case BufferKind::input_parameters:
        read = args_.input_parameters;
        break;
      case BufferKind::constants:
        read = program_.constants.data();
        break;
      case BufferKind::dst:
        view.write = static_cast<std::byte*>(args_.dst);
        break;
      case BufferKind::workspace:
        view.write = static_cast<std::byte*>(args_.workspace);
        break;
      case BufferKind::staged_src:
        view.write = static_cast<std::byte*>(args_.staged_src);
        break;
      case BufferKind::staged_dst:
        view.write = static_cast<std::byte*>(args_.staged_dst);
        break;
    }
    if (buffer.kind == BufferKind::constants) {
      // A declared extent must not reach past the block that is there.
      const auto words = static_cast<std::int64_t>(program_.constants.size());
      view.extent[0] = std::min(view.extent[0], words);
    }
    view.read = view.write != nullptr ? view.write : static_cast<const std::byte*>(read);
    if (buffer.kind == BufferKind::workspace) reserve_stamps(buffer, view);
    return view;
  }

  void reserve_stamps(const Buffer& buffer, const View& view) {
    std::int64_t last = 0;
    for (std::size_t a = 0; a < static_cast<std::size_t>(buffer.axes); ++a) {
      if (view.extent[a] <= 0) return;
      last += (view.extent[a] - 1) * buffer.stride[a];
    }
    const auto elements = static_cast<std::size_t>(std::max<std::int64_t>(last, 0) + 1);
    if (workspace_stamp_.size() < elements) workspace_stamp_.resize(elements);
  }

  void begin_item() {
    ++version_;
    ++stamp_;
    std::fill(vector_defined_.begin(), vector_defined_.end(), std::uint8_t{0});
    std::fill(mask_defined_.begin(), mask_defined_.end(), std::uint8_t{0});
    std::fill(scalar_defined_.begin(), scalar_defined_.end(), std::uint8_t{0});
    std::int64_t rest = item_;
    for (auto it = stage_.grid.rbegin(); it != stage_.grid.rend(); ++it) {
      const std::int64_t count = it->extent.count(args_.batch);
      set_scalar(it->scalar, rest % count);
      rest /= count;
    }
  }

  // -- Failure. The first one counts; execution stops at the end of its instruction.

  void fail(const std::string& what) {
    if (error_) return;
    std::string text = program_.name + ", stage " + stage_.name + ", item " +
                       std::to_string(item_) + ", instruction " + std::to_string(pc_);
    if (pc_ < stage_.code.size()) text += std::string(" (") + to_string(stage_.code[pc_].op) + ")";
    error_ = defect(text + ": " + what);
  }

  // -- Scalars.

  void set_scalar(ScalarId id, std::int64_t value) {
    scalars_[id] = value;
    scalar_defined_[id] = 1;
    ++version_;
  }

  std::int64_t scalar(ScalarId id) {
    if (!scalar_defined_[id]) fail("scalar " + program_.scalars[id].name + " is not defined here");
    return scalars_[id];
  }

  std::int64_t evaluate(const Affine& affine) {
    std::int64_t sum = affine.constant;
    for (const Affine::Term& term : affine.terms) {
      std::int64_t product = 0;
      const bool overflow =
          __builtin_mul_overflow(term.coefficient, scalar(term.scalar), &product) ||
          __builtin_add_overflow(sum, product, &sum);
      if (overflow) fail("an index overflows");
    }
    constexpr std::int64_t kLimit = std::int64_t{1} << 62;  // leaves room for delta and lanes
    if (sum >= kLimit || sum <= -kLimit) fail("an index overflows");
    return sum;
  }

  std::int64_t look_up(const Scalar& scalar_info) {
    if (scalar_info.kind == ScalarKind::batch_count) {
      const std::int64_t b = scalar_info.batch_block;
      return std::min(b, args_.batch - b * scalar(scalar_info.block));
    }
    const Table& table = program_.tables[scalar_info.table];
    const std::int64_t row = evaluate(scalar_info.row);
    if (row < 0 || row >= table.rows()) {
      fail("row " + std::to_string(row) + " of table " + table.name + ", which has " +
           std::to_string(table.rows()));
    }
    if (error_) return 0;
    return table.values[static_cast<std::size_t>(row * table.columns + scalar_info.column)];
  }

  // -- Structure.

  void step(const Inst& inst) {
    if (is_structure(inst.op)) return step_structure(inst);
    if (writes_memory(inst.op)) return store(inst);
    if (inst.op == Op::prefetch) return;
    if (writes_mask(inst.op)) return set_mask(inst);
    const Vector result = compute(inst);
    if (!error_) write(inst, result);
  }

  void step_structure(const Inst& inst) {
    switch (inst.op) {
      case Op::loop:
        return begin_loop(inst);
      case Op::end_loop:
        return end_loop(inst);
      case Op::if_equal:
        if (scalar(inst.scalar) != inst.imm) pc_ = static_cast<std::size_t>(inst.match);
        return;
      case Op::let:
        return set_scalar(inst.scalar, look_up(program_.scalars[inst.scalar]));
      default:
        return;
    }
  }

  void begin_loop(const Inst& inst) {
    const std::int64_t trip = inst.trip_scalar == kNone ? inst.imm : scalar(inst.trip_scalar);
    if (trip < 0) fail("trip count " + std::to_string(trip));
    if (trip <= 0) {
      pc_ = static_cast<std::size_t>(inst.match);
      return;
    }
    limits_[pc_] = trip;
    set_scalar(inst.scalar, 0);
  }

  void end_loop(const Inst& inst) {
    const auto begin = static_cast<std::size_t>(inst.match);
    const ScalarId counter = stage_.code[begin].scalar;
    set_scalar(counter, scalars_[counter] + 1);
    if (scalars_[counter] < limits_[begin]) {
      pc_ = begin;
    } else {
      scalar_defined_[counter] = 0;
    }
  }

  // -- Registers.

  const Vector& read(Reg reg) {
    if (!vector_defined_[reg]) fail("v" + std::to_string(reg) + " is read before it is written");
    return vectors_[reg];
  }

  /// Bit l: lane l is active.
  std::uint64_t active_lanes(const Inst& inst) {
    if (inst.op == Op::store && inst.imm != 0) return (std::uint64_t{1} << inst.imm) - 1;
    if (inst.mask == kNone) return kAllLanes;
    if (vector_masks_) {
      const Vector& words = read(inst.mask);
      std::uint64_t bits = 0;
      for (std::size_t l = 0; l < L; ++l) bits |= std::uint64_t{words.word[l] >> 31} << l;
      return bits;
    }
    if (!mask_defined_[inst.mask]) {
      fail("k" + std::to_string(inst.mask) + " is read before it is written");
    }
    return masks_[inst.mask];
  }

  void set_mask(const Inst& inst) {
    const std::uint64_t bits = inst.op == Op::compare       ? compare(inst)
                               : inst.op == Op::mask_scalar ? scalar_bits(inst)
                                                            : mask_bits(inst);
    if (vector_masks_) {
      for (std::size_t l = 0; l < L; ++l) {
        vectors_[inst.dst].word[l] = (bits >> l & 1) != 0 ? ~std::uint32_t{0} : 0;
      }
      vector_defined_[inst.dst] = 1;
      return;
    }
    masks_[inst.dst] = bits;
    mask_defined_[inst.dst] = 1;
  }

  std::uint64_t scalar_bits(const Inst& inst) {
    return static_cast<std::uint64_t>(scalar(inst.scalar)) & kAllLanes;
  }

  static std::uint64_t mask_bits(const Inst& inst) {
    return static_cast<std::uint64_t>(inst.imm) & kAllLanes;
  }

  std::uint64_t compare(const Inst& inst) {
    const Floats<L> a = floats<L>(read(inst.a)), b = floats<L>(read(inst.b));
    std::uint64_t bits = 0;
    for (std::size_t l = 0; l < L; ++l) {
      const bool holds = compare(static_cast<Compare>(inst.imm), a[l], b[l]);
      bits |= std::uint64_t{holds} << l;
    }
    return bits;
  }

  static bool compare(Compare predicate, float a, float b) {
    switch (predicate) {
      case Compare::less:
        return a < b;
      case Compare::less_equal:
        return a <= b;
      case Compare::equal:
        return a == b;
      case Compare::unordered:
        return std::isunordered(a, b);
    }
    return false;
  }

  void write(const Inst& inst, const Vector& result) {
    Vector& d = vectors_[inst.dst];
    if (inst.mask == kNone || !merges_under_mask(inst.op)) {
      d = result;
    } else {
      const std::uint64_t active = active_lanes(inst);
      if (!inst.zero_masked) read(inst.dst);  // its old lanes are part of the result
      for (std::size_t l = 0; l < L; ++l) {
        const std::uint32_t other = inst.zero_masked ? 0 : d.word[l];
        d.word[l] = (active >> l & 1) != 0 ? result.word[l] : other;
      }
    }
    vector_defined_[inst.dst] = 1;
  }

  // -- Memory.

  const Evaluated& evaluate(AddressId id) {
    Evaluated& result = evaluated_[id];
    if (result.version == version_) return result;
    const Address& address = program_.addresses[id];
    const auto axes = static_cast<std::size_t>(program_.buffers[address.buffer].axes);
    for (std::size_t a = 0; a < axes; ++a) result.index[a] = evaluate(address.index[a]);
    result.version = version_;
    return result;
  }

  void fail_bounds(const Buffer& buffer, std::size_t axis, std::int64_t first, std::int64_t last,
                   std::int64_t extent) {
    std::string index = std::to_string(first);
    if (last != first) index += ".." + std::to_string(last);
    fail("axis " + std::to_string(axis) + " of " + buffer.name + ": index " + index +
         " is outside 0.." + std::to_string(extent - 1));
  }

  /// Element offset of lane 0, having checked lanes low_lane to high_lane on every axis.
  std::int64_t locate(const Mem& mem, int low_lane, int high_lane) {
    const Evaluated& at = evaluate(mem.address);
    if (error_) return 0;
    const BufferId id = program_.addresses[mem.address].buffer;
    const Buffer& buffer = program_.buffers[id];
    const View& view = views_[id];
    if (view.read == nullptr) fail(buffer.name + " is null");
    std::int64_t offset = 0;
    for (std::size_t a = 0; a < static_cast<std::size_t>(buffer.axes); ++a) {
      const std::int64_t index = at.index[a] + mem.delta[a];
      const bool in_lanes = a == mem.lane_axis;
      const std::int64_t first = index + (in_lanes ? low_lane : 0);
      const std::int64_t last = index + (in_lanes ? high_lane : 0);
      if (first < 0 || last >= view.extent[a]) fail_bounds(buffer, a, first, last, view.extent[a]);
      if (error_) return 0;
      offset += index * buffer.stride[a];
    }
    return offset;
  }

  void check_workspace(const Mem& mem, std::int64_t offset, std::uint64_t active) {
    if (program_.buffers[program_.addresses[mem.address].buffer].kind != BufferKind::workspace)
      return;
    for (std::size_t l = 0; l < L; ++l) {
      if ((active >> l & 1) == 0) continue;
      if (workspace_stamp_[static_cast<std::size_t>(offset) + l] != stamp_) {
        fail("workspace element " + std::to_string(offset + static_cast<std::int64_t>(l)) +
             " is read before this item has written it");
      }
    }
  }

  /// The active lanes of memory; the others are 0 and not touched.
  Vector load(const Mem& mem, std::uint64_t active) {
    Vector result{};
    if (active == 0 || error_) return result;
    const std::int64_t offset = locate(mem, first_lane(active), last_lane(active));
    if (error_) return result;
    check_workspace(mem, offset, active);
    const BufferId id = program_.addresses[mem.address].buffer;
    const Type type = program_.buffers[id].type;
    const std::byte* from = views_[id].read + offset * element_bytes(type);
    if (active == kAllLanes && element_bytes(type) == 4) {
      std::memcpy(result.word.data(), from, sizeof(result.word));
      return result;
    }
    for (std::size_t l = 0; l < L; ++l, from += element_bytes(type)) {
      if ((active >> l & 1) != 0) result.word[l] = widened(type, from);
    }
    return result;
  }

  Vector broadcast(const Mem& mem) {
    Vector result{};
    const std::int64_t offset = locate(mem, 0, 0);
    if (error_) return result;
    check_workspace(mem, offset, 1);
    const BufferId id = program_.addresses[mem.address].buffer;
    const Type type = program_.buffers[id].type;
    result.word.fill(widened(type, views_[id].read + offset * element_bytes(type)));
    return result;
  }

  void store(const Inst& inst) {
    const std::uint64_t active = active_lanes(inst);
    const Vector& from = read(inst.a);
    if (active == 0 || error_) return;
    const BufferId id = program_.addresses[inst.mem.address].buffer;
    const BufferKind kind = program_.buffers[id].kind;
    if (!is_written(kind)) fail("an input is written");
    const std::int64_t offset = locate(inst.mem, first_lane(active), last_lane(active));
    if (error_) return;
    const auto bytes = static_cast<std::size_t>(element_bytes(program_.buffers[id].type));
    const auto* packed = reinterpret_cast<const std::byte*>(from.word.data());
    for (std::size_t l = 0; l < L; ++l) {
      if ((active >> l & 1) == 0) continue;
      const std::int64_t at = offset + static_cast<std::int64_t>(l);
      std::memcpy(views_[id].write + at * static_cast<std::int64_t>(bytes), packed + l * bytes,
                  bytes);
      if (kind == BufferKind::workspace) workspace_stamp_[static_cast<std::size_t>(at)] = stamp_;
    }
  }

  Vector operand_b(const Inst& inst) {
    switch (inst.b_kind) {
      case Operand::reg:
        return read(inst.b);
      case Operand::broadcast_mem:
        return broadcast(inst.mem);
      case Operand::vector_mem: {
        return load(inst.mem, inst.op == Op::permute ? kAllLanes : active_lanes(inst));
      }
      case Operand::none:
        break;
    }
    return {};
  }

  // -- Computation: the result before masking.

  Vector compute(const Inst& inst) {
    switch (inst.op) {
      case Op::zero:
        return {};
      case Op::copy:
        return read(inst.a);
      case Op::load:
        return load(inst.mem, active_lanes(inst));
      case Op::broadcast:
        return broadcast(inst.mem);
      case Op::fma:
      case Op::mul_add:
        return multiply_add(inst);
      case Op::add:
      case Op::sub:
      case Op::mul:
      case Op::div:
      case Op::min:
      case Op::max:
        if (inst.type == Type::i32) {
          return integer_arithmetic(inst.op, read(inst.a), operand_b(inst));
        }
        return arithmetic(inst.op, read(inst.a), operand_b(inst));
      case Op::bit_and:
      case Op::bit_or:
      case Op::bit_xor:
        return bitwise(inst.op, read(inst.a), operand_b(inst));
      case Op::shift_left:
      case Op::shift_right:
      case Op::shift_right_signed:
        return shift(inst.op, read(inst.a), inst.imm);
      case Op::round:
      case Op::to_int:
      case Op::to_float:
        return convert(inst.op, read(inst.a));
      case Op::dot_bf16:
      case Op::dot_u8s8:
        return dot(inst.op, read(inst.dst), read(inst.a), operand_b(inst));
      case Op::madd16:
        return multiply_add_halves(read(inst.a), operand_b(inst));
      case Op::narrow:
        return narrow(inst, read(inst.a));
      case Op::select:
        return select(active_lanes(inst), read(inst.a), operand_b(inst));
      case Op::permute:
        return permute(read(inst.a), operand_b(inst));
      case Op::permute2:
        return permute2(read(inst.dst), read(inst.a), operand_b(inst));
      case Op::shuffle128:
        return shuffle128(inst.imm, read(inst.a), operand_b(inst));
      default:
        return unpack(inst.op, read(inst.a), operand_b(inst));
    }
  }

  Vector multiply_add(const Inst& inst) {
    const Floats<L> d = floats<L>(read(inst.dst)), b = floats<L>(operand_b(inst));
    Floats<L> sum = inst.op == Op::fma ? d : b;
    fma_(floats<L>(read(inst.a)), inst.op == Op::fma ? b : d, sum);
    return lanes<L>(sum);
  }

  static float arithmetic(Op op, float a, float b) {
    switch (op) {
      case Op::add:
        return a + b;
      case Op::sub:
        return a - b;
      case Op::mul:
        return a * b;
      case Op::div:
        return a / b;
      case Op::min:
        return a < b ? a : b;
      default:
        return a > b ? a : b;
    }
  }

  static Vector arithmetic(Op op, const Vector& a_words, const Vector& b_words) {
    const Floats<L> a = floats<L>(a_words), b = floats<L>(b_words);
    Floats<L> d{};
    for (std::size_t l = 0; l < L; ++l) d[l] = arithmetic(op, a[l], b[l]);
    return lanes<L>(d);
  }

  static Vector dot(Op op, const Vector& d, const Vector& a, const Vector& b) {
    Vector sum;
    for (std::size_t l = 0; l < L; ++l) {
      sum.word[l] = op == Op::dot_bf16 ? dot_bf16(a.word[l], b.word[l], d.word[l])
                                       : dot_u8s8(a.word[l], b.word[l], d.word[l]);
    }
    return sum;
  }

  static Vector multiply_add_halves(const Vector& a, const Vector& b) {
    Vector d;
    for (std::size_t l = 0; l < L; ++l) {
      d.word[l] = product_of_halves(a.word[l], b.word[l]) +
                  product_of_halves(a.word[l] >> 16, b.word[l] >> 16);
    }
    return d;
  }

  static Vector narrow(const Inst& inst, const Vector& a) {
    const auto bytes = static_cast<std::size_t>(element_bytes(inst.type));
    Vector d{};
    auto* packed = reinterpret_cast<std::byte*>(d.word.data());
    for (std::size_t l = 0; l < L; ++l) {
      const std::uint32_t element = narrowed(inst, a.word[l]);
      std::memcpy(packed + l * bytes, &element, bytes);  // little-endian: the low bytes
    }
    return d;
  }

  static Vector integer_arithmetic(Op op, const Vector& a, const Vector& b) {
    Vector d;
    for (std::size_t l = 0; l < L; ++l) {
      const std::uint32_t x = a.word[l], y = b.word[l];
      const bool less = static_cast<std::int32_t>(x) < static_cast<std::int32_t>(y);
      d.word[l] = op == Op::add ? x + y : op == Op::sub ? x - y : less == (op == Op::min) ? x : y;
    }
    return d;
  }

  static Vector bitwise(Op op, const Vector& a, const Vector& b) {
    Vector d;
    for (std::size_t l = 0; l < L; ++l) {
      const std::uint32_t x = a.word[l], y = b.word[l];
      d.word[l] = op == Op::bit_and ? x & y : op == Op::bit_or ? x | y : x ^ y;
    }
    return d;
  }

  static Vector shift(Op op, const Vector& a, std::int64_t imm) {
    Vector d;
    for (std::size_t l = 0; l < L; ++l) {
      const std::uint32_t x = a.word[l];
      const auto with_sign = static_cast<std::uint32_t>(static_cast<std::int32_t>(x) >> imm);
      d.word[l] = op == Op::shift_left ? x << imm : op == Op::shift_right ? x >> imm : with_sign;
    }
    return d;
  }

  static Vector convert(Op op, const Vector& a) {
    const Floats<L> values = floats<L>(a);
    Vector d;
    for (std::size_t l = 0; l < L; ++l) {
      if (op == Op::to_int) {
        d.word[l] = static_cast<std::uint32_t>(nearest_int(values[l]));
      } else {
        const auto integer = static_cast<std::int32_t>(a.word[l]);
        d.word[l] = std::bit_cast<std::uint32_t>(op == Op::round ? nearest_integer(values[l])
                                                                 : static_cast<float>(integer));
      }
    }
    return d;
  }

  static Vector select(std::uint64_t active, const Vector& a, const Vector& b) {
    Vector d;
    for (std::size_t l = 0; l < L; ++l) d.word[l] = (active >> l & 1) != 0 ? a.word[l] : b.word[l];
    return d;
  }

  static Vector permute(const Vector& a, const Vector& index) {
    Vector d;
    for (std::size_t l = 0; l < L; ++l) d.word[l] = a.word[index.word[l] % L];
    return d;
  }

  static Vector permute2(const Vector& low, const Vector& high, const Vector& index) {
    Vector d;
    for (std::size_t l = 0; l < L; ++l) {
      const std::uint32_t at = index.word[l] % (2 * L);
      d.word[l] = at < L ? low.word[at] : high.word[at - L];
    }
    return d;
  }

  static Vector unpack(Op op, const Vector& a, const Vector& b) {
    const bool pairs = op == Op::unpack_lo64 || op == Op::unpack_hi64;
    const std::size_t half = op == Op::unpack_hi32 || op == Op::unpack_hi64 ? 2 : 0;
    Vector d;
    for (std::size_t l = 0; l < L; ++l) {
      const std::size_t block = l & ~std::size_t{3}, in_block = l & 3;
      const bool from_b = pairs ? in_block >= 2 : (in_block & 1) != 0;
      const std::size_t at = block + half + (pairs ? in_block & 1 : in_block >> 1);
      d.word[l] = from_b ? b.word[at] : a.word[at];
    }
    return d;
  }

  static Vector shuffle128(std::int64_t imm, const Vector& a, const Vector& b) {
    constexpr std::size_t kBlocks = L / 4, kBits = L == 16 ? 2 : 1;
    Vector d;
    for (std::size_t l = 0; l < L; ++l) {
      const std::size_t block = l / 4;
      const auto from = static_cast<std::size_t>(imm >> (block * kBits)) & (kBlocks - 1);
      const Vector& source = block < kBlocks / 2 ? a : b;
      d.word[l] = source.word[from * 4 + l % 4];
    }
    return d;
  }

  const Program& program_;
  const Stage& stage_;
  const Args& args_;
  const FmaFunction<L> fma_;
  bool vector_masks_ = false;
  std::vector<View> views_;
  std::optional<Error> error_;

  std::int64_t item_ = 0;
  std::size_t pc_ = 0;
  std::vector<std::int64_t> limits_;  ///< trip count of the running loop that begins there

  std::vector<std::int64_t> scalars_;
  std::vector<std::uint8_t> scalar_defined_;
  std::uint64_t version_ = 0;  ///< counts changes of scalars
  std::vector<Evaluated> evaluated_;

  std::vector<Vector> vectors_;
  std::vector<std::uint8_t> vector_defined_;
  std::vector<std::uint64_t> masks_;
  std::vector<std::uint8_t> mask_defined_;

  std::uint64_t stamp_ = 0;                     ///< counts items
  std::vector<std::uint64_t> workspace_stamp_;  ///< per element: the item that wrote it last
};

std::string range_text(std::int64_t begin, std::int64_t end) {
  return "[" + std::to_string(begin) + ", " + std::to_string(end) + ")";
}

}  // namespace

Status interpret(const Program& program, int stage, const Args& args, std::int64_t begin,
                 std::int64_t end) {
  if (stage < 0 || stage >= static_cast<int>(program.stages.size())) {
    return defect(program.name + " has no stage " + std::to_string(stage));
  }
  const Stage& code = program.stages[static_cast<std::size_t>(stage)];
  const std::string why = Checker(program, code).check();
  if (!why.empty()) return defect(program.name + ", stage " + code.name + ": " + why);
  if (begin < 0 || end > item_count(code, args.batch)) {
    return Error{ErrorCode::invalid_argument, "items " + range_text(begin, end) + " of stage " +
                                                  code.name + ", which has " +
                                                  std::to_string(item_count(code, args.batch))};
  }
  if (program.lanes == 16) return Machine<16>(program, code, args).run(begin, end);
  if (program.lanes == 8) return Machine<8>(program, code, args).run(begin, end);
  return Machine<4>(program, code, args).run(begin, end);
}

}  // namespace convt::program
