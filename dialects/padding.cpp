#include "dialects/padding.hpp"

#include <algorithm>

namespace convt::dialects {
namespace {

void cut_to_length(const AxisRule& rule, std::int64_t length, Axis* axis) {
  const std::int64_t total = std::max<std::int64_t>(0, axis->full() + rule.uncropped - length);
  axis->crop_begin = (total + (rule.odd_first ? 1 : 0)) / 2;
  axis->output = length;
}

}  // namespace

Axis make_axis(const AxisRule& rule, std::int64_t input) {
  Axis axis;
  axis.input = input;
  axis.kernel = rule.kernel;
  axis.stride = rule.stride;
  axis.dilation = rule.dilation;
  const std::int64_t reach = axis.effective_kernel();
  const std::int64_t steps = (input - 1) * rule.stride;
  switch (rule.rule) {
    case PaddingRule::crop:
      axis.crop_begin = rule.begin;
      axis.output = axis.full() - rule.begin - rule.end + rule.output_padding;
      break;
    case PaddingRule::stretch:
      axis.output = steps + std::max(reach, rule.stride);
      break;
    case PaddingRule::scale:
      cut_to_length(rule, input * rule.stride, &axis);
      break;
    case PaddingRule::fixed:
      cut_to_length(rule, rule.length, &axis);
      break;
    case PaddingRule::scale_parity:
      cut_to_length(rule, steps + reach % 2 + rule.output_padding, &axis);
      break;
  }
  if (rule.zeros) axis.zero_tail = rule.output_padding;
  return axis;
}

}  // namespace convt::dialects
