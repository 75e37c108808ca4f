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

/// y of a valid Problem, in double precision, slow and obvious.
///
/// `src` and `dst` have the Problem's layout and channel pitch; elements between the slices of a
/// pitched `dst` are left alone. `weights` are canonical. `bias` is read when problem.bias is set,
/// and null means zeros. `magnitude`, if not null, is laid out like `dst` and receives
/// |bias| + sum |x*w| of each output (terms that are not finite are left out: see error_ratio).
void reference_conv_transpose(const Problem& problem, std::int64_t batch, const float* src,
                              const float* weights, const float* bias, double* dst,
                              double* magnitude);

/// One output element.
struct ReferenceSample {
  double value = 0;
  double magnitude = 0;    ///< |bias| + sum |x*w| over the terms that are finite
  std::int64_t terms = 0;  ///< T: products that reach the element
  bool zero_tail = false;  ///< exactly 0 by definition
};

/// The output element (n, co, o), gathered: O(K * Cin/g) for this one element.
ReferenceSample reference_at(const Problem& problem, const float* src, const float* weights,
                             const float* bias, std::int64_t n, std::int64_t co, const Position& o);

/// The largest difference from the exact value that a float32 kernel may show, in whatever order it
/// adds: gamma(T+2) * magnitude + (T+2) * 2^-149 with gamma(n) = n*u / (1 - n*u), u = 2^-24.
double error_bound(std::int64_t terms, double magnitude);

/// |actual - value| / bound: at most 1 for a correct kernel, infinite for a plain mismatch. NaN
/// must meet NaN and Inf an Inf of the same sign. Where the finite terms alone may overflow float32
/// in some order of summation, any result is right. The zero tail must be exactly 0.
double error_ratio(const ReferenceSample& expected, float actual);

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

/// Compares `dst` (float, in the Problem's layout and pitch) with the reference.
CheckResult check_against_reference(const Problem& problem, std::int64_t batch, const float* src,
                                    const float* weights, const float* bias, const float* dst,
                                    const CheckOptions& options = {});

}  // namespace convt
