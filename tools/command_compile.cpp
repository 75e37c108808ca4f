// convt compile: layers ahead of time, as an archive to link.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>

#include <fmt/format.h>

#include "aot/bundle.hpp"
#include "aot/runtime_files.hpp"
#include "compiler/problem/tensor_shapes.hpp"
#include "tools/commands.hpp"
#include "tools/npy.hpp"
#include "tools/npz.hpp"
#include "tools/output_file.hpp"
#include "tools/progress.hpp"

namespace convt::tools {
namespace {

struct CompileOptions {
  CommonOptions common;
  std::string output;
  std::string header;
  std::string manifest;
  std::string runtime_source;
  std::string weights;
  std::string prefix;
  std::string tuning_db;
  std::vector<std::string> targets{"native"};
};

using Bytes = std::vector<std::uint8_t>;

/// <place>/<layer's name>.npy, or that array of an .npz file.
Result<Bytes> read_weights(const std::string& place, const Layer& layer) {
  const auto refuse = [&](const std::string& what) {
    return Error{ErrorCode::invalid_argument, "--weights: " + what};
  };
  if (layer.name.empty()) return refuse("a layer without a name has no weights there");
  const std::string path = (std::filesystem::path(place) / (layer.name + ".npy")).string();
  const DataType type = weights_dtype(layer.problem.dtype);
  const Result<NpyArray> array = std::filesystem::is_directory(place)
                                     ? read_npy(path, type)
                                     : read_npz(place, layer.name, type);
  if (!array.ok()) return refuse(array.error().message);
  const std::vector<std::int64_t> expected = weights_shape(layer.problem);
  if (array->shape != expected) {
    return refuse(fmt::format("'{}' has the shape {}, the layer wants {}", path,
                              shape_text(array->shape), shape_text(expected)));
  }
  const auto* begin = static_cast<const std::uint8_t*>(array->data.data());
  return Bytes(begin, begin + array->data.bytes());
}

/// All files or none: each appears only once all are complete.
class Outputs {
 public:
  Status add(const std::string& path, std::string_view contents) {
    if (path.empty()) return ok_status();
    Result<OutputFile> file = OutputFile::create(path);
    if (!file.ok()) return file.error();
    if (std::fwrite(contents.data(), 1, contents.size(), file->stream()) != contents.size()) {
      return io_error("write", path);
    }
    files_.push_back(std::move(*file));
    return ok_status();
  }
  Status commit() {
    for (OutputFile& file : files_) {
      if (Status status = file.commit(); !status.ok()) return status;
    }
    return ok_status();
  }

 private:
  std::vector<OutputFile> files_;
};

std::string_view text_of(const Bytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Status write_bundle(const CompileOptions& options, const aot::Bundle& bundle,
                    std::size_t* archive_bytes) {
  const Result<Bytes> archive = object::write_archive(bundle.members);
  if (!archive.ok()) return archive.error();
  *archive_bytes = archive->size();
  Outputs outputs;
  const std::string header_name = std::filesystem::path(options.header).filename().string();
  const std::pair<const std::string&, std::string> texts[] = {
      {options.header, aot::make_header(bundle, header_name)},
      {options.manifest, options.manifest.empty() ? "" : aot::make_manifest(bundle)},
      {options.runtime_source, aot::runtime_source()}};
  if (Status status = outputs.add(options.output, text_of(*archive)); !status.ok()) return status;
  for (const auto& [path, text] : texts) {
    if (Status status = outputs.add(path, text); !status.ok()) return status;
  }
  return outputs.commit();
}

/// Asked before the work begins.
Status check_outputs(const CompileOptions& options) {
  for (const std::string* path :
       {&options.output, &options.header, &options.manifest, &options.runtime_source}) {
    if (path->empty()) continue;
    if (Status status = check_writable(*path); !status.ok()) return status;
  }
  return ok_status();
}

void print_summary(const aot::Bundle& bundle, const CompileOptions& options,
                   std::size_t archive_bytes) {
  std::size_t code_bytes = 0;
  std::vector<std::string> counted;
  std::size_t kernels = 0;
  for (const aot::BundleLayer& layer : bundle.layers) {
    for (const aot::Variant& variant : layer.variants) {
      const std::string& symbol = variant.stage_symbols.front();
      if (std::find(counted.begin(), counted.end(), symbol) != counted.end()) continue;
      counted.push_back(symbol);
      code_bytes += variant.code_bytes;
      ++kernels;
    }
  }
  fmt::print("{}: {} layers, {} kernels, {} bytes of code, {} bytes in all\n", options.output,
             bundle.layers.size(), kernels, code_bytes, archive_bytes);
  if (!bundle.has_runtime) {
    fmt::print(stderr,
               "note: the archive has no runtime for its machine; write it with --runtime-source, "
               "compile and link it\n");
  }
}

Result<int> compile_layers(const CompileOptions& options) {
  aot::BundleOptions making;
  for (const std::string& name : options.targets) {
    Result<aot::NamedTarget> target = aot::choose_aot_target(name);
    if (!target.ok()) return Error{target.error().code, "--" + target.error().message};
    making.targets.push_back(std::move(*target));
  }
  making.prefix = options.prefix;
  making.tuning_db = options.tuning_db;
  making.backend = compile_options(options.common, {}).backend;
  making.threads = options.common.threads;
  if (!options.weights.empty()) {
    making.weights = [&](const Layer& layer) { return read_weights(options.weights, layer); };
  }
  const Result<std::vector<Layer>> layers = load_layers(options.common);
  if (!layers.ok()) return layers.error();
  if (Status status = check_outputs(options); !status.ok()) return status.error();
  Progress progress;
  making.progress = [&](std::size_t done, std::size_t kernels) {
    progress.show(fmt::format("compiled {} of {} kernels", done, kernels));
  };
  const Result<aot::Bundle> bundle = aot::make_bundle(*layers, making);
  progress.clear();
  if (!bundle.ok()) return bundle.error();
  std::size_t archive_bytes = 0;
  if (Status status = write_bundle(options, *bundle, &archive_bytes); !status.ok()) {
    return status.error();
  }
  print_summary(*bundle, options, archive_bytes);
  return kExitWell;
}

}  // namespace

Command make_compile_command(CLI::App& parent) {
  const auto options = std::make_shared<CompileOptions>();
  CLI::App* app = parent.add_subcommand(
      "compile", "compile layers ahead of time: an archive to link and its C header");
  add_common_options(*app, LayerSource::one_or_file, &options->common);
  app->add_option("-o,--output", options->output, "the archive")->type_name("FILE.a")->required();
  app->add_option("--header", options->header, "the C header")->type_name("FILE.h")->required();
  app->add_option("--target", options->targets,
                  "CPUs to compile for, of one architecture; the best that the CPU can run is "
                  "taken at run time. native, or: " +
                      target_names())
      ->type_name("NAME")
      ->capture_default_str();
  app->add_option("--manifest", options->manifest, "what is in the archive, as JSON")
      ->type_name("FILE.json");
  app->add_option(
         "--weights", options->weights,
         "folder with <layer's name>.npy of each layer, or an .npz file with these arrays: "
         "packed into the archive")
      ->type_name("PLACE");
  app->add_option("--tuning-db", options->tuning_db,
                  "database of tuned plans; default: the one that CONVT_TUNING_DB names, if any")
      ->type_name("FILE")
      ->check(CLI::ExistingFile);
  app->add_option("--prefix", options->prefix, "of the functions' names")->type_name("TEXT");
  app->add_option("--runtime-source", options->runtime_source,
                  "write the C runtime's source, for machines whose archives come without it")
      ->type_name("FILE.c");
  constexpr int kMostThreads = 1024;
  app->add_option("--threads", options->common.threads, "threads that compile")
      ->check(CLI::Range(1, kMostThreads))
      ->capture_default_str();
  return {app, [options] { return compile_layers(*options); }};
}

}  // namespace convt::tools
