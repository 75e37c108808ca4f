// A session: layer by layer, each with its share of the time that is left, everything measured
// written to the database at once.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <convt/runtime.hpp>
#include <convt/tuning.hpp>

#include "compiler/plan/plan_space.hpp"
#include "database/plan_database.hpp"
#include "measuring/layer_buffers.hpp"
#include "tuning/layer_arena.hpp"
#include "tuning/race.hpp"
#include "tuning/search.hpp"

namespace convt {
namespace {

using Clock = std::chrono::steady_clock;
using database::CandidateRow;
using database::LayerKey;
using database::PlanDatabase;
using database::SessionRow;
using database::TunedRow;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Error bad(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

Status check_options(std::span<const TuningLayer> layers, const TuningOptions& options) {
  if (options.database.empty()) return bad("database: a file is needed");
  const bool has_budget = options.budget_s > 0 || (options.resume && options.budget_s == 0);
  if (!has_budget || !std::isfinite(options.budget_s))
    return bad("budget_s: " + std::to_string(options.budget_s) + ", must be above 0");
  if (options.threads < 1)
    return bad("threads: " + std::to_string(options.threads) + ", must be at least 1");
  if (options.shards < 1)
    return bad("shards: " + std::to_string(options.shards) + ", must be at least 1");
  if (options.shard < 1 || options.shard > options.shards) {
    return bad("shard: " + std::to_string(options.shard) + ", must be from 1 to " +
               std::to_string(options.shards));
  }
  if (!(options.least_gain >= 0 && options.least_gain < 1))
    return bad("least_gain: " + std::to_string(options.least_gain) + ", must be in [0, 1)");
  if (options.most_trials < 1)
    return bad("most_trials: " + std::to_string(options.most_trials) + ", must be at least 1");
  if (layers.empty()) return bad("layers: none");
  for (const TuningLayer& layer : layers) {
    const auto in_layer = [&](const Error& error) {
      return Error{error.code, layer.name + ": " + error.message};
    };
    if (Status status = validate(layer.problem); !status.ok()) return in_layer(status.error());
    if (layer.problem.is_dynamic()) {
      return Error{ErrorCode::unsupported,
                   layer.name + ": dynamic axes: lengths are fixed when plans are measured"};
    }
    if (layer.batch < 1)
      return bad(layer.name + ": batch: " + std::to_string(layer.batch) + ", must be at least 1");
    if (Status status = validate_batch(layer.problem, layer.batch); !status.ok())
      return in_layer(status.error());
  }
  return ok_status();
}

tuning::Trial to_trial(const CandidateRow& row) {
  return {row.plan,  row.step,  row.predicted_us, row.ratio,
          row.error, row.pairs, row.verdict,      row.note};
}

CandidateRow to_row(const tuning::Trial& trial) {
  return {trial.plan,  trial.step,    trial.predicted_us, trial.ratio,         trial.error,
          trial.pairs, trial.verdict, trial.note,         database::date_now()};
}

TunedLayer describe(const TunedRow& row) {
  return {row.name,        row.key.layer,    row.key.batch,  row.plan,
          row.model_plan,  row.time_us,      row.model_us,   row.speedup,
          row.speedup_low, row.speedup_high, row.confidence, row.candidates};
}

class Session {
 public:
  Session(std::span<const TuningLayer> layers, const TuningOptions& options, PlanDatabase& database)
      : options_(options), database_(database), runtime_(runtime_options(options)) {
    take_share(layers);
  }

  Result<TuningResult> run();

 private:
  static RuntimeOptions runtime_options(const TuningOptions& options) {
    RuntimeOptions runtime;
    runtime.threads = options.threads;
    runtime.cache_bytes = std::size_t{8} << 20;  // plans are rarely compiled twice
    runtime.tuning_db = "";
    runtime.disk_cache = false;
    return runtime;
  }

  void take_share(std::span<const TuningLayer> layers);
  Status start();
  Status tune_layer(std::size_t index, double share_s);
  Result<TunedRow> search_layer(std::size_t index, const LayerKey& key, double share_s);
  Status save_time();
  [[nodiscard]] double left_s() const { return budget_s_ - seconds_since(start_); }
  [[nodiscard]] bool is_stopped() const { return options_.stop && options_.stop(); }
  void show(std::size_t index, int trials, double speedup, bool finished) const {
    if (!options_.progress) return;
    options_.progress({index, layers_.size(), layers_[index].name, trials, speedup,
                       std::max(0.0, left_s()), finished});
  }

  const TuningOptions& options_;
  PlanDatabase& database_;
  Runtime runtime_;
  std::vector<TuningLayer> layers_;  ///< of the share
  std::string identity_;             ///< of the session in the database
  double budget_s_ = 0;
  double spent_before_s_ = 0;
  double whole_budget_s_ = 0;
  Clock::time_point start_ = Clock::now();
  measuring::LayerBuffers buffers_;
  tuning::Learner learner_;
  TuningResult result_;
};

void Session::take_share(std::span<const TuningLayer> layers) {
  std::set<std::pair<std::string, std::int64_t>> seen;
  std::string text;
  int place = 0;
  for (const TuningLayer& layer : layers) {
    const std::string problem = layer.problem.to_text();
    if (!seen.emplace(problem, layer.batch).second) continue;
    if (place++ % options_.shards != options_.shard - 1) continue;
    layers_.push_back(layer);
    text += problem + "\n" + std::to_string(layer.batch) + "\n";
  }
  text += std::to_string(options_.threads);
  identity_ = std::to_string(std::hash<std::string>{}(text));
  result_.share = layers_.size();
}

Status Session::start() {
  budget_s_ = whole_budget_s_ = options_.budget_s;
  if (options_.resume) {
    const Result<std::optional<SessionRow>> row = database_.find_session(identity_);
    if (!row.ok()) return row.error();
    if (*row && options_.budget_s == 0) {
      whole_budget_s_ = (*row)->budget_s;
      spent_before_s_ = (*row)->spent_s;
      budget_s_ = std::max(0.0, whole_budget_s_ - spent_before_s_);
    } else if (options_.budget_s == 0) {
      return bad("resume: the database knows no session of these layers, so a budget is needed");
    }
  }
  return save_time();
}

Status Session::save_time() {
  return database_.put_session(
      {identity_, whole_budget_s_, spent_before_s_ + seconds_since(start_), options_.seed});
}

Result<TunedRow> Session::search_layer(std::size_t index, const LayerKey& key, double share_s) {
  const TuningLayer& layer = layers_[index];
  const Clock::time_point layer_start = Clock::now();
  Options compiling;
  compiling.reproducible = true;
  compiling.expected_batch = layer.batch;
  // What compile() takes, refusals of earlier candidates considered.
  const Result<Kernel> by_model = runtime_.compile(layer.problem, compiling);
  if (!by_model.ok()) return by_model.error();
  if (by_model->info().backend != to_string(Backend::xbyak)) {
    return Error{ErrorCode::unsupported,
                 "tuning measures machine code, and there is none for " + host_target().to_text()};
  }
  const Result<Plan> model_plan = parse_plan(by_model->info().plan);
  if (!model_plan.ok()) return model_plan.error();

  tuning::SearchInput input;
  input.model = {*model_plan, by_model->info().predicted_us, by_model->info().useful_lanes, ""};
  input.plans = enumerate_plans(layer.problem, host_target(), {.expected_batch = layer.batch});
  const Result<std::vector<CandidateRow>> known = database_.candidates(key);
  if (!known.ok()) return known.error();
  for (const CandidateRow& row : *known) input.known.push_back(to_trial(row));

  double best = 1;
  tuning::SearchOptions options;
  options.seed = options_.seed;
  options.least_gain = options_.least_gain;
  options.most_trials = options_.most_trials;
  options.stop = [this] { return is_stopped(); };
  options.time_left = [&] { return share_s - seconds_since(layer_start); };
  options.on_trial = [&](const tuning::Trial& trial) -> Status {
    if (trial.verdict == "wrong") ++result_.wrong;
    if (trial.verdict == "faster") best = std::max(best, 1 / trial.ratio);
    Status status = database_.put_candidate(key, to_row(trial));
    if (status.ok()) status = save_time();
    show(index, trial.step, best, false);
    return status;
  };
  tuning::LayerArena arena(layer.problem, layer.batch, options_.threads, compiling, runtime_,
                           buffers_);
  const Result<tuning::SearchResult> found = tuning::search(input, arena, learner_, options);
  if (!found.ok()) return found.error();
  TunedRow row;
  row.key = key;
  row.name = layer.name;
  row.plan = found->stopped ? "" : found->plan;
  row.model_plan = by_model->info().plan;
  row.time_us = found->time_us;
  row.model_us = found->model_us;
  row.speedup = found->speedup;
  row.speedup_low = found->speedup_low;
  row.speedup_high = found->speedup_high;
  row.confidence = tuning::kConfidence;
  row.candidates = found->trials;
  row.date = database::date_now();
  return row;
}

Status Session::tune_layer(std::size_t index, double share_s) {
  const LayerKey key =
      database::make_key(layers_[index].problem, layers_[index].batch, options_.threads);
  if (!options_.resume) {
    if (Status status = database_.forget_candidates(key); !status.ok()) return status;
  }
  show(index, 0, 1, false);
  const Result<TunedRow> row = search_layer(index, key, share_s);
  if (!row.ok()) {
    return Error{row.error().code, layers_[index].name + ": " + row.error().message};
  }
  if (row->plan.empty()) return ok_status();  // stopped
  if (Status status = database_.put_tuned(*row); !status.ok()) return status;
  result_.layers.push_back(describe(*row));
  show(index, row->candidates, row->speedup, true);
  return save_time();
}

Result<TuningResult> Session::run() {
  if (Status status = start(); !status.ok()) return status.error();
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const LayerKey key = database::make_key(layers_[i].problem, layers_[i].batch, options_.threads);
    const Result<std::optional<TunedRow>> done = database_.find_tuned(key);
    if (!done.ok()) return done.error();
    if (options_.resume && *done) {
      result_.layers.push_back(describe(**done));
    } else {
      open.push_back(i);
    }
  }
  for (std::size_t at = 0; at < open.size() && !is_stopped() && left_s() > 0; ++at) {
    const double share_s = left_s() / static_cast<double>(open.size() - at);
    if (Status status = tune_layer(open[at], share_s); !status.ok()) return status.error();
  }
  result_.stopped = is_stopped();
  result_.spent_s = seconds_since(start_);
  if (Status status = save_time(); !status.ok()) return status.error();
  return std::move(result_);
}

}  // namespace

Result<TuningResult> tune(std::span<const TuningLayer> layers, const TuningOptions& options) {
  try {
    if (Status status = check_options(layers, options); !status.ok()) return status.error();
    Result<PlanDatabase> database =
        PlanDatabase::open(options.database, PlanDatabase::Access::write);
    if (!database.ok()) return database.error();
    return Session(layers, options, *database).run();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "no memory left"};
  }
}

}  // namespace convt
