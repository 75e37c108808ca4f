// The reference: what every kernel must compute, in double precision. **The place to start
// reading**: reference_conv_transpose() is the definition of the operator, written as it is said.
//
// The definition *scatters*: every input element is multiplied with every tap and added to the
// output that it lands on, if that output is kept. Kernels *gather* instead (see phases.hpp); so
// does reference_at(), which is how large layers are checked on a sample.
#pragma once

#include <cstdint>
#include <string>

#include <convt/problem.hpp>

#include "compiler/problem/tensor.hpp"

namespace convt {

/// What a layer computes with. Element types, layout and channel pitches are the Problem's.
struct LayerTensors {
  const void* src = nullptr;                ///< x
  const void* weights = nullptr;            ///< canonical, of weights_dtype()
  const float* bias = nullptr;              ///< read when problem.bias is set; null means zeros
  const float* parameters = nullptr;        ///< (problem.parameter_rows(), Cout)
  const float* input_parameters = nullptr;  ///< (rows of the input activation, Cin)
  const void* residual = nullptr;           ///< of y's shape and element type
};

/// y of a valid Problem, in double precision, slow and obvious: before it is rounded to y's element
/// type (with s8 and u8 v / dst_scale + dst_zero_point, neither rounded nor clamped).
///
/// `dst` has the Problem's layout and channel pitch; elements between the slices of a pitched `dst`
/// are left alone. `magnitude`, if not null, is laid out like `dst` and receives |bias| + sum |x*w|
/// of each output (terms that are not finite are left out: see error_ratio), times |scale| with s8
/// and u8.
void reference_conv_transpose(const Problem& problem, std::int64_t batch,
                              const LayerTensors& tensors, double* dst, double* magnitude);

/// An element of x or of the weights as it goes into products.
struct Operand {
  double value = 0;
  double error = 0;  ///< how far the kernel's may be from it
};

/// x: rounded as the math mode says, less the zero point, activated. `offset` counts elements.
Operand input_operand(const Problem& problem, const LayerTensors& tensors, std::int64_t channel,
                      std::int64_t offset);
Operand weight_operand(const Problem& problem, const LayerTensors& tensors, std::int64_t offset);

/// Whether some operands have an error: those of an input activation, and denormals where products
/// are of bfloat16.
bool operands_may_err(const Problem& problem, const LayerTensors& tensors, std::int64_t batch);

/// One output element.
struct ReferenceSample {
  double value = 0;        ///< v: before it is rounded to y's type
  double magnitude = 0;    ///< |bias| + sum |x*w| over the terms that are finite
  std::int64_t terms = 0;  ///< T: products that reach the element
  bool zero_tail = false;  ///< starts from 0 by definition
  double spread = 0;       ///< what the operands' errors may change the sum by
  double below = 0;        ///< how far under (over) `value` a right kernel's v may lie
  double above = 0;
  bool any = false;  ///< whatever the kernel has is right
};

/// The output element (n, co, o), gathered: O(K * Cin/g) for this one element.
ReferenceSample reference_at(const Problem& problem, const LayerTensors& tensors, std::int64_t n,
                             std::int64_t co, const Position& o);

/// Makes an element of its sum: scale, bias, error bound, steps. `sample` has the value, magnitude,
/// terms and spread of the products, or zero_tail.
void finish_sample(const Problem& problem, const LayerTensors& tensors, std::int64_t n,
                   std::int64_t co, const Position& o, ReferenceSample* sample);

/// The largest difference from the exact value that a float32 kernel may show, in whatever order it
/// adds: gamma(T+2) * magnitude + (T+2) * 2^-149 with gamma(n) = n*u / (1 - n*u), u = 2^-24.
double error_bound(std::int64_t terms, double magnitude);

/// Whether products are made of bfloat16 by instructions that take denormals for 0.
bool multiplies_bf16(const Problem& problem);

/// |actual - value| / bound: at most 1 for a correct kernel, infinite for a plain mismatch. NaN
/// must meet NaN and Inf an Inf of the same sign. Where the finite terms alone may overflow float32
/// in some order of summation, any result is right. The zero tail must be exactly 0 (what the steps
/// make of it). `actual` is an element of y.
double error_ratio(const Problem& problem, const ReferenceSample& expected, double actual);

struct CheckOptions {
  /// Elements to check; 0 means every element. Tensors with more are sampled, unless everything
  /// costs no more: all residues of every axis, the borders, the ends of the content, all channels
  /// in turn, and the interior. Values from 1 to 4,095 count as 4,096.
  std::int64_t max_samples = 8192;
  std::uint64_t seed = 1;  ///< of the sample; one seed always draws the same elements
  int threads = 1;
};

struct CheckResult {
  bool ok = true;
  double worst_ratio = 0;     ///< largest error_ratio seen
  std::string first_failure;  ///< the failing element that comes first in (n, co, o) order
  std::int64_t failures = 0;
  std::int64_t checked = 0;  ///< elements compared
};

/// Compares `dst` (in the Problem's layout, pitch and type) with the reference.
CheckResult check_against_reference(const Problem& problem, std::int64_t batch,
                                    const LayerTensors& tensors, const void* dst,
                                    const CheckOptions& options = {});

}  // namespace convt
