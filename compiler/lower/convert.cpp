// Convert: copies x to words of what is multiplied (see Products): float32; two bfloat16 or four
// u8 of neighbouring input channels. The input activation, if any, is applied on the way. Layout
// and order of axes stay; channels past a group's last are 0.

#include <algorithm>
#include <array>
#include <vector>

#include "compiler/lower/activation.hpp"
#include "compiler/lower/chunks.hpp"
#include "compiler/lower/families.hpp"

namespace convt::lowering {
namespace {

using program::Buffer;
using program::Extent;
using program::Op;
using program::Operand;
using program::Type;

constexpr std::int64_t kVectorsAChunk = 64;
constexpr std::int64_t kPixelsAChunk = 16;

class Convert {
 public:
  Convert(const Problem& problem, const Problem& computed, const Plan& plan, Builder& builder)
      : problem_(problem),
        plan_(plan),
        builder_(builder),
        lanes_(plan.lanes),
        word_(channels_a_word(plan.products)),
        words_(computed.ic_per_group()),
        last_(computed.layout == Layout::nhwc),
        raw_(plan.products != Products::f32 && problem.dtype != DataType::f32 &&
             !problem.input_activation),
        src_(make_src(with_layout(problem, computed.layout), program::BufferKind::src)),
        dst_(make_kernel_src(computed, plan)) {}

  void lower() {
    builder_.begin_stage("convert_src");
    image_ = Affine::of(builder_.coordinate("image", Extent{1, 1}));
    if (last_) {
      convert_pixels();
    } else {
      convert_planes();
    }
    builder_.end_stage();
  }

 private:
  static Problem with_layout(Problem problem, Layout layout) {
    problem.layout = layout;
    return problem;
  }

  /// A view of `tensor` with the axes (image, channel, position), elements of `type`.
  BufferId view(const Buffer& tensor, Type type) {
    const std::int64_t ratio = program::element_bytes(tensor.type) / program::element_bytes(type);
    Buffer flat = tensor;
    flat.type = type;
    flat.axes = 3;
    flat.extent = {0, tensor.extent[kChannel] * ratio,
                   tensor.extent[kDepth] * tensor.extent[kHeight] * tensor.extent[kWidth]};
    flat.stride = {tensor.stride[kBatch] * ratio, last_ ? 1 : tensor.stride[kChannel] * ratio,
                   tensor.stride[kWidth] * ratio};
    const auto is_dynamic = [&](std::size_t axis) {
      return tensor.has_dynamic_stride(axis) ? 1u : 0u;
    };
    flat.dynamic_strides = static_cast<std::uint8_t>(
        is_dynamic(kBatch) | (last_ ? 0 : is_dynamic(kChannel) << 1) | is_dynamic(kWidth) << 2);
    return builder_.buffer(flat);
  }

  /// Bits as they are: no arithmetic on the elements.
  [[nodiscard]] Type raw_type(Type type) const {
    return raw_ && program::element_bytes(type) == 2 ? Type::u16 : type;
  }

  static std::int64_t chunks_of(std::int64_t blocks, std::int64_t blocks_a_chunk) {
    return std::max<std::int64_t>(1, (blocks + blocks_a_chunk - 1) / blocks_a_chunk);
  }

  // -- Channels first: the planes of a word's channels, interleaved.

  void convert_planes() {
    const BufferId from = view(src_, raw_type(src_.type));
    const BufferId to = view(dst_, dst_.type);
    const Affine group = coordinate("group", problem_.groups);
    const std::int64_t channels = problem_.ic_per_group();
    const std::int64_t partial = channels % word_;
    const std::int64_t whole = channels / word_;
    const std::int64_t length = problem_.input_spatial();
    // A chunk of few long planes, or of one word's.
    const ScalarId word = builder_.coordinate("word", Extent{words_, 0});
    const bool dynamic = problem_.is_dynamic();
    const Chunk chunk =
        bind_chunk(builder_, length, lanes_, chunks_of(length / lanes_, kVectorsAChunk), dynamic);
    const auto emit = [&](std::int64_t count) {
      const Affine channel = group * channels + Affine::of(word, word_);
      const auto at = [&](const Affine& position, std::uint64_t bits) {
        const Mem src{builder_.address(from, {image_, channel, position}), 2, {}};
        const Mem dst{
            builder_.address(to, {image_, group * words_ + Affine::of(word), position}), 2, {}};
        const Reg mask = make_load_mask(builder_, bits, lanes_);
        store_lanes(builder_, dst, make_word(src, channel, count, mask), bits, lanes_, false,
                    make_store_mask(builder_, bits, lanes_, false));
      };
      const auto at_rest = [&] {
        const Mem src{builder_.address(from, {image_, channel, chunk.rest_first}), 2, {}};
        const Mem dst{
            builder_.address(to, {image_, group * words_ + Affine::of(word), chunk.rest_first}),
            2,
            {}};
        const Reg mask = builder_.mask_of(chunk.rest_bits);
        store_masked(builder_, dst, make_word(src, channel, count, mask), mask);
      };
      if (length >= lanes_ || dynamic) {
        at(chunk.first + Affine::of(builder_.begin_loop("block", chunk.blocks), lanes_),
           lane_bits(0, lanes_, lanes_));
        builder_.end_loop();
      }
      if (chunk.rest == program::kNone) return;
      builder_.begin_if_equal(chunk.rest, 1);
      if (dynamic) {
        at_rest();
      } else {
        at(Affine(length / lanes_ * lanes_), lane_bits(0, length % lanes_, lanes_));
      }
      builder_.end_if();
    };
    if (partial == 0) return emit(word_);
    if (whole == 0) return emit(partial);
    std::vector<std::int32_t> flags(static_cast<std::size_t>(words_), 0);
    flags.back() = 1;
    const auto table = builder_.table("partial", 1, std::move(flags));
    const ScalarId is_partial = builder_.let("is_partial", table, Affine::of(word), 0);
    builder_.begin_if_equal(is_partial, 0);
    emit(word_);
    builder_.end_if();
    builder_.begin_if_equal(is_partial, 1);
    emit(partial);
    builder_.end_if();
  }

  /// The word of `count` channels from `src` on, for each of its lanes.
  Reg make_word(const Mem& src, const Affine& channel, std::int64_t count, Reg mask) {
    Reg result = program::kNone;
    for (std::int64_t c = 0; c < count; ++c) {
      Mem mem = src;
      mem.delta[1] = static_cast<std::int32_t>(c);
      const Reg x = builder_.vector();
      builder_.load(x, mem, mask);
      convert(x, [&] {
        Mem row = input_channel_row(builder_, 0, channel);
        row.delta[1] = static_cast<std::int32_t>(c);
        const Reg parameter = builder_.vector();
        builder_.broadcast(parameter, row);
        return parameter;
      });
      place(x, c);
      if (c > 0) builder_.binary(Op::bit_or, x, x, result);
      result = x;
    }
    if (plan_.products == Products::int8 && problem_.dtype == DataType::s8)
      builder_.binary(Op::bit_xor, result, result, broadcast_constant(builder_, 0x80808080u),
                      Operand::broadcast_mem);
    return result;
  }

  /// The low bits of each lane, others being 0, to where channel c of a word stands. (Rounded
  /// float32 has its bfloat16 in the high bits.)
  void place(Reg x, std::int64_t c) {
    if (word_ == 1) return;
    const int bits = static_cast<int>(32 / word_);
    const bool is_high = plan_.products == Products::bf16 && !raw_;
    if (is_high) {
      if (c == 0) builder_.unary(Op::shift_right, x, x, 16);
      return;
    }
    if (problem_.dtype == DataType::s8)
      builder_.binary(Op::bit_and, x, x, broadcast_constant(builder_, 0xffu),
                      Operand::broadcast_mem);
    if (c > 0) builder_.unary(Op::shift_left, x, x, bits * static_cast<int>(c));
  }

  // -- Channels last: pixel by pixel.

  void convert_pixels() {
    const Type type = element_type();
    const BufferId from = view(src_, raw_type(src_.type));
    const BufferId to = view(dst_, type);
    const std::int64_t pixels = problem_.input_spatial();
    const Chunk chunk =
        bind_chunk(builder_, pixels, 1, chunks_of(pixels, kPixelsAChunk), problem_.is_dynamic());
    const Affine group = coordinate("group", problem_.groups);
    const Affine pixel = chunk.first + Affine::of(builder_.begin_loop("pixel", chunk.blocks));
    const std::int64_t channels = problem_.ic_per_group();
    const auto at = [&](const Affine& first, std::int64_t count) {
      // The last ones with the padding behind them.
      const std::int64_t stored = (count + word_ - 1) / word_ * word_;
      const Affine channel = group * channels + first;
      const Reg mask = make_load_mask(builder_, lane_bits(0, count, lanes_), lanes_);
      const Reg x = builder_.vector();
      builder_.load(x, Mem{builder_.address(from, {image_, channel, pixel}), 1, {}}, mask);
      convert(x, [&] {
        const Reg parameter = builder_.vector();
        builder_.load(parameter, input_channel_row(builder_, 0, channel), mask);
        return parameter;
      });
      if (plan_.products == Products::int8 && problem_.dtype == DataType::s8)
        builder_.integer(Op::add, x, x, broadcast_constant(builder_, 128u), Operand::broadcast_mem);
      const Mem dst{builder_.address(to, {image_, group * (words_ * word_) + first, pixel}), 1, {}};
      const std::uint64_t bits = lane_bits(0, stored, lanes_);
      store_lanes(builder_, dst, x, bits, lanes_, false,
                  make_store_mask(builder_, bits, lanes_, false));
    };
    if (channels >= lanes_) {
      at(Affine::of(builder_.begin_loop("block", channels / lanes_), lanes_), lanes_);
      builder_.end_loop();
    }
    if (channels % lanes_ != 0) at(Affine(channels / lanes_ * lanes_), channels % lanes_);
    builder_.end_loop();
  }

  /// Of an element of a word.
  [[nodiscard]] Type element_type() const {
    switch (plan_.products) {
      case Products::f32:
        return Type::f32;
      case Products::bf16:
        return raw_ ? Type::u16 : Type::bf16;
      case Products::int8:
        return Type::u8;
    }
    return Type::f32;
  }

  // -- Elements.

  /// Activation and rounding of loaded lanes. `load`: of the activation's parameter.
  template <class Load>
  void convert(Reg x, Load&& load) {
    if (raw_) return;
    if (problem_.is_int8()) {
      builder_.unary(Op::to_float, x, x);
      if (problem_.src_zero_point != 0)
        builder_.binary(Op::sub, x, x,
                        broadcast_constant(builder_, static_cast<float>(problem_.src_zero_point)),
                        Operand::broadcast_mem);
    }
    if (problem_.input_activation) {
      const EpilogueStep& step = *problem_.input_activation;
      emit_activation(builder_, step, std::array{x},
                      step.parameter_rows() > 0 ? load() : program::kNone);
    }
    const bool narrows_itself = last_ && plan_.products == Products::bf16;
    const bool to_bf16 = plan_.products == Products::bf16 || problem_.math_mode == MathMode::bf16;
    if (to_bf16 && !narrows_itself) round_to_bf16(x);
  }

  /// To the nearest bfloat16, ties to even, as float32. NaN stays NaN.
  void round_to_bf16(Reg x) {
    const Reg is_nan = builder_.compare(program::Compare::unordered, x, x);
    const Reg odd = builder_.vector(), rounded = builder_.vector();
    builder_.unary(Op::shift_right, odd, x, 16);
    builder_.binary(Op::bit_and, odd, odd, broadcast_constant(builder_, 1u),
                    Operand::broadcast_mem);
    builder_.integer(Op::add, rounded, x, odd);
    builder_.integer(Op::add, rounded, rounded, broadcast_constant(builder_, 0x7fffu),
                     Operand::broadcast_mem);
    builder_.binary(Op::bit_and, rounded, rounded, broadcast_constant(builder_, 0xffff0000u),
                    Operand::broadcast_mem);
    const Reg nan = builder_.vector();
    builder_.broadcast(nan, broadcast_constant(builder_, 0x7fc00000u));
    builder_.select(x, is_nan, nan, rounded);
  }

  Affine coordinate(const char* name, std::int64_t extent) {
    if (extent == 1) return 0;
    return Affine::of(builder_.coordinate(name, Extent{extent, 0}));
  }

  const Problem& problem_;
  const Plan& plan_;
  Builder& builder_;
  int lanes_;
  std::int64_t word_;   ///< channels
  std::int64_t words_;  ///< a group
  bool last_;
  bool raw_;
  Buffer src_, dst_;
  Affine image_;
};

}  // namespace

void lower_convert_src(const Problem& problem, const Problem& computed, const Plan& plan,
                       Builder& builder) {
  Convert(problem, computed, plan, builder).lower();
}

}  // namespace convt::lowering
