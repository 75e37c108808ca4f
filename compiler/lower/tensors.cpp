#include "compiler/lower/tensors.hpp"

#include "compiler/lower/epilogue.hpp"
#include "compiler/lower/families.hpp"
#include "compiler/plan/geometry.hpp"

namespace convt::lowering {
namespace {

using program::Buffer;
using program::BufferKind;

program::Type memory_type(DataType type) {
  switch (type) {
    case DataType::f32:
      return program::Type::f32;
    case DataType::f16:
      return program::Type::f16;
    case DataType::bf16:
      return program::Type::bf16;
    case DataType::s8:
      return program::Type::s8;
    case DataType::u8:
      return program::Type::u8;
  }
  return program::Type::f32;
}

std::array<std::int64_t, kMaxRank> lengths(const Problem& problem, std::int64_t Axis::*length) {
  const std::array<Axis, kMaxRank> axes = spatial_axes(problem);
  return {axes[0].*length, axes[1].*length, axes[2].*length};
}

}  // namespace

/// Which strides of a tensor depend on the lengths of dynamic axes: those over one.
std::uint8_t dynamic_strides(const Problem& problem) {
  std::uint8_t strides = 0;
  bool any = false;
  const std::array<Axis, kMaxRank> axes = spatial_axes(problem);
  for (std::size_t a = kMaxRank; a-- > 0;) {
    if (any) strides |= static_cast<std::uint8_t>(1u << (kDepth + a));
    any = any || axes[a].dynamic;
  }
  if (!any) return 0;
  if (problem.layout == Layout::nchw) strides |= 1u << kChannel;
  return strides | 1u << kBatch;
}

Buffer make_tensor(BufferKind kind, const char* name, Layout layout, std::int64_t channels,
                   std::int64_t pitch, const std::array<std::int64_t, kMaxRank>& spatial) {
  Buffer buffer;
  buffer.kind = kind;
  buffer.name = name;
  buffer.axes = 5;
  buffer.batch_axis = kBatch;
  buffer.extent = {0, channels, spatial[0], spatial[1], spatial[2]};
  const std::int64_t row = layout == Layout::nhwc ? spatial[2] * pitch : spatial[2];
  buffer.stride[kWidth] = layout == Layout::nhwc ? pitch : 1;
  buffer.stride[kHeight] = row;
  buffer.stride[kDepth] = row * spatial[1];
  buffer.stride[kChannel] = layout == Layout::nhwc ? 1 : row * spatial[1] * spatial[0];
  buffer.stride[kBatch] = spatial[0] * spatial[1] * spatial[2] * pitch;
  return buffer;
}

Buffer make_vector(BufferKind kind, const char* name, std::int64_t extent) {
  Buffer buffer;
  buffer.kind = kind;
  buffer.name = name;
  buffer.axes = 1;
  buffer.extent[0] = extent;
  buffer.stride[0] = 1;
  return buffer;
}

void join_channels_to_rows(Buffer& tensor) {
  tensor.extent[kWidth] *= tensor.extent[kChannel];
  tensor.extent[kChannel] = 1;
  tensor.stride[kWidth] = 1;
}

Buffer make_src(const Problem& problem, BufferKind kind) {
  Buffer src =
      make_tensor(kind, kind == BufferKind::src ? "src" : "staged_src", problem.layout,
                  problem.in_channels, problem.src_pitch(), lengths(problem, &Axis::input));
  src.dynamic_strides = dynamic_strides(problem);
  if (kind == BufferKind::src) src.type = memory_type(problem.dtype);
  return src;
}

Buffer make_kernel_src(const Problem& problem, const Plan& plan) {
  const bool staged = plan.staging.used || plan.convert;
  Buffer src = make_src(problem, staged ? BufferKind::staged_src : BufferKind::src);
  if (plan.products != Products::f32) src.type = program::Type::i32;
  return src;
}

Buffer make_dst(const Problem& problem, BufferKind kind) {
  Buffer dst =
      make_tensor(kind, kind == BufferKind::dst ? "dst" : "staged_dst", problem.layout,
                  problem.out_channels, problem.dst_pitch(), lengths(problem, &Axis::output));
  dst.dynamic_strides = dynamic_strides(problem);
  if (kind == BufferKind::dst)
    dst.type = memory_type(problem.dst_dtype);
  else if (problem.dst_dtype == DataType::s8 || problem.dst_dtype == DataType::u8)
    dst.type = program::Type::i32;
  return dst;
}

Buffer make_residual(const Problem& problem) {
  Buffer residual =
      make_tensor(BufferKind::residual, "residual", problem.layout, problem.out_channels,
                  problem.residual_pitch(), lengths(problem, &Axis::output));
  residual.dynamic_strides = dynamic_strides(problem);
  residual.type = memory_type(problem.dst_dtype);
  return residual;
}

void declare_channel_rows(const Problem& problem, Builder& builder) {
  if (problem.bias) builder.buffer(make_vector(BufferKind::bias, "bias", problem.out_channels));
  const auto declare = [&](BufferKind kind, const char* name, int rows, std::int64_t channels) {
    if (rows == 0) return;
    Buffer parameters = make_vector(kind, name, rows);
    parameters.axes = 2;
    parameters.extent[1] = parameters.stride[0] = channels;
    parameters.stride[1] = 1;
    builder.buffer(parameters);
  };
  declare(BufferKind::parameters, "parameters", problem.parameter_rows(), problem.out_channels);
  if (problem.input_activation)
    declare(BufferKind::input_parameters, "input_parameters",
            problem.input_activation->parameter_rows(), problem.in_channels);
}

Mem input_channel_row(Builder& builder, int row, const Affine& channel) {
  const BufferId rows = find_buffer(builder.program(), BufferKind::input_parameters);
  Mem mem{builder.address(rows, {0, channel}), 1, {}};
  mem.delta[0] = row;
  return mem;
}

Mem channel_row(Builder& builder, int row, const Affine& channel) {
  if (row == kBiasRow)
    return {builder.address(find_buffer(builder.program(), BufferKind::bias), {channel}), 0, {}};
  Mem mem{
      builder.address(find_buffer(builder.program(), BufferKind::parameters), {0, channel}), 1, {}};
  mem.delta[0] = row;
  return mem;
}

Buffer make_staged_dst(const Problem& problem, const Plan& plan) {
  std::array<std::int64_t, kMaxRank> rows = lengths(problem, &Axis::output);
  for (std::size_t a = 0; a < 2; ++a)
    if (leaves_out_rows(problem, plan, a)) rows[a] = reached_output_count(spatial_axes(problem)[a]);
  Buffer dst = make_tensor(BufferKind::staged_dst, "staged_dst", problem.layout,
                           problem.out_channels, problem.dst_pitch(), rows);
  dst.type = make_dst(problem, BufferKind::staged_dst).type;
  return dst;
}

}  // namespace convt::lowering
