// The report of a tuning database: a page for people (one HTML file, no scripts), or a text table.
#pragma once

#include <string>
#include <vector>

#include "database/plan_database.hpp"

namespace convt::tools {

struct ReportLayer {
  database::TunedRow row;
  std::vector<database::CandidateRow> candidates{};  ///< the search's path
  double flops = 0;                                  ///< of a run, live ones ...
  double bytes = 0;                                  ///< ... and bytes
};

struct TuningReport {
  std::vector<ReportLayer> layers;
  std::vector<database::MachineRow> machines;
};

/// Geometric mean of the layers' speedups with the ends of its interval: that of the mean of
/// log(speedup) over layers as they are, from each layer's own interval.
struct MeanSpeedup {
  double speedup = 1, low = 1, high = 1;
};
MeanSpeedup mean_speedup(const std::vector<database::TunedRow>& rows);

/// "positions 8 -> 4, prefetch 1 -> 0"; empty: the same plan.
std::string plan_changes(const std::string& from, const std::string& to);

std::string report_text(const std::vector<database::TunedRow>& rows);
std::string report_page(const TuningReport& report);

}  // namespace convt::tools
