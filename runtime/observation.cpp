#include "runtime/observation.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string_view>

#include "compiler/plan/cost_model.hpp"
#include "runtime/kernel_state.hpp"
#include "runtime/log.hpp"

namespace convt {
namespace {

std::string_view environment(const char* name) {
  const char* const text = std::getenv(name);
  return text == nullptr ? std::string_view{} : std::string_view{text};
}

int wanted_verbosity() {
  const std::string_view text = environment("CONVT_VERBOSE");
  if (text == "1") return 1;
  if (text == "2") return 2;
  if (!text.empty() && text != "0") {
    log_line("CONVT_VERBOSE knows 0, 1 and 2, not '" + std::string(text) + "'");
  }
  return 0;
}

void read_perf_wishes(Observation& observation) {
  std::string_view rest = environment("CONVT_PERF");
  while (!rest.empty()) {
    const std::string_view name = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), name.size() + 1));
    if (name == "map") {
      observation.perf_map = true;
    } else if (name == "jitdump") {
      observation.jitdump = true;
    } else {
      log_line("CONVT_PERF knows map and jitdump, not '" + std::string(name) + "'");
    }
  }
}

/// Whether a debugger is attached.
bool is_traced() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("TracerPid:")) continue;
    return line.find_first_of("123456789") != std::string::npos;
  }
  return false;
}

std::string number(const char* format, double value) {
  char text[48];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string quoted(const char* name, const std::string& text) {
  return std::string(" ") + name + "=\"" + text + "\"";
}

/// Microseconds that one image takes at least on one thread, as the planner sees the machine.
double roofline_us(const KernelState& kernel, const KernelShape& shape) {
  return roofline_cycles(shape.problem, kernel.target) / kCyclesPerMicrosecond;
}

std::string share(double roofline, double us) {
  return number(" roofline=%.0f%%", us > 0 ? 100 * roofline / us : 0);
}

}  // namespace

Observation choose_observation(const RuntimeOptions& options) {
  Observation observation{.verbose = std::max(options.verbose, wanted_verbosity()),
                          .perf_map = options.perf_map,
                          .jitdump = options.jitdump};
  read_perf_wishes(observation);
  const std::string_view gdb = environment("CONVT_GDB");
  if (!gdb.empty() && gdb != "on" && gdb != "off") {
    log_line("CONVT_GDB knows on and off, not '" + std::string(gdb) + "'");
  }
  observation.debuggers = gdb != "off";
  observation.breakpoints = gdb == "on" || (observation.debuggers && is_traced());
  return observation;
}

void log_compile(const KernelState& kernel) {
  const KernelInfo& info = kernel.info;
  log_line("compile" + number(" us=%.0f", info.times.total_us) +
           " from=" + (info.from_disk ? "disk" : "compiler") + " backend=" + info.backend +
           number(" predicted_us=%.2f", info.predicted_us) +
           share(roofline_us(kernel, kernel), info.predicted_us) + quoted("layer", info.layer) +
           quoted("plan", info.plan) + " kernel=" + info.symbol +
           (info.note.empty() ? "" : quoted("note", info.note)));
}

void log_failed_compile(const Problem& problem, const Error& error) {
  log_line("compile failed" + quoted("layer", problem.to_text()) + quoted("error", error.message));
}

void log_run(const KernelState& kernel, const KernelShape& shape, std::int64_t batch, int threads,
             double us) {
  const double roofline = roofline_us(kernel, shape) * static_cast<double>(batch) / threads;
  log_line("run" + number(" us=%.1f", us) + " batch=" + std::to_string(batch) +
           " threads=" + std::to_string(threads) + share(roofline, us) +
           quoted("layer", shape.problem.to_text()) + quoted("plan", kernel.info.plan) +
           " kernel=" + kernel.info.symbol);
}

}  // namespace convt
