// convt explain: the plan of a layer, why, and what was rejected.
#include <memory>

#include <fmt/format.h>

#include "runtime/inspect.hpp"
#include "tools/commands.hpp"
#include "tools/machine.hpp"
#include "tools/roofline.hpp"
#include "tools/text_table.hpp"

namespace convt::tools {
namespace {

/// "1.234 ms" or "12.3 us".
std::string time_text(double us) {
  return us >= 1000 ? fmt::format("{:.3f} ms", us / 1000) : fmt::format("{:.1f} us", us);
}

std::string bytes_text(std::size_t bytes) {
  constexpr std::size_t kKib = 1024;
  if (bytes < 10 * kKib) return fmt::format("{} B", bytes);
  if (bytes < 10 * kKib * kKib) return fmt::format("{:.1f} KiB", static_cast<double>(bytes) / kKib);
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / kKib / kKib);
}

std::string percent(double share) { return fmt::format("{:.0f}%", 100 * share); }

void print_times(const Layer& layer, const KernelInfo& info, Machine* machine) {
  const double predicted_us = static_cast<double>(layer.batch) * info.predicted_us;
  fmt::print("predicted  {}{}, {} of the lanes' multiply-adds useful\n", time_text(predicted_us),
             layer.batch == 1 ? "" : fmt::format(" ({} an image)", time_text(info.predicted_us)),
             percent(info.useful_lanes));
  if (machine == nullptr) return;
  const Work work = work_of(layer.problem, layer.batch);
  const Roof roof = roof_of(work, *machine);
  fmt::print("roofline   {}, {}-bound: {:.4g} M macs at {:.0f} GFLOP/s, {} at {:.0f} GB/s\n",
             time_text(1000 * roof.ms()), roof.bound(), work.macs * 1e-6,
             peak_gflops(work, *machine), bytes_text(static_cast<std::size_t>(work.live_bytes())),
             work.live_bytes() / roof.memory_ms * 1e-6);
}

/// What is multiplied, and where it comes from.
std::string types_text(const Problem& problem, const Plan& plan) {
  std::string text = fmt::format("x {}, weights {}, ", to_string(problem.dtype),
                                 to_string(weights_dtype(problem.dtype)));
  switch (plan.products) {
    case Products::f32:
      text += "multiplied as f32, sums f32";
      break;
    case Products::bf16:
      text += "multiplied as pairs of bf16 (dot products), sums f32";
      break;
    case Products::int8:
      text += "multiplied as quads of u8 and s8 (dot products), sums int32";
      break;
  }
  text += fmt::format("; y {}", to_string(problem.dst_dtype));
  if (plan.convert) {
    text += "; x is copied first, as what is multiplied";
  } else if (plan.staging.used) {
    text += "; x and y are copied to another order";
  } else if (plan.products == Products::f32 && problem.dtype != DataType::f32) {
    text += plan.panel ? "; converted into panels" : "; converted as it is loaded";
  }
  return text;
}

void print_sizes(const KernelInfo& info) {
  fmt::print("memory     packed weights {}, workspace {} (one image, one thread), code {}\n",
             bytes_text(info.packed_weights_bytes), bytes_text(info.workspace_bytes),
             bytes_text(info.code_bytes));
  const CompileTimes& t = info.times;
  fmt::print(
      "compiled   in {:.0f} us: plan {:.0f}, lower {:.0f}, verify {:.0f} ({}), emit {:.0f}, "
      "install {:.0f}\n",
      t.total_us, t.plan_us, t.lower_us, t.verify_us,
      percent(t.total_us > 0 ? t.verify_us / t.total_us : 0), t.emit_us, t.install_us);
}

void print_rejected(const Layer& layer, const KernelInfo& info) {
  constexpr std::size_t kShown = 8;
  if (info.rejected.empty()) {
    fmt::print("rejected   nothing: no other plan is legal\n");
    return;
  }
  using Align = TextTable::Align;
  TextTable table({{"rejected", Align::left},
                   {"predicted", Align::right},
                   {"lanes", Align::right},
                   {"why", Align::left}});
  for (std::size_t i = 0; i < std::min(kShown, info.rejected.size()); ++i) {
    const PlanCandidate& candidate = info.rejected[i];
    table.add({candidate.plan, time_text(static_cast<double>(layer.batch) * candidate.predicted_us),
               percent(candidate.useful_lanes), candidate.why});
  }
  fmt::print("{}", table.to_text());
  if (info.rejected.size() > kShown) {
    fmt::print("... and {} more\n", info.rejected.size() - kShown);
  }
}

Status explain_layer(const Layer& layer, const CommonOptions& options, Machine* machine) {
  const Result<Kernel> kernel = convt::compile(layer.problem, compile_options(options, layer));
  if (!kernel.ok()) return in_layer(layer, kernel.error());
  const KernelInfo& info = kernel->info();
  fmt::print("layer      {}, n {}\n           {}\n", display_name(layer), layer.batch, info.layer);
  fmt::print("plan       {}\n", info.plan);
  fmt::print("because    {}\n", info.reason);
  if (!info.note.empty()) fmt::print("note       {}\n", info.note);
  fmt::print("types      {}\n", types_text(layer.problem, inspect::plan_of(*kernel)));
  fmt::print("kernel     {}\n           {} for {}\n", info.symbol, info.backend, info.target);
  print_times(layer, info, machine);
  print_sizes(info);
  print_rejected(layer, info);
  return ok_status();
}

Result<int> explain(const CommonOptions& options) {
  const Result<std::vector<Layer>> layers = load_layers(options);
  if (!layers.ok()) return layers.error();
  Result<Machine> machine = Machine::measure(1);
  for (const Layer& layer : *layers) {
    if (&layer != &layers->front()) fmt::print("\n");
    const Status status = explain_layer(layer, options, machine.ok() ? &*machine : nullptr);
    if (!status.ok()) return status.error();
  }
  if (!machine.ok()) fmt::print("no roofline: {}\n", machine.error().message);
  return kExitWell;
}

}  // namespace

Command make_explain_command(CLI::App& parent) {
  const auto options = std::make_shared<CommonOptions>();
  CLI::App* app = parent.add_subcommand("explain", "show the plan, why, and what was rejected");
  add_common_options(*app, LayerSource::one_or_file, options.get());
  return {app, [options] { return explain(*options); }, true};
}

}  // namespace convt::tools
