// The tuning database and those who use it: rows, merging, lines of JSON; sessions that are killed,
// that share a file, that find it read-only, full or from a newer convt; and a Runtime that is
// given plans which are not right. CONVT_TEST_FULL=1: 50 sessions are killed instead of a few.
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <convt/convt.hpp>
#include <convt/tuning.hpp>

#include "compiler/target/target.hpp"
#include "database/plan_database.hpp"
#include "database/tuned_plans.hpp"
#include "tests/in_child.hpp"
#include "tests/test_support.hpp"

namespace convt::database {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Access = PlanDatabase::Access;

Problem small_layer(std::int64_t oc = 16) {
  return conv_transpose2d({.in_channels = 8,
                           .out_channels = oc,
                           .input = {5, 6},
                           .kernel = {4, 4},
                           .stride = {2, 2},
                           .padding = {1, 1}});
}

TunedRow make_row(const Problem& problem, const std::string& plan,
                  const std::string& date = "2026-01-01T00:00:00Z") {
  TunedRow row;
  row.key = make_key(problem, 1, 1);
  row.name = "layer";
  row.plan = row.model_plan = plan;
  row.time_us = 9;
  row.model_us = 10;
  row.speedup = 1.11;
  row.speedup_low = 1.05;
  row.speedup_high = 1.17;
  row.confidence = 0.99;
  row.candidates = 12;
  row.roof_us = 7;
  row.date = date;
  return row;
}

std::string model_plan(const Problem& problem) {
  return compile(problem, {.reproducible = true}).value().info().plan;
}

/// Another plan than the model's, that compiles.
std::string other_plan(const Problem& problem) {
  const KernelInfo info = compile(problem, {.reproducible = true}).value().info();
  for (const PlanCandidate& rejected : info.rejected)
    if (compile(problem, {.plan = rejected.plan}).ok()) return rejected.plan;
  return "";
}

class TuningDatabase : public ::testing::Test {
 protected:
  void SetUp() override {
    ::unsetenv("CONVT_TUNING_DB");
    std::string name = (fs::temp_directory_path() / "convt-tuning-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }
  [[nodiscard]] std::string path(const std::string& name = "t.db") const {
    return (folder_ / name).string();
  }
  [[nodiscard]] PlanDatabase open(const std::string& name = "t.db") const {
    return PlanDatabase::open(path(name), Access::write).value();
  }
  [[nodiscard]] const fs::path& folder() const { return folder_; }

 private:
  fs::path folder_;
};

// ---- Rows.

TEST_F(TuningDatabase, KeepsRows) {
  const TunedRow row = make_row(small_layer(), "p");
  {
    PlanDatabase db = open();
    ASSERT_TRUE(succeeded(db.put_tuned(row)));
    CandidateRow candidate{"a plan", 3, 5.5, 1.25, 0.01, 9, "slower", "", "2026"};
    ASSERT_TRUE(succeeded(db.put_candidate(row.key, candidate)));
    candidate = {"another", 2, 5, 0, 0, 0, "refused", "registers", "2026"};
    ASSERT_TRUE(succeeded(db.put_candidate(row.key, candidate)));
    ASSERT_TRUE(succeeded(db.put_session({"id", 60, 12.5, 7})));
  }
  const PlanDatabase db = PlanDatabase::open(path(), Access::read).value();
  EXPECT_TRUE(succeeded(db.check_integrity()));
  const TunedRow found = db.find_tuned(row.key).value().value();
  EXPECT_EQ(found.key, row.key);
  EXPECT_EQ(found.plan, "p");
  EXPECT_EQ(found.speedup_high, 1.17);
  EXPECT_EQ(found.candidates, 12);
  EXPECT_EQ(found.date, row.date);
  const std::vector<CandidateRow> candidates = db.candidates(row.key).value();
  ASSERT_EQ(candidates.size(), 2U);
  EXPECT_EQ(candidates[0].plan, "another");  // by step
  EXPECT_EQ(candidates[0].note, "registers");
  EXPECT_EQ(candidates[1].ratio, 1.25);
  EXPECT_EQ(db.find_session("id").value()->spent_s, 12.5);
  EXPECT_FALSE(db.find_session("other").value().has_value());
  LayerKey other = row.key;
  other.threads = 2;
  EXPECT_FALSE(db.find_tuned(other).value().has_value());
}

TEST_F(TuningDatabase, MergeTakesWhatIsLater) {
  PlanDatabase a = open("a.db"), b = open("b.db");
  ASSERT_TRUE(succeeded(a.put_tuned(make_row(small_layer(16), "old", "2026-01-01"))));
  ASSERT_TRUE(succeeded(a.put_tuned(make_row(small_layer(17), "kept", "2026-03-01"))));
  ASSERT_TRUE(succeeded(b.put_tuned(make_row(small_layer(16), "new", "2026-02-01"))));
  ASSERT_TRUE(succeeded(b.put_tuned(make_row(small_layer(17), "older", "2026-02-01"))));
  ASSERT_TRUE(succeeded(b.put_tuned(make_row(small_layer(18), "another", "2026-02-01"))));
  ASSERT_TRUE(succeeded(
      b.put_candidate(make_key(small_layer(18), 1, 1), {"c", 1, 1, 1, 0, 1, "even", "", "2026"})));
  EXPECT_EQ(a.merge(b).value(), 2);
  EXPECT_EQ(a.find_tuned(make_key(small_layer(16), 1, 1)).value()->plan, "new");
  EXPECT_EQ(a.find_tuned(make_key(small_layer(17), 1, 1)).value()->plan, "kept");
  EXPECT_EQ(a.candidates(make_key(small_layer(18), 1, 1)).value().size(), 1U);
  EXPECT_EQ(a.merge(b).value(), 0) << "a second time nothing is new";
}

TEST_F(TuningDatabase, ExportsLinesAndReadsThemBack) {
  PlanDatabase a = open("a.db"), b = open("b.db");
  const std::string plan = model_plan(small_layer());
  ASSERT_TRUE(succeeded(a.put_tuned(make_row(small_layer(16), plan))));
  ASSERT_TRUE(succeeded(a.put_tuned(make_row(small_layer(17), plan))));
  std::stringstream lines;
  ASSERT_TRUE(succeeded(a.export_lines(lines)));
  EXPECT_EQ(b.put_all(parse_lines(lines, "lines").value()).value(), 2);
  std::stringstream again;
  ASSERT_TRUE(succeeded(b.export_lines(again)));
  EXPECT_EQ(again.str(), lines.str());
}

TEST_F(TuningDatabase, RefusesLinesThatAreWrong) {
  PlanDatabase a = open("a.db");
  ASSERT_TRUE(succeeded(a.put_tuned(make_row(small_layer(), model_plan(small_layer())))));
  std::stringstream good;
  ASSERT_TRUE(succeeded(a.export_lines(good)));
  const auto parse = [&](const std::string& from, const std::string& to) {
    std::string text = good.str();
    text.replace(text.find(from), from.size(), to);
    std::istringstream stream("\n" + text);
    return parse_lines(stream, "f.jsonl");
  };
  EXPECT_TRUE(refused(parse("\"name\"", "\"nome\""), "f.jsonl:2: key 'name' is missing"));
  EXPECT_TRUE(refused(parse("\"batch\":1", "\"batch\":\"1\""), "key 'batch'"));
  EXPECT_TRUE(refused(parse("\"batch\":1", "\"batch\":0"), "key 'batch'"));
  EXPECT_TRUE(refused(parse("ic8", "ic0"), "key 'layer'"));
  EXPECT_TRUE(refused(parse("phases=", "faces="), "key 'plan'"));
  EXPECT_TRUE(refused(parse("{", "["), "f.jsonl:2: this is no JSON object"));
}

TEST_F(TuningDatabase, Prunes) {
  PlanDatabase db = open();
  TunedRow foreign = make_row(small_layer(16), "p", "2026-05-01");
  foreign.key.machine = "another machine";
  TunedRow outdated = make_row(small_layer(16), "p", "2026-05-01");
  outdated.key.version = "0.0.1";
  for (const TunedRow& row : {make_row(small_layer(16), "p", "2026-05-01"), foreign, outdated,
                              make_row(small_layer(17), "p", "2026-01-01")})
    ASSERT_TRUE(succeeded(db.put_tuned(row)));
  EXPECT_EQ(db.prune({.before = "2026-02-01"}).value(), 1);
  EXPECT_EQ(db.prune({.other_versions = true}).value(), 1);
  EXPECT_EQ(db.prune({.other_machines = true}).value(), 1);
  EXPECT_EQ(db.tuned().value().size(), 1U);
}

// ---- Files that are not as they should be.

void set_schema(const std::string& path, char version) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(63);  // the last byte of user_version in SQLite's header
  file.put(version);
}

TEST_F(TuningDatabase, RefusesNewerVersions) {
  { PlanDatabase db = open(); }
  set_schema(path(), 9);
  for (const Access access : {Access::read, Access::write})
    EXPECT_TRUE(refused(PlanDatabase::open(path(), access), "newer convt", ErrorCode::unsupported));
  const TuningLayer layer{"l", small_layer()};
  EXPECT_TRUE(refused(tune({&layer, 1}, {.database = path(), .budget_s = 1}), "newer convt",
                      ErrorCode::unsupported));
}

TEST_F(TuningDatabase, RefusesOtherFiles) {
  std::ofstream(path("text")) << std::string(5000, 'x');
  EXPECT_TRUE(refused(PlanDatabase::open(path("text"), Access::write), "no tuning database",
                      ErrorCode::io));
  std::ofstream(path("empty")) << "";
  EXPECT_TRUE(refused(PlanDatabase::open(path("empty"), Access::read), "no tuning database"));
  EXPECT_TRUE(refused(PlanDatabase::open(path("absent"), Access::read), "absent", ErrorCode::io));
  EXPECT_TRUE(
      refused(PlanDatabase::open(path("no/folder"), Access::write), "folder", ErrorCode::io));
}

/// Whether the body went well in a child without the right to write to the folder.
template <class Body>
bool without_rights(const fs::path& folder, const Body& body) {
  for (const auto& entry : fs::directory_iterator(folder)) ::chmod(entry.path().c_str(), 0444);
  ::chmod(folder.c_str(), 0555);
  const bool ok = in_child([&] {
    if (::geteuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) return false;
    return body();
  });
  ::chmod(folder.c_str(), 0755);
  return ok;
}

TEST_F(TuningDatabase, ReadOnlyFilesAreReadAndSessionsRefused) {
  const Problem problem = small_layer();
  const std::string plan = other_plan(problem);
  {
    PlanDatabase db = open();
    ASSERT_TRUE(succeeded(db.put_tuned(make_row(problem, plan))));
  }
  EXPECT_TRUE(without_rights(folder(), [&] {
    Runtime runtime({.threads = 1, .tuning_db = path()});
    const Result<Kernel> kernel = runtime.compile(problem);
    return kernel.ok() && kernel->info().plan == plan;
  }));
  EXPECT_TRUE(without_rights(folder(), [&] {
    const TuningLayer layer{"l", problem};
    const auto result = tune({&layer, 1}, {.database = path(), .budget_s = 1});
    return !result.ok() && result.error().code == ErrorCode::io &&
           result.error().message.find("read-only") != std::string::npos;
  }));
}

// ---- A Runtime with tuned plans.

TEST_F(TuningDatabase, RuntimesUseTunedPlans) {
  const Problem problem = small_layer();
  const std::string plan = other_plan(problem);
  ASSERT_NE(plan, "");
  {
    PlanDatabase db = open();
    ASSERT_TRUE(succeeded(db.put_tuned(make_row(problem, plan))));
  }
  Runtime runtime({.threads = 1, .tuning_db = path()});
  const Kernel kernel = runtime.compile(problem).value();
  EXPECT_EQ(kernel.info().plan, plan);
  EXPECT_THAT(kernel.info().reason, HasSubstr("tuned on this machine, 2026-01-01: 1.11 times"));
  EXPECT_EQ(kernel.info().note, "");
  LayerData data(problem, 2);
  ASSERT_TRUE(succeeded(run_layer(kernel, data)));
  EXPECT_TRUE(matches_reference(data));
  // Not where the caller says otherwise, nor for another batch.
  EXPECT_EQ(runtime.compile(problem, {.reproducible = true}).value().info().plan,
            model_plan(problem));
  EXPECT_THAT(runtime.compile(problem, {.expected_batch = 2}).value().info().reason,
              HasSubstr("cost model"));
  // The environment names a database as well, also as exported lines.
  PlanDatabase db = open();
  std::ofstream lines(path("lines.jsonl"));
  ASSERT_TRUE(succeeded(db.export_lines(lines)));
  lines.close();
  for (const char* name : {"t.db", "lines.jsonl"}) {
    ::setenv("CONVT_TUNING_DB", path(name).c_str(), 1);
    Runtime other({.threads = 1});
    EXPECT_EQ(other.compile(problem).value().info().plan, plan) << name;
  }
  ::unsetenv("CONVT_TUNING_DB");
}

TEST_F(TuningDatabase, PlansThatAreNotRightAreNeverUsed) {
  const Problem problem = small_layer();
  const std::vector<std::string> bad{
      "nonsense",
      "channel_lanes phases=one lanes=16 channels=16 positions=4 rows=phase future=1",
      "channel_lanes phases=one lanes=3 channels=16 positions=4 rows=phase",
      "channel_lanes phases=all lanes=16 channels=4096 positions=4096 rows=phase",
      "group_lanes phases=one lanes=16 channels=16 positions=2 rows=phase",
      "space_lanes phases=row lanes=16 channels=7 positions=3 tile_rows=5 rows=output",
      ""};
  for (const std::string& plan : bad) {
    SCOPED_TRACE(plan);
    fs::remove(path());
    {
      PlanDatabase db = open();
      ASSERT_TRUE(succeeded(db.put_tuned(make_row(problem, plan))));
      ASSERT_TRUE(succeeded(db.put_tuned(make_row(small_layer(17), plan))));
    }
    Runtime runtime({.threads = 1, .tuning_db = path()});
    ::testing::internal::CaptureStderr();
    const Result<Kernel> kernel = runtime.compile(problem);
    const Result<Kernel> second = runtime.compile(small_layer(17));
    const std::string said = ::testing::internal::GetCapturedStderr();
    ASSERT_TRUE(succeeded(kernel));
    ASSERT_TRUE(succeeded(second));
    EXPECT_EQ(kernel->info().plan, model_plan(problem));
    if (plan.empty()) continue;  // no plan at all
    EXPECT_THAT(kernel->info().note, HasSubstr("tuned plan [" + plan + "] refused"));
    EXPECT_THAT(said, HasSubstr("refused"));
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
    LayerData data(problem, 1);
    ASSERT_TRUE(succeeded(run_layer(*kernel, data)));
    EXPECT_TRUE(matches_reference(data));
  }
}

TEST_F(TuningDatabase, RuntimesWithoutTheirFileUseTheModel) {
  ::testing::internal::CaptureStderr();
  Runtime runtime({.threads = 1, .tuning_db = path("absent")});
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("plans come from the model"));
  EXPECT_EQ(runtime.compile(small_layer()).value().info().plan, model_plan(small_layer()));
}

TEST_F(TuningDatabase, LookUpsFallBackToTheNearestMachine) {
  const Problem problem = small_layer();
  const Target& target = host_target();
  Target other = target;
  other.l2_bytes *= 2;
  const auto put = [&](PlanDatabase& db, const std::string& plan, const std::string& machine,
                       const Target& of, int threads, const std::string& version = "") {
    TunedRow row = make_row(problem, plan);
    if (!machine.empty()) row.key.machine = machine;
    row.key.target = of.to_text();
    row.key.threads = threads;
    if (!version.empty()) row.key.version = version;
    ASSERT_TRUE(succeeded(db.put_tuned(row)));
  };
  const auto find = [&](const std::string& name, int threads) -> std::string {
    const auto plans = open_tuned_plans(path(name)).value();
    const auto known = plans->find({.problem = problem, .target = target, .threads = threads});
    return known ? known->plan : "none";
  };
  {
    PlanDatabase db = open("a");
    put(db, "other caches", "", other, 1);
    put(db, "other version", "", target, 1, "0.0.1");
  }
  EXPECT_EQ(find("a", 1), "none");
  {
    PlanDatabase db = open("a");
    put(db, "like this one, 1", "another", target, 1);
    put(db, "like this one, 8", "another", target, 8);
  }
  EXPECT_EQ(find("a", 1), "like this one, 1");
  EXPECT_EQ(find("a", 6), "like this one, 8");
  {
    PlanDatabase db = open("a");
    put(db, "this one, 4", "", target, 4);
  }
  EXPECT_EQ(find("a", 1), "this one, 4");
  {
    PlanDatabase db = open("a");
    put(db, "this one, 1", "", target, 1);
  }
  EXPECT_EQ(find("a", 1), "this one, 1");
}

// ---- Sessions.

bool has_machine_code() { return host_can_run(host_target()) && host_target().isa == Isa::avx512; }

std::vector<TuningLayer> small_layers() {
  std::vector<TuningLayer> layers;
  for (const std::int64_t oc : {16, 8, 3})
    layers.push_back({"oc" + std::to_string(oc), small_layer(oc)});
  return layers;
}

TuningOptions quick(const std::string& database) {
  TuningOptions options;
  options.database = database;
  options.budget_s = 30;
  options.most_trials = 8;
  return options;
}

TEST_F(TuningDatabase, SessionsRefuseOptionsThatMakeNoSense) {
  const std::vector<TuningLayer> layers = small_layers();
  const auto expect = [&](const char* name, const std::function<void(TuningOptions&)>& change) {
    TuningOptions options = quick(path());
    change(options);
    EXPECT_TRUE(refused(tune(layers, options), name));
  };
  expect("database", [](auto& o) { o.database = ""; });
  expect("budget_s", [](auto& o) { o.budget_s = 0; });
  expect("budget_s", [](auto& o) { o.budget_s = -1; });
  expect("threads", [](auto& o) { o.threads = 0; });
  expect("shard", [](auto& o) { o.shard = 3, o.shards = 2; });
  expect("shards", [](auto& o) { o.shards = 0; });
  expect("least_gain", [](auto& o) { o.least_gain = 2; });
  expect("most_trials", [](auto& o) { o.most_trials = 0; });
  EXPECT_TRUE(refused(tune({}, quick(path())), "layers"));
  TuningLayer bad{"bad", small_layer()};
  bad.batch = 0;
  EXPECT_TRUE(refused(tune({&bad, 1}, quick(path())), "bad: batch"));
  bad = {"bad", small_layer()};
  bad.problem.in_channels = 0;
  EXPECT_TRUE(refused(tune({&bad, 1}, quick(path())), "in_channels"));
  EXPECT_FALSE(fs::exists(path())) << "refused before any work";
  TuningOptions resume = quick(path());
  resume.resume = true;
  resume.budget_s = 0;
  EXPECT_TRUE(refused(tune(layers, resume), "resume"));
}

TEST_F(TuningDatabase, SessionsFindPlansThatRuntimesUse) {
  if (!has_machine_code()) GTEST_SKIP() << "tuning measures machine code, there is none here";
  const std::vector<TuningLayer> layers = small_layers();
  TuningOptions options = quick(path());
  int calls = 0;
  std::set<std::string> finished;
  options.progress = [&](const TuningProgress& now) {
    ++calls;
    EXPECT_EQ(now.layers, 3U);
    if (now.finished) finished.insert(now.name);
  };
  const TuningResult result = tune(layers, options).value();
  ASSERT_EQ(result.layers.size(), 3U);
  EXPECT_EQ(result.wrong, 0);
  EXPECT_FALSE(result.stopped);
  EXPECT_EQ(finished.size(), 3U);
  EXPECT_GT(calls, 10);
  Runtime runtime({.threads = 1, .tuning_db = path()});
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const TunedLayer& tuned = result.layers[i];
    EXPECT_EQ(tuned.name, layers[i].name);
    EXPECT_EQ(tuned.model_plan, model_plan(layers[i].problem));
    EXPECT_GE(tuned.speedup, 1);
    EXPECT_LE(tuned.speedup_low, tuned.speedup);
    EXPECT_GE(tuned.speedup_high, tuned.speedup);
    EXPECT_GT(tuned.time_us, 0);
    EXPECT_GE(tuned.trials, 2);
    EXPECT_EQ(runtime.compile(layers[i].problem).value().info().plan, tuned.plan);
  }
  // Resumed, it has nothing to do.
  options.resume = true;
  options.budget_s = 0;
  calls = 0;
  const TuningResult again = tune(layers, options).value();
  EXPECT_EQ(again.layers.size(), 3U);
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(again.layers[1].plan, result.layers[1].plan);
}

TEST_F(TuningDatabase, SessionsOfSeveralThreadsAreTheirOwn) {
  if (!has_machine_code()) GTEST_SKIP() << "tuning measures machine code, there is none here";
  const TuningLayer layer{"l", small_layer()};
  TuningOptions options = quick(path());
  options.threads = 2;
  options.most_trials = 3;
  ASSERT_EQ(tune({&layer, 1}, options).value().layers.size(), 1U);
  const PlanDatabase db = open();
  EXPECT_TRUE(db.find_tuned(make_key(layer.problem, 1, 2)).value().has_value());
  EXPECT_FALSE(db.find_tuned(make_key(layer.problem, 1, 1)).value().has_value());
}

TEST_F(TuningDatabase, ShardsPartTheLayers) {
  if (!has_machine_code()) GTEST_SKIP() << "tuning measures machine code, there is none here";
  std::vector<TuningLayer> layers = small_layers();
  layers.push_back(layers[0]);  // a double
  std::multiset<std::string> names;
  for (int shard = 1; shard <= 2; ++shard) {
    TuningOptions options = quick(path("shard" + std::to_string(shard)));
    options.most_trials = 2;
    options.shard = shard;
    options.shards = 2;
    const TuningResult result = tune(layers, options).value();
    EXPECT_EQ(result.share, shard == 1 ? 2U : 1U);
    for (const TunedLayer& layer : result.layers) names.insert(layer.name);
  }
  EXPECT_EQ(names, (std::multiset<std::string>{"oc16", "oc8", "oc3"}));
  PlanDatabase all = open("shard1");
  EXPECT_EQ(all.merge(open("shard2")).value(), 1);
  EXPECT_EQ(all.tuned().value().size(), 3U);
}

TEST_F(TuningDatabase, StoppingKeepsWhatIsFinished) {
  if (!has_machine_code()) GTEST_SKIP() << "tuning measures machine code, there is none here";
  TuningOptions options = quick(path());
  bool stop = false;
  options.progress = [&](const TuningProgress& now) { stop = now.layer == 1 && now.trials >= 3; };
  options.stop = [&] { return stop; };
  const TuningResult result = tune(small_layers(), options).value();
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(result.layers.size(), 1U);
  const PlanDatabase db = open();
  EXPECT_EQ(db.tuned().value().size(), 1U);
  EXPECT_EQ(db.candidates(make_key(small_layer(8), 1, 1)).value().size(), 3U);
}

/// Starts a session in a child; each plan and each finished layer is told through a pipe after it
/// is in the database.
class SessionInChild {
 public:
  SessionInChild(const std::vector<TuningLayer>& layers, TuningOptions options) {
    std::array<int, 2> ends{};
    if (::pipe(ends.data()) != 0) return;
    child_ = ::fork();
    if (child_ == 0) {
      ::alarm(120);
      ::close(ends[0]);
      options.progress = [&](const TuningProgress& now) {
        const std::string line =
            now.name + (now.finished ? " finished" : " " + std::to_string(now.trials)) + "\n";
        (void)!::write(ends[1], line.data(), line.size());
      };
      const bool ok = tune(layers, options).ok();
      ::_exit(ok ? 0 : 1);
    }
    ::close(ends[1]);
    pipe_ = ends[0];
  }
  ~SessionInChild() {
    if (pipe_ >= 0) ::close(pipe_);
  }
  SessionInChild(const SessionInChild&) = delete;
  SessionInChild& operator=(const SessionInChild&) = delete;

  void kill() const { ::kill(child_, SIGKILL); }
  /// What it told, and whether it ended well by itself.
  std::pair<std::vector<std::string>, bool> wait() {
    std::string text;
    std::array<char, 4096> part{};
    for (ssize_t got = 0; (got = ::read(pipe_, part.data(), part.size())) > 0;)
      text.append(part.data(), static_cast<std::size_t>(got));
    int status = 0;
    ::waitpid(child_, &status, 0);
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return {lines, WIFEXITED(status) && WEXITSTATUS(status) == 0};
  }

 private:
  pid_t child_ = -1;
  int pipe_ = -1;
};

void sleep_ms(int ms) {
  const timespec time{ms / 1000, ms % 1000 * 1'000'000L};
  ::nanosleep(&time, nullptr);
}

TEST_F(TuningDatabase, KilledSessionsLoseNothingFinished) {
  if (!has_machine_code()) GTEST_SKIP() << "tuning measures machine code, there is none here";
  if (!kChildMayStartThreads) GTEST_SKIP() << "not under this sanitizer";
  const int kills = std::getenv("CONVT_TEST_FULL") != nullptr ? 50 : 5;
  const std::vector<TuningLayer> layers = small_layers();
  const unsigned seed = std::random_device()();
  std::cout << "seed " << seed << "\n";
  std::mt19937 random(seed);
  TuningOptions options = quick(path());
  options.resume = true;
  options.least_gain = 0;
  std::set<std::string> told;  // of the database as it is now
  int ended = 0;
  for (int i = 0; i < kills; ++i) {
    SessionInChild session(layers, options);
    sleep_ms(static_cast<int>(random() % 250));
    session.kill();
    const auto [lines, well] = session.wait();
    told.insert(lines.begin(), lines.end());
    const Result<PlanDatabase> db = PlanDatabase::open(path(), Access::write);
    ASSERT_TRUE(succeeded(db));
    ASSERT_TRUE(succeeded(db->check_integrity()));
    for (const TuningLayer& layer : layers) {
      const LayerKey key = make_key(layer.problem, layer.batch, 1);
      if (told.count(layer.name + " finished") != 0) {
        EXPECT_TRUE(db->find_tuned(key).value().has_value()) << layer.name;
      }
      std::set<int> steps;
      const std::vector<CandidateRow> candidates = db->candidates(key).value();
      for (const CandidateRow& row : candidates) steps.insert(row.step);
      for (int step = 1; step <= 8; ++step) {
        if (told.count(layer.name + " " + std::to_string(step)) != 0) {
          EXPECT_EQ(steps.count(step), 1U) << layer.name << ", plan " << step;
        }
      }
    }
    if (db->tuned().value().size() == layers.size()) {  // begin anew
      ++ended;
      told.clear();
      fs::remove(path());
    }
  }
  SessionInChild session(layers, options);
  EXPECT_TRUE(session.wait().second) << "it resumes and ends well";
  EXPECT_EQ(open().tuned().value().size(), layers.size());
  std::cout << ended << " sessions were finished\n";
}

TEST_F(TuningDatabase, SessionsShareADatabase) {
  if (!has_machine_code()) GTEST_SKIP() << "tuning measures machine code, there is none here";
  if (!kChildMayStartThreads) GTEST_SKIP() << "not under this sanitizer";
  const std::vector<TuningLayer> layers = small_layers();
  std::vector<TuningLayer> others = layers;
  others.push_back({"oc24", small_layer(24)});
  SessionInChild first(layers, quick(path())), second(others, quick(path()));
  EXPECT_TRUE(first.wait().second);
  EXPECT_TRUE(second.wait().second);
  const PlanDatabase db = open();
  EXPECT_TRUE(succeeded(db.check_integrity()));
  EXPECT_EQ(db.tuned().value().size(), 4U);
}

/// A session that cannot write ends with an error, and what it had written stays.
bool ends_with_error(const std::string& path) {
  TuningOptions options = quick(path);
  options.most_trials = 100'000;
  options.least_gain = 0;
  options.budget_s = 60;
  const std::vector<TuningLayer> layers = small_layers();
  const Result<TuningResult> result = tune(layers, options);
  if (result.ok() || result.error().code != ErrorCode::io) return false;
  std::cout << result.error().message << std::endl;
  return true;
}

TEST_F(TuningDatabase, FilesAtTheirLimitEndASession) {
  if (!has_machine_code()) GTEST_SKIP() << "tuning measures machine code, there is none here";
  if (!kChildMayStartThreads) GTEST_SKIP() << "not under this sanitizer";
  { const PlanDatabase db = open(); }
  EXPECT_TRUE(in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100'000, 100'000};
    return ::setrlimit(RLIMIT_FSIZE, &limit) == 0 && ends_with_error(path());
  }));
  const PlanDatabase db = open();
  EXPECT_TRUE(succeeded(db.check_integrity()));
  EXPECT_FALSE(db.candidates(make_key(small_layer(16), 1, 1)).value().empty());
}

TEST_F(TuningDatabase, FullDisksEndASession) {
  if (!has_machine_code()) GTEST_SKIP() << "tuning measures machine code, there is none here";
  if (!kChildMayStartThreads) GTEST_SKIP() << "not under this sanitizer";
  const std::string disk = path("disk");
  fs::create_directory(disk);
  const auto mount = [&] {
    const int spaces = CLONE_NEWNS | (::geteuid() == 0 ? 0 : CLONE_NEWUSER);
    return ::unshare(spaces) == 0 &&
           ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
           ::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=256k") == 0;
  };
  if (!in_child(mount)) GTEST_SKIP() << "no tmpfs may be mounted here";
  EXPECT_TRUE(in_child([&] {
    if (!mount() || !ends_with_error(disk + "/t.db")) return false;
    const Result<PlanDatabase> db = PlanDatabase::open(disk + "/t.db", Access::read);
    if (!db.ok()) std::cout << db.error().message << std::endl;
    return db.ok() && db->check_integrity().ok() &&
           !db->candidates(make_key(small_layer(16), 1, 1)).value().empty();
  }));
}

}  // namespace
}  // namespace convt::database
