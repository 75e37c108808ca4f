// PlanDatabase: what tuning sessions have learnt, in one SQLite file.
//
//   layers      one row a (layer, batch, machine, threads, convt version): names it
//   tuned       the layer's plan, once a session is done with it: times, gain, confidence, date
//   candidates  every plan that was measured on the way, so that a session can resume
//   sessions    budgets and what is left of them
//
// Any number of processes may use a file at once (write-ahead log; each result is one transaction),
// and one that is killed loses at most the result it was writing. SQLite's user_version is the
// version of these tables: files of a newer one are refused.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <convt/problem.hpp>
#include <convt/result.hpp>

#include "compiler/target/target.hpp"

namespace convt::database {

/// What a measurement is true for.
struct LayerKey {
  std::string layer;  ///< Problem::to_text()
  std::int64_t batch = 1;
  std::string machine;  ///< host_processor()
  std::string target;   ///< Target::to_text()
  int threads = 1;
  std::string version;  ///< of convt
  bool operator==(const LayerKey&) const = default;
};

/// Of this machine and this version of convt.
LayerKey make_key(const Problem& problem, std::int64_t batch, int threads);

/// A layer that a session is done with.
struct TunedRow {
  LayerKey key;
  std::string name;        ///< of the layer, where it was first tuned
  std::string plan;        ///< the one to use
  std::string model_plan;  ///< what the planner chose
  double time_us = 0;      ///< of a run with `plan`
  double model_us = 0;     ///< of a run with `model_plan`, at the same time
  double speedup = 1;      ///< model's time / plan's, measured in pairs ...
  double speedup_low = 1;  ///< ... and the ends of its interval
  double speedup_high = 1;
  double confidence = 0;  ///< of the interval, 0.99
  int candidates = 0;     ///< plans tried
  double roof_us = 0;     ///< what no plan can beat, by the machine's measured limits; 0: unknown
  std::string date;       ///< UTC, "2026-11-21T15:57:21Z"
};

/// A plan that was measured.
struct CandidateRow {
  std::string plan;
  int step = 0;  ///< of the layer's search, from 1
  double predicted_us = 0;
  /// Time / time of the model's plan; 0 for plans that were refused.
  double ratio = 0;
  double error = 0;     ///< standard error of log(ratio)
  int pairs = 0;        ///< of measurements
  std::string verdict;  ///< "model", "faster", "even", "slower", "same", "refused", "wrong"
  std::string note;     ///< why, for those that were refused or are wrong
  std::string date;
};

/// A session: what `--resume` goes on with.
struct SessionRow {
  std::string layers;  ///< hash of the layers and of how they are tuned
  double budget_s = 0;
  double spent_s = 0;
  std::uint64_t seed = 0;
};

/// What `machine` can do, for reports.
struct MachineRow {
  std::string machine;
  std::string target;
  int threads = 1;
  double peak_gflops = 0;
  double l2_gbs = 0;  ///< reading from a set that fits L2 ...
  double l3_gbs = 0;
  double memory_gbs = 0;
};

struct PruneOptions {
  bool other_versions = false;  ///< rows of other versions of convt
  bool other_machines = false;  ///< rows of other machines
  bool candidates = false;      ///< measured candidates of layers that are finished
  std::string before{};         ///< rows older than this date; empty: none
};

class PlanDatabase {
 public:
  enum class Access : std::uint8_t { read, write };

  /// To write, makes the file where there is none. Errors: io; unsupported for a newer version;
  /// invalid_argument for a file that is something else.
  static Result<PlanDatabase> open(const std::string& path, Access access);
  PlanDatabase(PlanDatabase&&) noexcept;
  PlanDatabase& operator=(PlanDatabase&&) noexcept;
  ~PlanDatabase();

  Status put_tuned(const TunedRow& row);
  [[nodiscard]] Result<std::optional<TunedRow>> find_tuned(const LayerKey& key) const;
  /// All rows, in the order of names and keys.
  [[nodiscard]] Result<std::vector<TunedRow>> tuned() const;

  Status put_candidate(const LayerKey& key, const CandidateRow& row);
  /// In the order of their steps.
  [[nodiscard]] Result<std::vector<CandidateRow>> candidates(const LayerKey& key) const;
  Status forget_candidates(const LayerKey& key);

  Status put_session(const SessionRow& row);
  [[nodiscard]] Result<std::optional<SessionRow>> find_session(const std::string& layers) const;

  Status put_machine(const MachineRow& row);
  [[nodiscard]] Result<std::vector<MachineRow>> machines() const;

  /// Takes over all rows of another database; of two for one key the later one. Returns how many
  /// tuned layers came.
  Result<int> merge(const PlanDatabase& other);

  /// Tuned layers as JSON, one a line.
  Status export_lines(std::ostream& stream) const;

  /// Puts those that are later than what stands for their key, all at once. Returns how many.
  Result<int> put_all(const std::vector<TunedRow>& rows);

  /// Errors: io, when the file is damaged (SQLite's integrity_check).
  [[nodiscard]] Status check_integrity() const;

  /// Returns how many tuned layers went.
  Result<int> prune(const PruneOptions& options);

 private:
  struct Parts;
  explicit PlanDatabase(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

/// What export_lines() wrote. Errors name the line; `name` stands for the file.
Result<std::vector<TunedRow>> parse_lines(std::istream& stream, const std::string& name);

/// Now, in UTC, as rows have it.
std::string date_now();

}  // namespace convt::database
