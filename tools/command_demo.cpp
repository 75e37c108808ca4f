// convt demo: a picture scaled up, and three layers of real networks, with their figures.
#include <array>
#include <functional>
#include <memory>

#include <fmt/format.h>
#include <convt/version.hpp>

#include "compiler/problem/tensor_shapes.hpp"
#include "compiler/target/target.hpp"
#include "measuring/measure.hpp"
#include "tools/commands.hpp"
#include "tools/layer_run.hpp"
#include "tools/machine.hpp"
#include "tools/output_file.hpp"
#include "tools/progress.hpp"
#include "tools/roofline.hpp"
#include "tools/test_chart.hpp"
#include "tools/text_table.hpp"
#include "tools/upsampling.hpp"

namespace convt::tools {
namespace {

// Larger pictures take PNG compression many seconds when scaled up.
constexpr std::int64_t kMaxPixels = 1'000'000;

// Of DCGAN (64 images are its training batch), pix2pix and HiFi-GAN; see bench/layers/real.jsonl.
constexpr std::array<const char*, 3> kLayers{
    R"({"name": "dcgan_g3", "n": 8, "ic": 128, "oc": 64, "in": [16, 16], "k": [4, 4], "s": [2, 2],
        "p": [1, 1]})",
    R"({"name": "pix2pix_unet256_up4", "ic": 512, "oc": 128, "in": [32, 32], "k": [4, 4],
        "s": [2, 2], "p": [1, 1]})",
    R"({"name": "hifigan_v1_vits_up2", "ic": 128, "oc": 64, "in": [16384], "k": [4], "s": [2],
        "p": [1], "bias": true})"};

struct DemoOptions {
  CommonOptions common;
  std::string photo;
  std::string output = "convt-demo.png";
};

struct Picture {
  Image image;
  std::string origin;
  bool is_new = true;  ///< not as it is in a file of the user's: worth writing
};

Result<Picture> load_picture(const std::string& path) {
  if (path.empty()) return Picture{draw_test_chart(480, 320), "a test chart", true};
  Result<Image> photo = read_png(path);
  if (!photo.ok()) return photo.error();
  Picture picture{central_part(*photo, kMaxPixels), fmt::format("'{}'", path), false};
  if (picture.image.width != photo->width) {
    picture.origin = fmt::format("the middle of '{}'", path);
    picture.is_new = true;
  }
  return picture;
}

/// "convt-demo.png" -> "convt-demo-input.png"
std::string input_path(const std::string& output) {
  const std::size_t dot = output.rfind('.');
  const std::size_t slash = output.rfind('/');
  const bool has_extension =
      dot != std::string::npos && (slash == std::string::npos || dot > slash);
  const std::string stem = has_extension ? output.substr(0, dot) : output;
  return stem + "-input" + (has_extension ? output.substr(dot) : "");
}

/// The figures of one layer, and the table of all.
class Report {
 public:
  Report(const DemoOptions& options, Machine* machine)
      : options_(options),
        machine_(machine),
        table_({{"layer", TextTable::Align::left, 19},
                {"y", TextTable::Align::left, 21},
                {"compile us", TextTable::Align::right, 10},
                {"run ms", TextTable::Align::right, 8},
                {"GFLOP/s", TextTable::Align::right, 7},
                {"of roofline", TextTable::Align::right, 11},
                {"error/bound", TextTable::Align::right, 11}}),
        plans_({{"plan", TextTable::Align::left, 19}, {"", TextTable::Align::left}}) {
    fmt::print("{}", table_.title_line());
  }

  /// Compiles, fills (by `fill`), runs, checks and prints. False when the check failed.
  Result<bool> add(const Layer& layer, LayerRun* run, const std::function<void()>& fill) {
    Progress progress;
    progress.show(fmt::format("{} ...", layer.name));
    Status status =
        run->compile(layer, compile_options(options_.common, layer), options_.common.threads);
    if (!status.ok()) return status.error();
    fill();
    status = run->pack();
    if (!status.ok()) return status.error();
    run->poison_output();
    status = run->run();
    if (!status.ok()) return in_layer(layer, status.error());
    const measuring::Timing timing =
        measuring::measure([run] { (void)run->run(); }, measuring::MeasureOptions());
    CheckOptions checking;
    checking.threads = options_.common.threads;
    const CheckResult check = run->check(checking);
    progress.clear();
    print(layer, run->info(), timing, check);
    return check.ok;
  }

  void print_plans() const { fmt::print("\n{}", plans_.to_text()); }

 private:
  void print(const Layer& layer, const KernelInfo& info, const measuring::Timing& timing,
             const CheckResult& check) {
    const Work work = work_of(layer.problem, layer.batch);
    const std::string share =
        machine_ == nullptr
            ? "-"
            : fmt::format("{:.0f}%", 100 * roof_of(work, *machine_).ms() / timing.min_ms);
    fmt::print(
        "{}",
        table_.line(
            {layer.name, fmt::format("{}", fmt::join(dst_shape(layer.problem, layer.batch), " x ")),
             fmt::format("{:.0f}", info.times.total_us), fmt::format("{:.4f}", timing.min_ms),
             fmt::format("{:.1f}", 2 * work.macs / timing.min_ms * 1e-6), share,
             fmt::format("{:.3f}", check.worst_ratio)}));
    plans_.add({layer.name, info.plan});
    if (!check.ok) fmt::print("    WRONG: {}\n", check.first_failure);
    if (!info.note.empty()) fmt::print("    {}\n", info.note);
    std::fflush(stdout);
  }

  const DemoOptions& options_;
  Machine* machine_;
  TextTable table_;
  TextTable plans_;
};

void print_machine(Machine* machine, int threads) {
  fmt::print("convt {} on {} ({}), {} thread{}\n", CONVT_VERSION_STRING, Machine::cpu_name(),
             host_target().to_text(), threads, threads == 1 ? "" : "s");
  if (machine == nullptr) return;
  fmt::print("measured: {:.0f} GFLOP/s of multiply-adds, {:.0f} GB/s from memory\n",
             machine->peak().gflops_all, machine->read_gbs());
}

Result<int> demo(const DemoOptions& options) {
  const Result<Picture> picture = load_picture(options.photo);
  if (!picture.ok()) return picture.error();
  Status status = check_writable(options.output);
  if (!status.ok()) return status.error();
  Result<Machine> measured = Machine::measure(options.common.threads);
  Machine* machine = measured.ok() ? &*measured : nullptr;
  print_machine(machine, options.common.threads);
  const Image& image = picture->image;
  fmt::print(
      "picture: {}, {} x {} pixels, scaled up {} times by bilinear weights in a depthwise "
      "layer (k8 s4 p2)\n\n",
      picture->origin, image.width, image.height, kUpsampling);

  Report report(options, machine);
  LayerRun run;
  const Layout layout = options.common.layout == "nhwc" ? Layout::nhwc : Layout::nchw;
  const Layer upsampling = make_upsampling_layer(image, layout);
  Result<bool> right = report.add(
      upsampling, &run, [&] { fill_upsampling_tensors(image, upsampling.problem, &run); });
  if (!right.ok()) return right.error();
  bool all_right = *right;
  const Image large = upsampled_picture(image, upsampling.problem, run);

  LayerOptions parsing;
  parsing.layout = layout;
  for (const char* text : kLayers) {
    const Result<Layer> layer = parse_layer(text, parsing);
    if (!layer.ok()) return layer.error();
    right = report.add(*layer, &run, [&] { run.fill_inputs(1); });
    if (!right.ok()) return right.error();
    all_right = all_right && *right;
  }
  report.print_plans();
  fmt::print(
      "\nof roofline: the least time this machine needs at all, in per cent of the time taken\n"
      "error/bound: the largest error against a double-precision reference; at most 1 is "
      "right\n\n");
  if (picture->is_new) {
    status = write_png(input_path(options.output), image);
    if (!status.ok()) return status.error();
    fmt::print("written {} ({} x {})\n", input_path(options.output), image.width, image.height);
  }
  status = write_png(options.output, large);
  if (!status.ok()) return status.error();
  fmt::print("written {} ({} x {})\n", options.output, large.width, large.height);
  return all_right ? kExitWell : kExitCheckFailed;
}

}  // namespace

Command make_demo_command(CLI::App& parent) {
  const auto options = std::make_shared<DemoOptions>();
  CLI::App* app = parent.add_subcommand("demo", "scale a picture up; plans, speed and errors");
  add_common_options(*app, LayerSource::none, &options->common);
  add_threads_option(*app, &options->common);
  app->add_option("photo", options->photo, "picture to scale up 4 times; default: a test chart")
      ->type_name("PHOTO.PNG");
  app->add_option("-o,--output", options->output, "where to write the large picture")
      ->type_name("OUT.PNG")
      ->capture_default_str();
  return {app, [options] { return demo(*options); }};
}

}  // namespace convt::tools
