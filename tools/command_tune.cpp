// convt tune: sessions that measure plans, and the databases of what they found.
#include <cerrno>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>

#include <fmt/format.h>
#include <convt/tuning.hpp>

#include "database/plan_database.hpp"
#include "tools/commands.hpp"
#include "tools/machine.hpp"
#include "tools/output_file.hpp"
#include "tools/progress.hpp"
#include "tools/roofline.hpp"
#include "tools/tuning_report.hpp"

namespace convt::tools {
namespace {

using database::PlanDatabase;
using database::TunedRow;
using Access = PlanDatabase::Access;

struct TuneOptions {
  CommonOptions common;
  std::string db;
  std::string budget;
  std::string shard = "1/1";
  std::uint64_t seed = 1;
  double least_gain = TuningOptions().least_gain;
  int most_trials = TuningOptions().most_trials;
  bool resume = false;
  bool no_roof = false;
};

struct FileOptions {
  std::string db;
  std::string output;
  std::vector<std::string> files;
  bool text = false;
  database::PruneOptions prune;
};

Error bad_option(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

std::string default_db() {
  const char* variable = std::getenv("CONVT_TUNING_DB");
  return variable != nullptr && *variable != '\0' ? variable : "tuning.db";
}

/// "90", "90s", "10m", "1.5h" in seconds.
Result<double> parse_duration(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string unit(end, text.data() + text.size());
  const double factor = unit.empty() || unit == "s" ? 1 : unit == "m" ? 60 : unit == "h" ? 3600 : 0;
  constexpr double kMost = 30.0 * 24 * 3600;
  if (error != std::errc{} || factor == 0 || !(value > 0) || value * factor > kMost) {
    return bad_option(fmt::format(
        "--budget: '{}' is no time above 0 and up to 30 days, such as 90s, 10m or 1.5h", text));
  }
  return value * factor;
}

struct Shard {
  int index = 1, count = 1;
};

Result<Shard> parse_shard(const std::string& text) {
  Shard shard;
  const char* last = text.data() + text.size();
  const auto [slash, error] = std::from_chars(text.data(), last, shard.index);
  if (error == std::errc{} && slash != last && *slash == '/') {
    const auto [end, other] = std::from_chars(slash + 1, last, shard.count);
    if (other == std::errc{} && end == last && shard.count >= 1 && shard.index >= 1 &&
        shard.index <= shard.count)
      return shard;
  }
  return bad_option(fmt::format("--shard: '{}' is not of the form i/n with 1 <= i <= n", text));
}

std::string time_left_text(double seconds) {
  const auto whole = static_cast<long>(seconds + 0.5);
  return fmt::format("{}:{:02d}", whole / 60, whole % 60);
}

// ---- A session ----

volatile std::sig_atomic_t interrupted = 0;

/// While it lives, the first SIGINT or SIGTERM asks the session to end; another one kills.
class Interrupts {
 public:
  Interrupts() {
    interrupted = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    ::sigaction(SIGINT, &action, &old_int_);
    ::sigaction(SIGTERM, &action, &old_term_);
    struct sigaction ignore {};
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGXFSZ, &ignore, &old_size_);  // a file at its size limit is an error like others
  }
  ~Interrupts() {
    ::sigaction(SIGINT, &old_int_, nullptr);
    ::sigaction(SIGTERM, &old_term_, nullptr);
    ::sigaction(SIGXFSZ, &old_size_, nullptr);
  }
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

 private:
  struct sigaction old_int_ {
  }, old_term_{}, old_size_{};
};

using Roofs = std::map<std::pair<std::string, std::int64_t>, double>;

/// What no plan of the layers can beat, and the machine's limits for the report.
Result<Roofs> measure_roofs(const std::vector<Layer>& layers, int threads, PlanDatabase& db) {
  Result<Machine> machine = Machine::measure(threads);
  if (!machine.ok()) return machine.error();
  Roofs roofs;
  for (const Layer& layer : layers) {
    roofs[{layer.problem.to_text(), layer.batch}] =
        roof_of(work_of(layer.problem, layer.batch), *machine).ms() * 1e3;
  }
  const Target& target = host_target();
  const auto reading = [&](std::int64_t bytes) {
    return machine->bandwidth_gbs(static_cast<double>(bytes), 0);
  };
  const Status status = db.put_machine({host_processor(), target.to_text(), threads,
                                        machine->peak().gflops_all, reading(target.l2_bytes / 2),
                                        reading(target.l3_bytes / 4), machine->read_gbs()});
  if (!status.ok()) return status.error();
  return roofs;
}

Status put_roofs(const TuningResult& result, const Roofs& roofs, int threads, PlanDatabase& db) {
  for (const TunedLayer& layer : result.layers) {
    const auto roof = roofs.find({layer.layer, layer.batch});
    const Result<Problem> problem = parse_problem(layer.layer);
    if (roof == roofs.end() || !problem.ok()) continue;
    const Result<std::optional<TunedRow>> row =
        db.find_tuned(database::make_key(*problem, layer.batch, threads));
    if (!row.ok()) return row.error();
    if (!*row || (*row)->roof_us > 0) continue;
    TunedRow with_roof = **row;
    with_roof.roof_us = roof->second;
    if (Status status = db.put_tuned(with_roof); !status.ok()) return status;
  }
  return ok_status();
}

std::vector<TunedRow> rows_of(const TuningResult& result, int threads) {
  std::vector<TunedRow> rows;
  for (const TunedLayer& layer : result.layers) {
    TunedRow row;
    row.name = layer.name;
    row.key.layer = layer.layer;
    row.key.batch = layer.batch;
    row.key.threads = threads;
    row.plan = layer.plan;
    row.model_plan = layer.model_plan;
    row.time_us = layer.time_us;
    row.model_us = layer.model_us;
    row.speedup = layer.speedup;
    row.speedup_low = layer.speedup_low;
    row.speedup_high = layer.speedup_high;
    row.confidence = layer.confidence;
    row.candidates = layer.trials;
    rows.push_back(std::move(row));
  }
  return rows;
}

Result<int> run_session(const TuneOptions& options) {
  const Result<std::vector<Layer>> layers = load_layers(options.common);
  if (!layers.ok()) return layers.error();
  if (options.common.backend == "interpreter")
    return bad_option("--backend: tuning measures machine code, which the interpreter has not");
  TuningOptions tuning;
  tuning.database = options.db;
  tuning.threads = options.common.threads;
  tuning.seed = options.seed;
  tuning.least_gain = options.least_gain;
  tuning.most_trials = options.most_trials;
  tuning.resume = options.resume;
  tuning.budget_s = options.resume ? 0 : 60;
  if (!options.budget.empty()) {
    const Result<double> budget = parse_duration(options.budget);
    if (!budget.ok()) return budget.error();
    tuning.budget_s = *budget;
  }
  const Result<Shard> shard = parse_shard(options.shard);
  if (!shard.ok()) return shard.error();
  tuning.shard = shard->index;
  tuning.shards = shard->count;
  std::vector<TuningLayer> to_tune;
  for (const Layer& layer : *layers)
    to_tune.push_back({display_name(layer), layer.problem, std::max<std::int64_t>(layer.batch, 1)});

  const Interrupts interrupts;
  Progress progress;
  Result<PlanDatabase> db = PlanDatabase::open(options.db, Access::write);
  if (!db.ok()) return db.error();
  Roofs roofs;
  if (!options.no_roof) {
    progress.show("measuring the machine");
    Result<Roofs> measured = measure_roofs(*layers, tuning.threads, *db);
    if (!measured.ok()) return measured.error();
    roofs = std::move(*measured);
  }
  tuning.stop = [] { return interrupted != 0; };
  tuning.progress = [&](const TuningProgress& now) {
    progress.show(fmt::format("{}/{} {}  {} plans, best {:+.1f}%, {} left", now.layer + 1,
                              now.layers, now.name, now.trials, 100 * (now.speedup - 1),
                              time_left_text(now.left_s)));
  };
  const Result<TuningResult> result = tune(to_tune, tuning);
  progress.clear();
  if (!result.ok()) return result.error();
  if (Status status = put_roofs(*result, roofs, tuning.threads, *db); !status.ok())
    return status.error();
  fmt::print("{}", report_text(rows_of(*result, tuning.threads)));
  fmt::print("{} of {} layers finished in {:.0f} s{}; database {}\n", result->layers.size(),
             result->share, result->spent_s,
             result->stopped ? ", interrupted (--resume goes on)" : "", options.db);
  if (result->wrong == 0) return kExitWell;
  fmt::print("DEFECT: {} plans gave wrong results; they are not used. `convt tune show` has them\n",
             result->wrong);
  return kExitCheckFailed;
}

// ---- Databases ----

Result<PlanDatabase> open_db(const FileOptions& options, Access access) {
  return PlanDatabase::open(options.db, access);
}

Result<std::vector<TunedRow>> read_rows(const FileOptions& options) {
  const Result<PlanDatabase> db = open_db(options, Access::read);
  if (!db.ok()) return db.error();
  return db->tuned();
}

Result<int> show(const FileOptions& options) {
  const Result<PlanDatabase> db = open_db(options, Access::read);
  if (!db.ok()) return db.error();
  const Result<std::vector<TunedRow>> rows = db->tuned();
  if (!rows.ok()) return rows.error();
  fmt::print("{}", report_text(*rows));
  for (const TunedRow& row : *rows) {
    const Result<std::vector<database::CandidateRow>> candidates = db->candidates(row.key);
    if (!candidates.ok()) return candidates.error();
    for (const database::CandidateRow& candidate : *candidates) {
      if (candidate.verdict == "wrong")
        fmt::print("wrong: {}: {}: {}\n", row.name, candidate.plan, candidate.note);
    }
  }
  return kExitWell;
}

Result<int> report(const FileOptions& options) {
  if (options.output.empty()) {
    const Result<std::vector<TunedRow>> rows = read_rows(options);
    if (!rows.ok()) return rows.error();
    fmt::print("{}", report_text(*rows));
    return kExitWell;
  }
  const Result<PlanDatabase> db = open_db(options, Access::read);
  if (!db.ok()) return db.error();
  TuningReport page;
  const Result<std::vector<TunedRow>> rows = db->tuned();
  if (!rows.ok()) return rows.error();
  for (const TunedRow& row : *rows) {
    Result<std::vector<database::CandidateRow>> candidates = db->candidates(row.key);
    if (!candidates.ok()) return candidates.error();
    ReportLayer layer{row, std::move(*candidates)};
    if (const Result<Problem> problem = parse_problem(row.key.layer); problem.ok()) {
      const Work work = work_of(*problem, row.key.batch);
      layer.flops = 2 * work.macs;
      layer.bytes = work.live_bytes();
    }
    page.layers.push_back(std::move(layer));
  }
  Result<std::vector<database::MachineRow>> machines = db->machines();
  if (!machines.ok()) return machines.error();
  page.machines = std::move(*machines);
  if (Status status = write_file(options.output, report_page(page)); !status.ok())
    return status.error();
  return kExitWell;
}

Result<int> merge(const FileOptions& options) {
  Result<PlanDatabase> db = open_db(options, Access::write);
  if (!db.ok()) return db.error();
  for (const std::string& file : options.files) {
    const Result<PlanDatabase> other = PlanDatabase::open(file, Access::read);
    if (!other.ok()) return other.error();
    const Result<int> taken = db->merge(*other);
    if (!taken.ok()) return taken.error();
    fmt::print("{}: {} layers\n", file, *taken);
  }
  return kExitWell;
}

Result<int> export_rows(const FileOptions& options) {
  const Result<PlanDatabase> db = open_db(options, Access::read);
  if (!db.ok()) return db.error();
  std::ostringstream lines;
  if (Status status = db->export_lines(lines); !status.ok()) return status.error();
  if (options.output.empty()) {
    fmt::print("{}", lines.str());
  } else if (Status status = write_file(options.output, lines.str()); !status.ok()) {
    return status.error();
  }
  return kExitWell;
}

Result<int> import_rows(const FileOptions& options) {
  std::vector<TunedRow> rows;
  for (const std::string& file : options.files) {
    std::ifstream stream(file);
    if (!stream) return io_error("read", file);
    Result<std::vector<TunedRow>> more = database::parse_lines(stream, file);
    if (!more.ok()) return more.error();
    for (TunedRow& row : *more) rows.push_back(std::move(row));
  }
  Result<PlanDatabase> db = open_db(options, Access::write);
  if (!db.ok()) return db.error();
  const Result<int> taken = db->put_all(rows);
  if (!taken.ok()) return taken.error();
  fmt::print("{} of {} layers taken, the others are known as they are or later\n", *taken,
             rows.size());
  return kExitWell;
}

Result<int> prune(const FileOptions& options) {
  const database::PruneOptions& what = options.prune;
  if (!what.candidates && !what.other_machines && !what.other_versions && what.before.empty()) {
    return bad_option(
        "prune: --other-versions, --other-machines, --candidates or --before is needed");
  }
  Result<PlanDatabase> db = open_db(options, Access::write);
  if (!db.ok()) return db.error();
  const Result<int> gone = db->prune(what);
  if (!gone.ok()) return gone.error();
  fmt::print("{} layers removed\n", *gone);
  return kExitWell;
}

}  // namespace

Command make_tune_command(CLI::App& parent) {
  const auto options = std::make_shared<TuneOptions>();
  const auto files = std::make_shared<FileOptions>();
  options->db = files->db = default_db();
  CLI::App* app = parent.add_subcommand("tune", "measure plans of layers, keep the best");
  app->require_subcommand(0, 1);
  add_common_options(*app, LayerSource::one_or_file, &options->common);
  add_threads_option(*app, &options->common);
  app->add_option("--db", options->db, "database: made if there is none")
      ->type_name("FILE")
      ->capture_default_str();
  app->add_option("--budget", options->budget,
                  "time of the session: 90s, 10m, 1.5h (default 60s; --resume: what is left)")
      ->type_name("TIME");
  app->add_option("--seed", options->seed, "of what the search draws")->capture_default_str();
  app->add_option("--shard", options->shard, "only every n-th layer, from the i-th")
      ->type_name("I/N")
      ->capture_default_str();
  app->add_option("--least-gain", options->least_gain,
                  "a layer is finished when no plan is expected to gain this share of its time")
      ->check(CLI::Range(0.0, 0.5))
      ->capture_default_str();
  app->add_option("--most-plans", options->most_trials, "tried for each layer at most")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app->add_flag("--resume", options->resume,
                "go on where a session of these layers ended, finished layers left out");
  app->add_flag("--no-roof", options->no_roof,
                "do not measure the machine's limits, which the report draws");

  using Run = Result<int> (*)(const FileOptions&);
  const auto runs = std::make_shared<std::vector<std::pair<CLI::App*, Run>>>();
  const auto add = [&](const char* name, const char* what, Run run) {
    CLI::App* command = app->add_subcommand(name, what);
    command->add_option("--db", files->db, "database")->type_name("FILE")->capture_default_str();
    runs->emplace_back(command, run);
    return command;
  };
  add("report", "a page (or a text table) of what was gained", report)
      ->add_option("-o,--output", files->output, "HTML page; without: a table on the terminal")
      ->type_name("PAGE.HTML");
  add("show", "the tuned layers as a table", show);
  add("merge", "take over what other databases know", merge)
      ->add_option("files", files->files, "databases to take from")
      ->required();
  add("export", "tuned layers as JSON lines", export_rows)
      ->add_option("-o,--output", files->output, "file; without: the terminal")
      ->type_name("FILE");
  add("import", "take over exported lines", import_rows)
      ->add_option("files", files->files, "exported files")
      ->required();
  CLI::App* pruning = add("prune", "remove rows", prune);
  pruning->add_flag("--other-versions", files->prune.other_versions, "of other versions of convt");
  pruning->add_flag("--other-machines", files->prune.other_machines, "of other machines");
  pruning->add_flag("--candidates", files->prune.candidates,
                    "plans measured on the way, of layers that are finished");
  pruning->add_option("--before", files->prune.before, "finished before this date, 2026-01-31")
      ->type_name("DATE");
  return {app, [options, files, runs]() -> Result<int> {
            for (const auto& [command, run] : *runs)
              if (command->parsed()) return run(*files);
            return run_session(*options);
          }};
}

}  // namespace convt::tools
