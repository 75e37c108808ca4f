#include "compiler/problem/tensor_shapes.hpp"

#include <cstddef>

namespace convt {
namespace {

std::vector<std::int64_t> tensor_shape(const Problem& problem, std::int64_t batch,
                                       std::int64_t channels, std::int64_t Axis::*length) {
  std::vector<std::int64_t> shape;
  if (batch >= 0) shape.push_back(batch);
  if (problem.layout == Layout::nchw) shape.push_back(channels);
  for (int a = 0; a < problem.rank; ++a) {
    shape.push_back(problem.axes[static_cast<std::size_t>(a)].*length);
  }
  if (problem.layout == Layout::nhwc) shape.push_back(channels);
  return shape;
}

}  // namespace

std::vector<std::int64_t> src_shape(const Problem& problem, std::int64_t batch) {
  return tensor_shape(problem, batch, problem.in_channels, &Axis::input);
}

std::vector<std::int64_t> dst_shape(const Problem& problem, std::int64_t batch) {
  return tensor_shape(problem, batch, problem.out_channels, &Axis::output);
}

std::vector<std::int64_t> weights_shape(const Problem& problem) {
  std::vector<std::int64_t> shape{problem.in_channels, problem.oc_per_group()};
  for (int a = 0; a < problem.rank; ++a) {
    shape.push_back(problem.axes[static_cast<std::size_t>(a)].kernel);
  }
  return shape;
}

}  // namespace convt
