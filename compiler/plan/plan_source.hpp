// PlanSource: where plans come from that were measured instead of predicted. The compiler asks one
// before it plans and knows nothing else of it; what it says is parsed, checked for legality and
// verified like any plan.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <convt/problem.hpp>

#include "compiler/target/target.hpp"

namespace convt {

struct PlanQuery {
  const Problem& problem;
  const Target& target;
  std::int64_t batch = 1;  ///< Options::expected_batch
  int threads = 1;         ///< that runs will use; other counts' plans are second best
};

struct KnownPlan {
  std::string plan;    ///< as Plan::to_text()
  std::string origin;  ///< "tuned on this machine, 2026-11-21: 1.08 times as fast as ..."
};

/// A value: it never changes, so any number of threads may ask, and forked processes too.
class PlanSource {
 public:
  virtual ~PlanSource() = default;
  [[nodiscard]] virtual std::optional<KnownPlan> find(const PlanQuery& query) const = 0;
};

}  // namespace convt
