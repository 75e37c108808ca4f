#include "compiler/program/verifier_space.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace convt::program::verifier {
namespace {

/// Largest space. Beyond it a Program is refused, not proved slowly.
constexpr std::int64_t kMaxPoints = std::int64_t{1} << 22;

/// The innermost loop around `node` whose counter is in the set, or -1.
std::int32_t innermost_loop_in(const StageFacts& facts, BaseSet set, std::int32_t node) {
  for (; node > 0; node = facts.node(node).parent) {
    const Node& block = facts.node(node);
    if (block.is_loop && (set & loop_bit(block.loop_depth - 1)) != 0) return node;
  }
  return -1;
}

std::int64_t greatest_in_column(const Program& program, const Scalar& let) {
  const Table& table = program.tables[let.table];
  std::int64_t most = 0;
  for (std::size_t i = let.column; i < table.values.size(); i += table.columns) {
    most = std::max<std::int64_t>(most, table.values[i]);
  }
  return most;
}

}  // namespace

Spaces::Spaces(const Program& program, const Stage& stage, const StageFacts& facts)
    : program_(program), stage_(stage), facts_(facts) {}

std::size_t Spaces::KeyHash::operator()(const std::vector<std::int64_t>& key) const {
  std::uint64_t hash = key.size();
  for (const std::int64_t word : key) {
    hash = (hash ^ static_cast<std::uint64_t>(word)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  }
  return static_cast<std::size_t>(hash);
}

// Bases.

const Inst& Spaces::begin_of(std::int32_t node) const {
  return stage_.code[static_cast<std::size_t>(facts_.node(node).begin)];
}

Base Spaces::base_of(ScalarId scalar) const {
  const ScalarFacts& facts = facts_.scalars[scalar];
  if (program_.scalars[scalar].kind == ScalarKind::coordinate) {
    return {scalar, facts.bases, facts.extent, kNone};
  }
  const Inst& loop = begin_of(facts.node);
  return {scalar, loop_bit(facts_.node(facts.node).loop_depth - 1), loop.imm, loop.trip_scalar};
}

std::vector<Base> Spaces::bases_of(BaseSet set, std::int32_t node) const {
  std::vector<Base> result;
  for (; node > 0; node = facts_.node(node).parent) {
    const Node& block = facts_.node(node);
    if (block.is_loop && (set & loop_bit(block.loop_depth - 1)) != 0) {
      result.push_back(base_of(begin_of(node).scalar));
    }
  }
  for (std::size_t i = stage_.grid.size(); i-- > 0;) {
    if ((set & coordinate_bit(i)) != 0) result.push_back(base_of(stage_.grid[i].scalar));
  }
  std::reverse(result.begin(), result.end());
  return result;
}

BaseSet Spaces::bases(Terms terms) const {
  BaseSet set = 0;
  for (const Affine::Term& term : terms) set |= bases(term.scalar);
  return set;
}

BaseSet Spaces::enumerated_for(Terms terms) const {
  BaseSet set = 0;
  for (const Affine::Term& term : terms) {
    const ScalarKind kind = program_.scalars[term.scalar].kind;
    const bool is_base = kind == ScalarKind::coordinate || kind == ScalarKind::loop;
    const bool is_linear = is_base && !facts_.scalars[term.scalar].batch_block;
    set |= is_linear ? bases(term.scalar) & ~base_of(term.scalar).bit : bases(term.scalar);
  }
  return set;
}

/// An upper bound of the points of a space.
std::int64_t Spaces::size_of(BaseSet set, std::int32_t node) const {
  std::int64_t size = 1;
  for (const Base& base : bases_of(set, node)) {
    std::int64_t trip = base.trip;
    if (base.trip_scalar != kNone) {
      const Scalar& scalar = program_.scalars[base.trip_scalar];
      trip = scalar.kind == ScalarKind::let ? greatest_in_column(program_, scalar) : kMaxPoints;
    }
    size *= std::clamp<std::int64_t>(trip, 1, kMaxPoints);
    if (size > kMaxPoints) return size;
  }
  return size;
}

// Spaces.

std::size_t Spaces::find_space(BaseSet enumerated, std::int32_t node) {
  const std::int32_t innermost = innermost_loop_in(facts_, enumerated, node);
  for (std::size_t id = 0; id < spaces_.size(); ++id) {
    if (spaces_[id].enumerated == enumerated && spaces_[id].innermost_loop == innermost) return id;
  }
  Space& space = spaces_.emplace_back();
  space.enumerated = enumerated;
  space.innermost_loop = innermost;
  space.columns.resize(program_.scalars.size());
  space.selection_of.assign(facts_.nodes.size(), -1);
  for (const Base& base : bases_of(enumerated, node)) enumerate(space, base);
  enumerated_ += space.size;
  return spaces_.size() - 1;
}

/// Splits each point into one for each value of the base.
void Spaces::enumerate(Space& space, const Base& base) {
  const auto old_size = static_cast<std::size_t>(space.size);
  Column trips(old_size, static_cast<std::int32_t>(base.trip));
  if (base.trip_scalar != kNone) trips = column(space, base.trip_scalar);
  std::int64_t size = 0;
  for (const std::int32_t trip : trips) size += std::max(trip, 0);
  if (size > kMaxPoints) too_large_ = true;
  space.size = too_large_ ? 0 : size;
  const std::int32_t first = facts_.scalars[base.scalar].batch_block ? 1 : 0;
  std::vector<std::int32_t> origin;
  Column values;
  for (std::size_t p = 0; p < old_size && !too_large_; ++p) {
    for (std::int32_t value = 0; value < trips[p]; ++value) {
      origin.push_back(static_cast<std::int32_t>(p));
      values.push_back(value + first);
    }
  }
  for (std::size_t scalar = 0; scalar < space.columns.size(); ++scalar) {
    Column& known = space.columns[scalar];
    if (known.empty()) continue;
    Column spread(origin.size());
    for (std::size_t p = 0; p < origin.size(); ++p) {
      spread[p] = known[static_cast<std::size_t>(origin[p])];
    }
    known = std::move(spread);
  }
  space.columns[base.scalar] = std::move(values);
}

const Column& Spaces::column(Space& space, ScalarId id) {
  Column& column_of_id = space.columns[id];
  if (!column_of_id.empty() || space.size == 0) return column_of_id;
  const Scalar& scalar = program_.scalars[id];
  if (scalar.kind == ScalarKind::batch_count) return column_of_id = column(space, scalar.block);
  return column_of_id = look_up(space, scalar);
}

/// Rows outside the table can occur only at points where the let does not run: its own row is
/// checked.
Column Spaces::look_up(Space& space, const Scalar& let) {
  const Table& table = program_.tables[let.table];
  std::vector<std::int64_t> rows(static_cast<std::size_t>(space.size), let.row.constant);
  for (const Affine::Term& term : let.row.terms) {
    const Column& values = column(space, term.scalar);
    for (std::size_t p = 0; p < rows.size(); ++p) rows[p] += term.coefficient * values[p];
  }
  const std::int64_t row_count = table.rows();
  Column values(rows.size());
  for (std::size_t p = 0; p < rows.size(); ++p) {
    if (rows[p] < 0 || rows[p] >= row_count) continue;
    values[p] = table.values[static_cast<std::size_t>(rows[p] * table.columns + let.column)];
  }
  return values;
}

// Selections.

SelectionId Spaces::select(BaseSet enumerated, std::int32_t node) {
  return select_in(find_space(enumerated, node), node);
}

SelectionId Spaces::select_in(std::size_t space, std::int32_t node) {
  SelectionId known = spaces_[space].selection_of[static_cast<std::size_t>(node)];
  if (known >= 0) return known;
  if (node == 0) {
    Selection& all = selections_.emplace_back();
    all.space = space;
    all.points.resize(static_cast<std::size_t>(spaces_[space].size));
    std::iota(all.points.begin(), all.points.end(), 0);
    known = static_cast<SelectionId>(selections_.size()) - 1;
  } else {
    const Node& block = facts_.node(node);
    known = select_in(space, block.parent);
    const bool is_condition = !block.is_loop || begin_of(node).trip_scalar != kNone;
    const bool is_decided = (block.condition & ~spaces_[space].enumerated) == 0;
    if (is_condition && is_decided) known = refine(known, node);
  }
  return spaces_[space].selection_of[static_cast<std::size_t>(node)] = known;
}

SelectionId Spaces::refine(SelectionId outer_id, std::int32_t node) {
  const Inst& begin = begin_of(node);
  const bool is_loop = facts_.node(node).is_loop;
  const Column& values = column(outer_id, is_loop ? begin.trip_scalar : begin.scalar);
  Selection& inner = selections_.emplace_back();
  const Selection& outer = selections_[static_cast<std::size_t>(outer_id)];
  inner.space = outer.space;
  for (const std::int32_t point : outer.points) {
    const std::int32_t value = values[static_cast<std::size_t>(point)];
    if (is_loop ? value >= 1 : value == begin.imm) inner.points.push_back(point);
  }
  return static_cast<SelectionId>(selections_.size()) - 1;
}

const std::vector<std::int32_t>& Spaces::points(SelectionId selection) const {
  return selections_[static_cast<std::size_t>(selection)].points;
}

const Column& Spaces::column(SelectionId selection, ScalarId scalar) {
  return column(spaces_[selections_[static_cast<std::size_t>(selection)].space], scalar);
}

// Ranges.

/// Terms that share bases, directly or through a condition, vary together and are enumerated
/// together; the ranges of what is independent add up.
Interval Spaces::range(Terms terms, std::int32_t node, std::int64_t limit) {
  Interval sum{0, 0, false};
  std::array<Affine::Term, kMaxTerms> part;
  std::array<bool, kMaxTerms> used{};
  for (std::size_t first = 0; first < terms.size(); ++first) {
    if (used[first]) continue;
    BaseSet component = bases(terms[first].scalar), before = 0, enumerated = 0;
    std::size_t count = 0;
    do {
      before = component;
      count = 0;
      for (std::size_t i = first; i < terms.size(); ++i) {
        if (i != first && (bases(terms[i].scalar) & component) == 0) continue;
        component |= bases(terms[i].scalar);
        part[count++] = terms[i];
        used[i] = true;
      }
      enumerated = enumerated_for({part.data(), count});
      join_conditions(component, enumerated, node, limit);
    } while (component != before);
    const Interval values = component_range({part.data(), count}, enumerated, node);
    sum.low += values.low;
    sum.high += values.high;
    sum.empty = sum.empty || values.empty;
  }
  return sum;
}

void Spaces::join_conditions(BaseSet& component, BaseSet& enumerated, std::int32_t node,
                             std::int64_t limit) const {
  for (; node > 0; node = facts_.node(node).parent) {
    const BaseSet condition = facts_.node(node).condition;
    const BaseSet joined = enumerated | condition;
    if ((condition & component) == 0 || joined == enumerated) continue;
    if (size_of(joined, node) > limit) continue;
    enumerated = joined;
    component |= condition;
  }
}

Interval Spaces::component_range(Terms terms, BaseSet enumerated, std::int32_t node) {
  const SelectionId selection = select(enumerated, node);
  key_.assign(1, selection);
  for (const Affine::Term& term : terms) {
    const bool linear = is_linear(term.scalar, enumerated);
    const Base base = linear ? base_of(term.scalar) : Base{term.scalar, 0, -1, kNone};
    const std::int64_t varies_with = base.trip_scalar == kNone ? -base.trip : base.trip_scalar;
    key_.insert(key_.end(), {linear ? varies_with : term.scalar, linear, term.coefficient});
  }
  const auto [found, is_new] = ranges_.try_emplace(key_);
  if (is_new) found->second = sum_terms(terms, selection, enumerated);
  return found->second;
}

bool Spaces::is_linear(ScalarId scalar, BaseSet enumerated) const {
  const ScalarKind kind = program_.scalars[scalar].kind;
  if (kind != ScalarKind::coordinate && kind != ScalarKind::loop) return false;
  return (base_of(scalar).bit & enumerated) == 0;
}

Interval Spaces::range_at(Terms terms, SelectionId selection, std::size_t point) {
  const std::size_t space = selections_[static_cast<std::size_t>(selection)].space;
  const BaseSet enumerated = spaces_[space].enumerated;
  Interval sum{0, 0, false};
  for (const Affine::Term& term : terms) {
    if (!is_linear(term.scalar, enumerated)) {
      const std::int64_t value = term.coefficient * column(selection, term.scalar)[point];
      sum.low += value;
      sum.high += value;
      continue;
    }
    const Base base = base_of(term.scalar);
    const std::int64_t trip =
        base.trip_scalar == kNone ? base.trip : column(selection, base.trip_scalar)[point];
    const std::int64_t far = term.coefficient * (trip - 1);
    (far < 0 ? sum.low : sum.high) += far;
  }
  return sum;
}

/// Least and greatest sum over the points. Selected points have trips of at least 1.
Interval Spaces::sum_terms(Terms terms, SelectionId selection, BaseSet enumerated) {
  const std::vector<std::int32_t>& selected = points(selection);
  low_.assign(selected.size(), 0);
  high_.assign(selected.size(), 0);
  for (const Affine::Term& term : terms) {
    const bool linear = is_linear(term.scalar, enumerated);
    const Base base = linear ? base_of(term.scalar) : Base{};
    const ScalarId varies_with = linear ? base.trip_scalar : term.scalar;
    const Column* values = varies_with == kNone ? nullptr : &column(selection, varies_with);
    for (std::size_t i = 0; i < selected.size(); ++i) {
      const std::int64_t value =
          values == nullptr ? base.trip : (*values)[static_cast<std::size_t>(selected[i])];
      const std::int64_t far = term.coefficient * (linear ? value - 1 : value);
      low_[i] += linear ? std::min<std::int64_t>(far, 0) : far;
      high_[i] += linear ? std::max<std::int64_t>(far, 0) : far;
    }
  }
  enumerated_ += static_cast<std::int64_t>(selected.size());
  if (selected.empty()) return {};
  return {*std::min_element(low_.begin(), low_.end()),
          *std::max_element(high_.begin(), high_.end()), false};
}

}  // namespace convt::program::verifier
