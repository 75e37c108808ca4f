// Bounds: look-ups and accesses, each against its table or axis.
#include <array>
#include <bit>
#include <string>

#include "compiler/program/verifier_checks.hpp"

namespace convt::program::verifier {
namespace {

/// Independent conditions are first taken one by one; what then cannot be proved is tried jointly.
constexpr std::int64_t kQuick = std::int64_t{1} << 13;
constexpr std::int64_t kThorough = std::int64_t{1} << 22;

class Bounds {
 public:
  Bounds(const Program& program, StageProof& proof)
      : program_(program), stage_(proof.stage), facts_(proof.facts), spaces_(proof.spaces) {}

  Status check() {
    for (const LetUse& let : facts_.lets) {
      if (Status status = check_let(let); !status) return status;
    }
    for (const Node& node : facts_.nodes) {
      if (Status status = check_trip(node); !status) return status;
    }
    for (const AccessGroup& group : facts_.groups) {
      if (Status status = check_group(group); !status) return status;
    }
    for (const Footprint& access : facts_.varying) {
      if (Status status = check_varying(access); !status) return status;
    }
    return ok_status();
  }

 private:
  /// Whether form + offset lies in [0, extent) where `node` runs. `high_form` may differ from
  /// `form`.
  struct Question {
    Terms low_form, high_form;
    std::int64_t low_offset = 0, high_offset = 0, extent = 0;
  };
  struct Answer {
    bool low_inside = true, high_inside = true;
    std::int64_t low = 0, high = 0;
  };

  Answer ask(const Question& question, std::int32_t node, std::int64_t limit) {
    const Interval low = spaces_.range(question.low_form, node, limit);
    const bool same = question.low_form.data() == question.high_form.data();
    const Interval high = same ? low : spaces_.range(question.high_form, node, limit);
    if (low.empty || high.empty) return {};
    const Answer answer{true, true, low.low + question.low_offset,
                        high.high + question.high_offset};
    return {answer.low >= 0, answer.high < question.extent, answer.low, answer.high};
  }

  Answer prove(const Question& question, std::int32_t node) {
    const Answer quick = ask(question, node, kQuick);
    return quick.low_inside && quick.high_inside ? quick : ask(question, node, kThorough);
  }

  Status check_let(const LetUse& let) {
    if (facts_.node(let.node).never_runs) return ok_status();
    const Scalar& scalar = program_.scalars[stage_.code[static_cast<std::size_t>(let.at)].scalar];
    const Table& table = program_.tables[scalar.table];
    const Terms row = scalar.row.terms;
    const Answer answer =
        prove({row, row, scalar.row.constant, scalar.row.constant, table.rows()}, let.node);
    if (answer.low_inside && answer.high_inside) return ok_status();
    return defect(program_, stage_, let.at,
                  "'" + scalar.name + "' reads rows " + std::to_string(answer.low) + ".." +
                      std::to_string(answer.high) + " of table '" + table.name + "', which has " +
                      std::to_string(table.rows()));
  }

  /// Backends may test a trip against 0 only.
  Status check_trip(const Node& node) {
    if (!node.is_loop || node.never_runs) return ok_status();
    const ScalarId trip = stage_.code[static_cast<std::size_t>(node.begin)].trip_scalar;
    if (trip == kNone) return ok_status();
    const std::array<Affine::Term, 1> form{{{trip, 1}}};
    const Answer answer = prove({form, form, 0, 0, kMaxValue + 1}, node.parent);
    if (answer.low_inside && answer.high_inside) return ok_status();
    return defect(
        program_, stage_, node.begin,
        "its trip, '" + program_.scalars[trip].name + "', can be " + std::to_string(answer.low));
  }

  Status check_group(const AccessGroup& group) {
    if (facts_.node(group.node).never_runs || group.span[0].low > group.span[0].high) {
      return ok_status();
    }
    const Address& address = program_.addresses[group.address];
    const Buffer& buffer = program_.buffers[address.buffer];
    for (int axis = 0; axis < buffer.axes; ++axis) {
      const Status status = axis == buffer.batch_axis ? check_batch_axis(group, buffer, axis)
                                                      : check_axis(group, buffer, axis);
      if (!status) return status;
    }
    return ok_status();
  }

  /// An access whose lanes are a scalar's bits: where that is 0 it touches nothing, but for that it
  /// is as any other on all axes but that of its lanes.
  Status check_varying(const Footprint& access) {
    if (facts_.node(access.node).never_runs) return ok_status();
    const Mem& mem = stage_.code[static_cast<std::size_t>(access.at)].mem;
    AccessGroup group;
    group.address = mem.address;
    group.node = access.node;
    for (std::size_t axis = 0; axis < kMaxAxes; ++axis)
      group.span[axis] = {mem.delta[axis], mem.delta[axis], access.at, access.at};
    const Buffer& buffer = program_.buffers[program_.addresses[mem.address].buffer];
    for (int axis = 0; axis < buffer.axes; ++axis) {
      const Status status = axis == mem.lane_axis       ? check_lanes(access, mem, buffer)
                            : axis == buffer.batch_axis ? check_batch_axis(group, buffer, axis)
                                                        : check_axis(group, buffer, axis);
      if (!status) return status;
    }
    return ok_status();
  }

  Status check_lanes(const Footprint& access, const Mem& mem, const Buffer& buffer) {
    const int axis = mem.lane_axis;
    if (axis == buffer.batch_axis)
      return defect(program_, stage_, access.at, "lanes that vary run along the batch");
    const Affine& index = program_.addresses[mem.address].index[mem.lane_axis];
    const Terms terms = index.terms;
    const BaseSet enumerated = spaces_.enumerated_for(terms) | spaces_.bases(access.lane_scalar);
    const SelectionId selection = spaces_.select(enumerated, access.node);
    const std::uint64_t all = (std::uint64_t{1} << program_.lanes) - 1;
    for (const std::int32_t point : spaces_.points(selection)) {
      if (spaces_.too_large()) return ok_status();  // and so refused
      const auto at = static_cast<std::size_t>(point);
      const std::uint64_t lanes =
          static_cast<std::uint64_t>(spaces_.column(selection, access.lane_scalar)[at]) & all;
      if (lanes == 0) continue;
      const Interval values = spaces_.range_at(terms, selection, at);
      const std::int64_t offset = index.constant + mem.delta[mem.lane_axis];
      const std::int64_t low = values.low + offset + std::countr_zero(lanes);
      const std::int64_t high = values.high + offset + std::bit_width(lanes) - 1;
      const std::int64_t extent = buffer.extent[mem.lane_axis];
      if (low >= 0 && high < extent) continue;
      const Span span{0, 0, access.at, access.at};
      return out_of_bounds(span, buffer, axis, {low >= 0, high < extent, low, high},
                           std::to_string(extent));
    }
    return ok_status();
  }

  Status check_axis(const AccessGroup& group, const Buffer& buffer, int axis) {
    const Affine& index = program_.addresses[group.address].index[static_cast<std::size_t>(axis)];
    const Span& span = group.span[static_cast<std::size_t>(axis)];
    const Answer answer =
        prove({index.terms, index.terms, index.constant + span.low, index.constant + span.high,
               buffer.extent[static_cast<std::size_t>(axis)]},
              group.node);
    if (answer.low_inside && answer.high_inside) return ok_status();
    return out_of_bounds(span, buffer, axis, answer,
                         std::to_string(buffer.extent[static_cast<std::size_t>(axis)]));
  }

  /// In the index b*block + local, local must be in [0, count) for every count of images that a
  /// block can have. The block's column holds that count: `local` drops it, `local - count` has it
  /// at -1.
  Status check_batch_axis(const AccessGroup& group, const Buffer& buffer, int axis) {
    const Affine& index = program_.addresses[group.address].index[static_cast<std::size_t>(axis)];
    const Span& span = group.span[static_cast<std::size_t>(axis)];
    const BatchIndex split = split_batch_index(index, facts_);
    const Affine above = split.block == kNone ? split.local : split.local - Affine::of(split.block);
    // Without a block only image 0 is sure to be there.
    const std::int64_t extent = split.block == kNone ? 1 : 0;
    const Answer answer = prove({split.local.terms, above.terms, index.constant + span.low,
                                 index.constant + span.high, extent},
                                group.node);
    if (answer.low_inside && answer.high_inside) return ok_status();
    return out_of_bounds(span, buffer, axis, answer,
                         split.block == kNone ? "N, which may be 1" : "0 relative to N");
  }

  Status out_of_bounds(const Span& span, const Buffer& buffer, int axis, const Answer& answer,
                       const std::string& extent) {
    return defect(program_, stage_, answer.low_inside ? span.high_at : span.low_at,
                  "axis " + std::to_string(axis) + " of '" + buffer.name + "': index " +
                      std::to_string(answer.low) + ".." + std::to_string(answer.high) +
                      " is not proved to be inside extent " + extent);
  }

  const Program& program_;
  const Stage& stage_;
  const StageFacts& facts_;
  Spaces& spaces_;
};

}  // namespace

Status check_bounds(const Program& program, StageProof& proof) {
  return Bounds(program, proof).check();
}

BatchIndex split_batch_index(const Affine& index, const StageFacts& facts) {
  BatchIndex split;
  split.local.constant = index.constant;
  for (const Affine::Term& term : index.terms) {
    if (facts.scalars[term.scalar].batch_block) {
      split.block = term.scalar;
    } else {
      split.local.terms.push_back(term);
    }
  }
  return split;
}

}  // namespace convt::program::verifier
