#include <convt/layer.hpp>

namespace convt {
namespace {

/// Sums and products that remember whether any of them overflowed.
class Checked {
 public:
  Checked(std::int64_t value) : value_(value) {}  // NOLINT(google-explicit-constructor)

  friend Checked operator+(Checked a, Checked b) {
    a.overflow_ |= b.overflow_ | __builtin_add_overflow(a.value_, b.value_, &a.value_);
    return a;
  }
  friend Checked operator-(Checked a, Checked b) {
    a.overflow_ |= b.overflow_ | __builtin_sub_overflow(a.value_, b.value_, &a.value_);
    return a;
  }
  friend Checked operator*(Checked a, Checked b) {
    a.overflow_ |= b.overflow_ | __builtin_mul_overflow(a.value_, b.value_, &a.value_);
    return a;
  }
  [[nodiscard]] std::int64_t value_or(std::int64_t other) const {
    return overflow_ ? other : value_;
  }

 private:
  std::int64_t value_;
  bool overflow_ = false;
};

template <std::size_t Rank>
Problem make_problem(const ConvTranspose<Rank>& layer) {
  Problem problem;
  problem.rank = static_cast<int>(Rank);
  problem.in_channels = layer.in_channels;
  problem.out_channels = layer.out_channels;
  problem.groups = layer.groups;
  problem.bias = layer.bias;
  problem.layout = layer.layout;
  problem.dtype = layer.dtype;
  problem.dst_dtype = default_dst_dtype(layer.dtype);
  problem.epilogue = layer.epilogue;
  for (std::size_t a = 0; a < Rank; ++a) {
    Axis& axis = problem.axes[a];
    axis.input = layer.input[a];
    axis.kernel = layer.kernel[a];
    axis.stride = layer.stride[a];
    axis.dilation = layer.dilation[a];
    axis.crop_begin = layer.padding[a];
    const Checked full =
        (Checked(axis.input) - 1) * axis.stride + (Checked(axis.kernel) - 1) * axis.dilation + 1;
    axis.output = (full - Checked(2) * layer.padding[a] + layer.output_padding[a]).value_or(-1);
  }
  return problem;
}

}  // namespace

Problem conv_transpose1d(const ConvTranspose<1>& layer) { return make_problem(layer); }
Problem conv_transpose2d(const ConvTranspose<2>& layer) { return make_problem(layer); }
Problem conv_transpose3d(const ConvTranspose<3>& layer) { return make_problem(layer); }

}  // namespace convt
