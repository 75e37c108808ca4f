// Learner: what the cost model gets wrong, learnt from the plans measured so far.
//
// A linear regression with a penalty on the weights (ridge) of
//     log(measured / measured of the model's plan) - log(predicted / predicted of the model's plan)
// on the differences of the plans' features. One regression has the plans of all layers of a
// session, a second one those of the layer at hand, on what the first leaves.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "compiler/plan/plan.hpp"

namespace convt::tuning {

inline constexpr std::size_t kFeatures = 44;
using Features = std::array<double, kFeatures>;

Features features_of(const Plan& plan);

class Ridge {
 public:
  explicit Ridge(double penalty);
  void add(const Features& x, double y);
  [[nodiscard]] double predict(const Features& x);

 private:
  void solve();

  std::vector<double> products_;  ///< sums of x*x' and the penalty, row-major
  Features targets_{};            ///< sums of x*y
  Features weights_{};
  bool solved_ = true;
};

class Learner {
 public:
  Learner();

  /// Begins another layer.
  void start_layer();

  /// What log(measured / predicted) of a plan exceeds that of the model's plan by, as far as known.
  /// `x`: features of the plan less those of the model's.
  [[nodiscard]] double correction(const Features& x);

  /// A plan was measured: `excess` is what correction() should have said.
  void add(const Features& x, double excess);

  /// How far off correction() is, usually.
  [[nodiscard]] double deviation() const;

 private:
  Ridge session_;
  Ridge layer_;
  double squares_;  ///< of errors made so far, and of the first guess
  double count_;
};

}  // namespace convt::tuning
