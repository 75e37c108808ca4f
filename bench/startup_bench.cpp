// What the cache on disk is worth: the time from starting a process to its first result, and to the
// kernels of a whole layers file, with an empty cache and with a warm one.
//
//     startup_bench --layers F [--backend xbyak|llvm] [--repeat R]
//
// Each measurement starts this program anew: it compiles the first layer, packs weights and runs
// it, then compiles the other layers. Loading the program and its libraries counts; reading the
// layers file does not.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <convt/convt.hpp>

#include "tools/common_options.hpp"
#include "tools/layer_run.hpp"

namespace convt::bench {
namespace {

namespace fs = std::filesystem;

struct StartupOptions {
  tools::CommonOptions common;
  int repeat = 7;
  double started_us = 0;  ///< when the program that measures started this process; 0: this is it
};

struct Times {
  double first_us = 0;  ///< to the first result
  double all_us = 0;    ///< to all kernels
};

double now_us() {
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// ---- The process that is measured ----

Result<Times> start(const StartupOptions& options, double main_us) {
  const Result<std::vector<Layer>> layers = tools::load_layers(options.common);
  if (!layers.ok()) return layers.error();
  const double not_counted = now_us() - main_us + options.started_us;
  tools::LayerRun run;
  const Layer& first = layers->front();
  const auto check = [](const Status& status) { status.value(); };
  check(run.compile(first, tools::compile_options(options.common, first), 1));
  check(run.pack());
  check(run.run());
  Times times;
  times.first_us = now_us() - not_counted;
  for (const Layer& layer : *layers) {
    const Result<Kernel> kernel =
        compile(layer.problem, tools::compile_options(options.common, layer));
    if (!kernel.ok()) return tools::in_layer(layer, kernel.error());
  }
  times.all_us = now_us() - not_counted;
  return times;
}

// ---- The one that measures ----

Result<Times> start_process(std::vector<std::string> arguments) {
  int ends[2];
  if (pipe(ends) != 0) return Error{ErrorCode::io, "no pipe"};
  arguments.insert(arguments.end(), {"--started-us", fmt::format("{:.3f}", now_us())});
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    execv("/proc/self/exe", argv.data());
    _exit(127);
  }
  close(ends[1]);
  std::string text(200, '\0');
  const ssize_t length = read(ends[0], text.data(), text.size() - 1);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  Times times;
  if (length <= 0 || status != 0 ||
      std::sscanf(text.c_str(), "%lf %lf", &times.first_us, &times.all_us) != 2) {
    return Error{ErrorCode::internal, "a process that was started failed"};
  }
  return times;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

Status measure(const StartupOptions& options, const std::vector<std::string>& arguments) {
  std::string folder = (fs::temp_directory_path() / "convt-startup-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return Error{ErrorCode::io, "no temporary folder"};
  const auto remove = [](const std::string* path) {
    std::error_code ignored;
    fs::remove_all(*path, ignored);
  };
  const std::unique_ptr<const std::string, decltype(remove)> owner(&folder, remove);
  setenv("CONVT_CACHE_DIR", (folder + "/cache").c_str(), 1);
  setenv("CONVT_CACHE", "on", 1);
  // off: without a cache; cold: an empty one is filled; warm: it is read.
  std::vector<double> first[3], all[3];
  for (int i = 0; i < options.repeat; ++i) {
    fs::remove_all(folder + "/cache");
    for (int kind = 0; kind < 3; ++kind) {
      setenv("CONVT_CACHE", kind == 0 ? "off" : "on", 1);
      const Result<Times> times = start_process(arguments);
      if (!times.ok()) return times.error();
      first[kind].push_back(times->first_us);
      all[kind].push_back(times->all_us);
    }
  }
  fmt::print("from the start of a process, ms, median of {}\n", options.repeat);
  fmt::print("{:24}{:>10}{:>10}{:>10}{:>12}\n", "", "no cache", "cold", "warm", "cold / warm");
  const auto print = [](const char* name, const std::vector<double>(&us)[3]) {
    const double cold = median(us[1]), warm = median(us[2]);
    fmt::print("{:24}{:>10.2f}{:>10.2f}{:>10.2f}{:>12.1f}\n", name, median(us[0]) / 1000,
               cold / 1000, warm / 1000, cold / warm);
  };
  print("to the first result", first);
  print("to all kernels", all);
  return ok_status();
}

int run(int argc, char** argv, double main_us) {
  StartupOptions options;
  CLI::App app{"what the cache on disk is worth"};
  tools::add_common_options(app, tools::LayerSource::one_or_file, &options.common);
  app.add_option("--repeat", options.repeat, "starts of each kind")->check(CLI::Range(1, 1000));
  app.add_option("--started-us", options.started_us)->group("");  // not for people
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  if (options.started_us > 0) {
    const Times times = start(options, main_us).value();
    fmt::print("{} {}\n", times.first_us, times.all_us);
  } else {
    measure(options, {argv, argv + argc}).value();
  }
  return 0;
}

}  // namespace
}  // namespace convt::bench

int main(int argc, char** argv) {
  const double main_us = convt::bench::now_us();
  try {
    return convt::bench::run(argc, argv, main_us);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "startup_bench: %s\n", error.what());
    return 2;
  }
}
