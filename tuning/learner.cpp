#include "tuning/learner.hpp"

#include <algorithm>
#include <cmath>

namespace convt::tuning {
namespace {

constexpr double kSessionPenalty = 2, kLayerPenalty = 1;
constexpr double kFirstDeviation = 0.12;  // of the model, before anything is measured
constexpr double kFirstWeight = 6;        // plans that this guess counts as
constexpr double kLeastDeviation = 0.02;
constexpr double kMostExcess = 0.7;  // plans far off would bend the regression

}  // namespace

Features features_of(const Plan& plan) {
  Features features{};
  std::size_t at = 0;
  const auto add = [&](double value) { features[at++] = value; };
  const double positions = std::log2(plan.positions);
  const double channels = std::log2(plan.channels);
  const double rows = std::log2(plan.tile_rows);
  const double run = std::log2(plan.run);
  for (const Phases phases : {Phases::one, Phases::all, Phases::row})
    add(plan.phases == phases ? 1 : 0);
  add(plan.rows_by_phase ? 1 : 0);
  add(plan.staging.used ? 1 : 0);
  add(plan.staging.order == AxisOrder::dhw ? 0 : 1);
  add(plan.convert ? 1 : 0);
  add(plan.products == Products::f32 ? 0 : 1);
  add(rows);
  add(std::log2(plan.images));
  add(std::log2(plan.ic_unroll));
  add(plan.tap_unroll > 0 ? 1 : 0);
  add(std::log2(1 + plan.tap_unroll));
  add(positions + channels + rows);
  for (int family = 0; family < 5; ++family) {
    const double is = static_cast<int>(plan.family) == family ? 1 : 0;
    add(is);
    add(is * positions);
    add(is * channels);
    add(is * run);
    add(is * (plan.panel ? 1 : 0));
    add(is * (plan.prefetch ? 1 : 0));
  }
  return features;
}

Ridge::Ridge(double penalty) : products_(kFeatures * kFeatures) {
  for (std::size_t i = 0; i < kFeatures; ++i) products_[i * kFeatures + i] = penalty;
}

void Ridge::add(const Features& x, double y) {
  for (std::size_t i = 0; i < kFeatures; ++i) {
    targets_[i] += x[i] * y;
    for (std::size_t j = 0; j < kFeatures; ++j) products_[i * kFeatures + j] += x[i] * x[j];
  }
  solved_ = false;
}

double Ridge::predict(const Features& x) {
  if (!solved_) solve();
  double sum = 0;
  for (std::size_t i = 0; i < kFeatures; ++i) sum += x[i] * weights_[i];
  return sum;
}

/// By Cholesky's decomposition: the penalty makes the matrix positive definite.
void Ridge::solve() {
  std::vector<double> lower(kFeatures * kFeatures);
  const auto at = [&lower](std::size_t i, std::size_t j) -> double& {
    return lower[i * kFeatures + j];
  };
  for (std::size_t i = 0; i < kFeatures; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = products_[i * kFeatures + j];
      for (std::size_t k = 0; k < j; ++k) sum -= at(i, k) * at(j, k);
      at(i, j) = i == j ? std::sqrt(std::max(sum, 1e-9)) : sum / at(j, j);
    }
  }
  for (std::size_t i = 0; i < kFeatures; ++i) {
    double sum = targets_[i];
    for (std::size_t k = 0; k < i; ++k) sum -= at(i, k) * weights_[k];
    weights_[i] = sum / at(i, i);
  }
  for (std::size_t i = kFeatures; i-- > 0;) {
    double sum = weights_[i];
    for (std::size_t k = i + 1; k < kFeatures; ++k) sum -= at(k, i) * weights_[k];
    weights_[i] = sum / at(i, i);
  }
  solved_ = true;
}

Learner::Learner()
    : session_(kSessionPenalty),
      layer_(kLayerPenalty),
      squares_(kFirstWeight * kFirstDeviation * kFirstDeviation),
      count_(kFirstWeight) {}

void Learner::start_layer() {
  layer_ = Ridge(kLayerPenalty);
  // A new layer may be of another sort: what was learnt of the error counts less.
  const double fade = std::min(1.0, 2 * kFirstWeight / count_);
  squares_ *= fade;
  count_ *= fade;
}

double Learner::correction(const Features& x) { return session_.predict(x) + layer_.predict(x); }

void Learner::add(const Features& x, double excess) {
  const double bounded = std::clamp(excess, -kMostExcess, kMostExcess);
  const double wrong = bounded - correction(x);
  squares_ += wrong * wrong;
  ++count_;
  layer_.add(x, bounded - session_.predict(x));
  session_.add(x, bounded);
}

double Learner::deviation() const {
  return std::max(kLeastDeviation, std::sqrt(squares_ / count_));
}

}  // namespace convt::tuning
