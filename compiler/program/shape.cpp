#include "compiler/program/shape.hpp"

#include <algorithm>
#include <cstring>
#include <string>

namespace convt::program {
namespace {

Error differs(const Program& program, const std::string& what) {
  return {ErrorCode::internal,
          "program '" + program.name + "': other lengths have another " + what};
}

bool same_but_for_lengths(const Buffer& a, const Buffer& b) {
  if (a.kind != b.kind || a.type != b.type || a.axes != b.axes || a.batch_axis != b.batch_axis ||
      a.dynamic_strides != b.dynamic_strides)
    return false;
  for (std::size_t axis = 0; axis < static_cast<std::size_t>(a.axes); ++axis)
    if (!a.has_dynamic_stride(axis) && a.stride[axis] != b.stride[axis]) return false;
  return true;
}

bool same_but_for_lengths(const Extent& a, const Extent& b) {
  return a.batch_block == b.batch_block && a.dynamic == b.dynamic &&
         (a.dynamic || a.constant == b.constant);
}

/// Bodies add constants to the buffers that are declared before them.
bool is_constant_block(const Buffer& buffer) { return buffer.kind == BufferKind::constants; }

}  // namespace

bool is_dynamic(const Program& program) {
  const auto any = [](const auto& items, const auto& is) {
    return std::any_of(items.begin(), items.end(), is);
  };
  return any(program.buffers, [](const Buffer& buffer) { return buffer.dynamic_strides != 0; }) ||
         any(program.tables, [](const Table& table) { return table.dynamic; }) ||
         any(program.stages, [&](const Stage& stage) {
           return any(stage.grid, [](const Coordinate& c) { return c.extent.dynamic; });
         });
}

ShapeLayout make_shape_layout(const Program& program) {
  ShapeLayout layout;
  const auto place = [&](bool dynamic) { return dynamic ? layout.words++ : -1; };
  for (const Buffer& buffer : program.buffers) {
    auto& strides = layout.strides.emplace_back();
    for (std::size_t axis = 0; axis < kMaxAxes; ++axis)
      strides[axis] = place(buffer.has_dynamic_stride(axis));
  }
  for (const Stage& stage : program.stages) {
    auto& extents = layout.extents.emplace_back();
    for (const Coordinate& coordinate : stage.grid)
      extents.push_back(place(coordinate.extent.dynamic));
  }
  for (const Table& table : program.tables) layout.tables.push_back(place(table.dynamic));
  return layout;
}

std::vector<std::int64_t> make_shape_block(const Program& program) {
  const ShapeLayout layout = make_shape_layout(program);
  std::vector<std::int64_t> block(static_cast<std::size_t>(layout.words));
  const auto set = [&](std::int32_t word, std::int64_t value) {
    if (word >= 0) block[static_cast<std::size_t>(word)] = value;
  };
  for (std::size_t b = 0; b < program.buffers.size(); ++b)
    for (std::size_t axis = 0; axis < kMaxAxes; ++axis)
      set(layout.strides[b][axis], program.buffers[b].stride[axis]);
  for (std::size_t s = 0; s < program.stages.size(); ++s)
    for (std::size_t c = 0; c < program.stages[s].grid.size(); ++c)
      set(layout.extents[s][c], program.stages[s].grid[c].extent.constant);
  constexpr std::size_t kWord = sizeof(std::int64_t);
  for (std::size_t t = 0; t < program.tables.size(); ++t) {
    if (layout.tables[t] < 0) continue;
    const std::vector<std::int32_t>& values = program.tables[t].values;
    const std::size_t at = block.size(), bytes = values.size() * sizeof(values[0]);
    set(layout.tables[t], static_cast<std::int64_t>(at * kWord));
    block.resize(at + (bytes + kWord - 1) / kWord);
    if (bytes > 0) std::memcpy(block.data() + at, values.data(), bytes);
  }
  return block;
}

Result<Program> specialise(Program program, const Program& shape) {
  const auto declared = static_cast<std::size_t>(
      std::count_if(program.buffers.begin(), program.buffers.end(),
                    [](const Buffer& buffer) { return !is_constant_block(buffer); }));
  if (shape.buffers.size() < declared || shape.stages.size() != program.stages.size())
    return differs(program, "count of buffers or stages");
  for (std::size_t b = 0, other = 0; b < program.buffers.size(); ++b) {
    Buffer& buffer = program.buffers[b];
    if (is_constant_block(buffer)) continue;
    while (other < shape.buffers.size() && is_constant_block(shape.buffers[other])) ++other;
    if (other == shape.buffers.size() || !same_but_for_lengths(buffer, shape.buffers[other]))
      return differs(program, "buffer '" + buffer.name + "'");
    buffer = shape.buffers[other++];
  }
  std::size_t next = 0;
  for (Table& table : program.tables) {
    if (!table.dynamic) continue;
    while (next < shape.tables.size() && !shape.tables[next].dynamic) ++next;
    if (next == shape.tables.size() || shape.tables[next].name != table.name ||
        shape.tables[next].columns != table.columns)
      return differs(program, "table '" + table.name + "'");
    table.values = shape.tables[next++].values;
  }
  for (std::size_t s = 0; s < program.stages.size(); ++s) {
    Stage& stage = program.stages[s];
    const Stage& other = shape.stages[s];
    if (stage.name != other.name || stage.grid.size() != other.grid.size())
      return differs(program, "grid of stage '" + stage.name + "'");
    for (std::size_t c = 0; c < stage.grid.size(); ++c) {
      if (!same_but_for_lengths(stage.grid[c].extent, other.grid[c].extent))
        return differs(program, "grid of stage '" + stage.name + "'");
      stage.grid[c].extent = other.grid[c].extent;
    }
  }
  return program;
}

}  // namespace convt::program
