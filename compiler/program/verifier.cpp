// The verifier: what passes here may be made executable.
//
// It proves, for every batch N >= 1, in this order:
//   1. declarations make sense: ids, extents, strides of the output that do not overlap (here);
//   2. each stage is well formed: nesting, scopes, registers, masks (verifier_structure.cpp);
//   3. every look-up is inside its table and every access inside its buffer, axis by axis
//      (verifier_bounds.cpp, by the enumeration of verifier_space.cpp);
//   4. workspace is read only where the same item wrote before (verifier_workspace.cpp);
//   5. every output element is stored exactly once, and so is every element of a staged tensor,
//      before the stages that read it (verifier_coverage.cpp).
// What cannot be proved is refused; nothing is assumed. Alignment of streaming stores is the
// caller's: it is not known here.
#include <algorithm>
#include <array>
#include <deque>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "compiler/program/passes.hpp"
#include "compiler/program/verifier_checks.hpp"

namespace convt::program {
namespace verifier {
namespace {

// Declarations.

constexpr std::int64_t kMaxElements = std::int64_t{1} << 40;

Error bad_declaration(const Program& program, const std::string& what) {
  return {ErrorCode::internal, "program '" + program.name + "': " + what};
}

Status check_tables(const Program& program) {
  for (const Table& table : program.tables) {
    if (table.columns == 0 || table.values.size() % table.columns != 0) {
      return bad_declaration(program, "table '" + table.name + "' has an incomplete row");
    }
  }
  return ok_status();
}

/// Distinct elements have distinct places, whatever N: each stride steps over all that the smaller
/// ones reach, and none over the batch, whose reach is open.
bool elements_are_distinct(const Buffer& buffer) {
  std::array<std::size_t, kMaxAxes> order{};
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.begin() + buffer.axes,
            [&](std::size_t a, std::size_t b) { return buffer.stride[a] < buffer.stride[b]; });
  std::int64_t reach = 0;
  bool reach_is_open = false;
  for (std::size_t i = 0; i < static_cast<std::size_t>(buffer.axes); ++i) {
    const std::size_t axis = order[i];
    const bool is_batch = static_cast<int>(axis) == buffer.batch_axis;
    if (!is_batch && buffer.extent[axis] <= 1) continue;
    if (reach_is_open || buffer.stride[axis] <= reach) return false;
    reach_is_open = is_batch;
    if (!is_batch) reach += (buffer.extent[axis] - 1) * buffer.stride[axis];
  }
  return true;
}

Status check_buffer(const Program& program, const Buffer& buffer) {
  const auto refuse = [&](const char* what) {
    return Status(bad_declaration(program, "buffer '" + buffer.name + "' " + what));
  };
  if (buffer.axes < 1 || buffer.axes > kMaxAxes) return refuse("has no or too many axes");
  if (buffer.batch_axis >= buffer.axes) return refuse("has no such batch axis");
  for (std::size_t axis = 0; axis < static_cast<std::size_t>(buffer.axes); ++axis) {
    if (buffer.stride[axis] < 0 || buffer.stride[axis] > kMaxElements)
      return refuse("has a mad stride");
    if (static_cast<int>(axis) == buffer.batch_axis) continue;
    if (buffer.extent[axis] < 0 || buffer.extent[axis] > kMaxValue)
      return refuse("has a mad extent");
  }
  if (!is_tensor(buffer.kind) && buffer.batch_axis >= 0) return refuse("cannot follow the batch");
  if (is_written(buffer.kind) && !elements_are_distinct(buffer))
    return refuse("has elements that share a place");
  if (buffer.kind == BufferKind::constants &&
      (buffer.axes != 1 || buffer.stride[0] != 1 ||
       buffer.extent[0] > static_cast<std::int64_t>(program.constants.size()))) {
    return refuse("is not the constant block");
  }
  return ok_status();
}

/// (stride in bytes, extent) of each axis, by stride, axes that continue one another joined: equal
/// for buffers of the same bytes. The batch's extent is 0, an element is an axis of bytes.
using ByteSet = std::vector<std::pair<std::int64_t, std::int64_t>>;

ByteSet byte_set(const Buffer& buffer) {
  const std::int64_t bytes = element_bytes(buffer.type);
  ByteSet axes{{1, bytes}};
  for (std::size_t axis = 0; axis < static_cast<std::size_t>(buffer.axes); ++axis) {
    const bool is_batch = static_cast<int>(axis) == buffer.batch_axis;
    if (is_batch || buffer.extent[axis] != 1)
      axes.emplace_back(buffer.stride[axis] * bytes, is_batch ? 0 : buffer.extent[axis]);
  }
  std::sort(axes.begin(), axes.end());
  ByteSet joined;
  for (const auto& [stride, extent] : axes) {
    if (!joined.empty() && extent != 0 && stride == joined.back().first * joined.back().second) {
      joined.back().second *= extent;
    } else {
      joined.emplace_back(stride, extent);
    }
  }
  return joined;
}

/// What one stage stores through one buffer, another may load through another: no element more.
Status check_views(const Program& program) {
  std::array<const Buffer*, kBufferKinds> first{};
  for (const Buffer& buffer : program.buffers) {
    const Buffer*& known = first[static_cast<std::size_t>(buffer.kind)];
    if (known == nullptr) known = &buffer;
    if (is_staged(buffer.kind) && byte_set(buffer) != byte_set(*known))
      return bad_declaration(program, "buffers '" + known->name + "' and '" + buffer.name +
                                          "' have different elements");
  }
  return ok_status();
}

Status check_declarations(const Program& program) {
  if (program.lanes != 4 && program.lanes != 8 && program.lanes != 16) {
    return bad_declaration(program, "lanes");
  }
  if (program.vector_registers < 0 || program.vector_registers > 32 || program.mask_registers < 0 ||
      program.mask_registers > 7) {
    return bad_declaration(program, "no machine has so many registers");
  }
  if (Status tables = check_tables(program); !tables) return tables;
  int outputs = 0, workspaces = 0;
  for (const Buffer& buffer : program.buffers) {
    if (Status status = check_buffer(program, buffer); !status) return status;
    outputs += buffer.kind == BufferKind::dst;
    workspaces += buffer.kind == BufferKind::workspace;
  }
  if (Status status = check_views(program); !status) return status;
  if (outputs != 1) return bad_declaration(program, "it needs exactly one output buffer");
  if (workspaces > 1) return bad_declaration(program, "it has more than one workspace buffer");
  for (const Address& address : program.addresses) {
    if (address.buffer >= program.buffers.size()) return bad_declaration(program, "no such buffer");
  }
  return ok_status();
}

Error too_large(const Program& program, const Stage& stage) {
  return {ErrorCode::unsupported,
          place_text(program, stage, -1) + "too many combinations of scalars to verify"};
}

}  // namespace

}  // namespace verifier

Result<VerifyStats> verify(const Program& program) {
  using namespace verifier;
  if (Status status = check_declarations(program); !status) return status.error();
  VerifyStats stats;
  std::deque<StageProof> proofs;
  for (const Stage& stage : program.stages) {
    Result<StageFacts> facts = check_structure(program, stage);
    if (!facts) return facts.error();
    StageProof& proof = proofs.emplace_back(program, stage, std::move(*facts));
    Status status = check_bounds(program, proof);
    if (status) status = check_workspace(program, proof);
    if (proof.spaces.too_large()) return too_large(program, stage);
    if (!status) return status.error();
  }
  const Status covered = check_coverage(program, proofs);
  for (const StageProof& proof : proofs) {
    if (proof.spaces.too_large()) return too_large(program, proof.stage);
    stats.accesses += proof.facts.accesses;
    stats.enumerated += proof.spaces.enumerated();
  }
  if (!covered) return covered.error();
  return stats;
}

}  // namespace convt::program
