// Tuning sessions: plans of each layer are measured on this machine, the best is kept in a
// database, and every Runtime that is given the database (RuntimeOptions::tuning_db, or the
// environment variable CONVT_TUNING_DB) uses it. docs/tuning.md tells how.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <convt/problem.hpp>
#include <convt/result.hpp>

namespace convt {

struct TuningLayer {
  std::string name;
  Problem problem;
  std::int64_t batch = 1;  ///< images a run: Options::expected_batch of those who look it up
};

/// What a session is doing; a callback may keep nothing of it.
struct TuningProgress {
  std::size_t layer = 0;   ///< index, of `layers`
  std::size_t layers = 0;  ///< of this session's share
  const std::string& name;
  int trials = 0;         ///< plans of the layer tried so far
  double speedup = 1;     ///< of the best so far over the model's plan, not yet confirmed
  double left_s = 0;      ///< of the session's budget
  bool finished = false;  ///< the layer is done: its plan stands in the database
};

struct TuningOptions {
  std::string database;    ///< file; made if there is none
  double budget_s = 60;    ///< wall time of the session, shared among its layers
  int threads = 1;         ///< that runs use; their CPU time is measured if it is one
  std::uint64_t seed = 1;  ///< of what is drawn: the same seed tries the same plans as long as
                           ///< measurements come out the same
  /// Go on with an earlier session of the same layers: finished ones are left out, others keep what
  /// was measured, and budget_s, if 0, is what is left of that session's.
  bool resume = false;
  int shard = 1;              ///< this session's share of the layers is every `shards`-th, ...
  int shards = 1;             ///< ... from the `shard`-th; 1-based
  double least_gain = 0.002;  ///< a layer ends when no plan is expected to gain this share of time
  int most_trials = 1000;     ///< plans a layer
  std::function<void(const TuningProgress&)> progress{};  ///< after each plan, in this thread
  std::function<bool()> stop{};  ///< asked often; true ends the session, keeping what is finished
};

struct TunedLayer {
  std::string name;
  std::string layer;  ///< Problem::to_text()
  std::int64_t batch = 1;
  std::string plan;  ///< the one to use: shown to be faster than the model's, or the model's
  std::string model_plan;
  double time_us = 0;      ///< of a run with `plan` ...
  double model_us = 0;     ///< ... and with the model's plan, measured in turn
  double speedup = 1;      ///< model's time / plan's, in pairs, measured anew after the search
  double speedup_low = 1;  ///< ends of its interval of `confidence`
  double speedup_high = 1;
  double confidence = 0;
  int trials = 0;
};

struct TuningResult {
  std::vector<TunedLayer> layers;  ///< finished, in this session or (resumed) before
  std::size_t share = 0;           ///< layers of this session's share, without doubles
  bool stopped = false;            ///< by TuningOptions::stop
  int wrong = 0;  ///< plans whose result was not what the reference says: never used; report them
  double spent_s = 0;
};

/// Runs a session. Everything measured is in the database at once, so that a session that is killed
/// loses nothing finished; any number of sessions may share a database. Errors: invalid_argument
/// for options that make no sense, before any work; unsupported and io of the database (newer
/// version, read-only, full disk); those of compile() for a layer that has no plan. Finished layers
/// stay in the database whatever happens later.
Result<TuningResult> tune(std::span<const TuningLayer> layers, const TuningOptions& options);

/// Takes over what other databases know; of two rows for one key the later. Returns how many layers
/// came. Errors: as tune(), of the database.
Result<int> merge_tuned(const std::string& database, std::span<const std::string> others);

/// The tuned layers of a database as JSON, one a line, and back into one. Errors of reading name
/// the line; nothing is changed then.
Result<std::string> export_tuned(const std::string& database);
Result<int> import_tuned(const std::string& database, const std::string& lines);

}  // namespace convt
