// convt cache: what kernels are kept on disk, and how to be rid of them.
#include <cstddef>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "runtime/cache_folder.hpp"
#include "runtime/disk_cache.hpp"
#include "tools/commands.hpp"

namespace convt::tools {
namespace {

struct CacheOptions {
  std::string folder;
  std::size_t max_bytes = RuntimeOptions{}.disk_cache_bytes;
};

Result<std::string> folder_of(const CacheOptions& options) {
  CacheFolder folder = choose_cache_folder(options.folder);
  if (!folder.path.empty()) return std::move(folder.path);
  return Error{ErrorCode::invalid_argument, "there is no cache on disk: " + folder.why_not};
}

bool is_absent(const Error& error) { return error.message.starts_with("no folder "); }

double mebibytes(std::size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

Result<int> info(const CacheOptions& options) {
  const Result<std::string> folder = folder_of(options);
  if (!folder.ok()) return folder.error();
  const Result<DiskUsage> usage = inspect_cache(*folder);
  if (!usage.ok() && !is_absent(usage.error())) return usage.error();
  const DiskUsage kept = usage.ok() ? *usage : DiskUsage{};
  fmt::print("folder     {}{}\n", *folder, usage.ok() ? "" : " (not there yet)");
  fmt::print("kernels    {}, {:.1f} MiB\n", kept.entries, mebibytes(kept.bytes));
  if (kept.damaged > 0) fmt::print("damaged    {}: they count as missing\n", kept.damaged);
  if (kept.temporary_files > 0) {
    fmt::print("temporary  {} files, being written or left by a process that was killed\n",
               kept.temporary_files);
  }
  return kExitWell;
}

Result<int> prune(const CacheOptions& options) {
  const Result<std::string> folder = folder_of(options);
  if (!folder.ok()) return folder.error();
  const Result<DiskUsage> usage = prune_cache(*folder, options.max_bytes);
  if (!usage.ok() && !is_absent(usage.error())) return usage.error();
  const DiskUsage kept = usage.ok() ? *usage : DiskUsage{};
  fmt::print("{} files deleted, {} kernels left, {:.1f} MiB\n", kept.deleted, kept.entries,
             mebibytes(kept.bytes));
  return kExitWell;
}

}  // namespace

Command make_cache_command(CLI::App& parent) {
  const auto options = std::make_shared<CacheOptions>();
  CLI::App* app = parent.add_subcommand("cache", "the kernels that are kept on disk");
  app->add_option("--folder", options->folder,
                  "instead of $CONVT_CACHE_DIR, $XDG_CACHE_HOME/convt or ~/.cache/convt");
  app->require_subcommand(0, 1);
  app->fallthrough();
  app->add_subcommand("info", "where they are, how many, and whether they are whole (the default)")
      ->fallthrough();
  CLI::App* clear = app->add_subcommand("clear", "delete all of them");
  CLI::App* fewer = app->add_subcommand(
      "prune", "delete damaged and temporary files, then those not used for longest");
  clear->fallthrough();
  fewer->fallthrough();
  fewer->add_option("--max-bytes", options->max_bytes, "what may be left, e.g. 100M")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  return {app, [options, clear, fewer]() -> Result<int> {
            if (clear->parsed()) options->max_bytes = 0;
            return clear->parsed() || fewer->parsed() ? prune(*options) : info(*options);
          }};
}

}  // namespace convt::tools
