// Tensors of a problem as buffers of a Program, and rows of what each channel has.
#pragma once

#include <array>
#include <cstdint>

#include <convt/problem.hpp>

#include "compiler/plan/plan.hpp"
#include "compiler/program/builder.hpp"

namespace convt::lowering {

using program::AddressId;
using program::Affine;
using program::BufferId;
using program::Builder;
using program::Mem;
using program::Reg;
using program::ScalarId;

/// Axes of src and dst buffers, whatever the layout in memory.
enum TensorAxis : std::uint8_t { kBatch, kChannel, kDepth, kHeight, kWidth };

program::Buffer make_tensor(program::BufferKind kind, const char* name, Layout layout,
                            std::int64_t channels, std::int64_t pitch,
                            const std::array<std::int64_t, kMaxRank>& spatial);
program::Buffer make_vector(program::BufferKind kind, const char* name, std::int64_t extent);
/// Dense tensors, channels last: channels and w as one axis, kWidth.
void join_channels_to_rows(program::Buffer& tensor);

/// The tensors x and y of a problem, axes as TensorAxis says.
program::Buffer make_src(const Problem& problem, program::BufferKind kind);
/// What the plan's kernel reads of x, in words.
program::Buffer make_kernel_src(const Problem& problem, const Plan& plan);
program::Buffer make_dst(const Problem& problem, program::BufferKind kind);
program::Buffer make_residual(const Problem& problem);
/// What the user's problem has for each channel: the bias, the parameters of the epilogue and of
/// the input activation.
void declare_channel_rows(const Problem& problem, Builder& builder);
/// A row's element `channel`; lanes go along the channels.
Mem channel_row(Builder& builder, int row, const Affine& channel);
Mem input_channel_row(Builder& builder, int row, const Affine& channel);
/// The staged y of a plan: without the rows that its kernel leaves out.
program::Buffer make_staged_dst(const Problem& problem, const Plan& plan);

}  // namespace convt::lowering
