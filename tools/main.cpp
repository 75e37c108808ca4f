// The `convt` command: parses, dispatches, and turns every failure into a message and a status.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <span>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <convt/version.hpp>

#include "tools/commands.hpp"

namespace convt::tools {
namespace {

// Called from exception handlers too: nothing here throws.
int fail(std::string_view message) noexcept {
  std::fflush(stdout);
  std::fprintf(stderr, "convt: %.*s\n", static_cast<int>(message.size()), message.data());
  return kExitBadInput;
}

constexpr const char* kSeeHelp = "See 'convt --help' and 'convt <command> --help'.";

/// CLI11 says of a wrong command only that one is missing.
bool is_unknown_command(std::span<const Command> commands, std::string_view argument) {
  return !argument.starts_with('-') &&
         std::none_of(commands.begin(), commands.end(),
                      [&](const Command& command) { return command.app->get_name() == argument; });
}

int dispatch(int argc, char** argv) {
  CLI::App app{"convt: a just-in-time compiler for transposed convolution", "convt"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "convt " CONVT_VERSION_STRING);
  app.footer("Exit status: 0 well, 1 a check failed, 2 bad input.");
  const std::vector<Command> commands{
      make_demo_command(app), make_run_command(app),    make_explain_command(app),
      make_dump_command(app), make_verify_command(app), make_bench_command(app),
      make_compile_command(app), make_cache_command(app),
#ifdef CONVT_HAS_TUNING
      make_tune_command(app),
#endif
  };
  if (argc < 2) return fail(fmt::format("a command is needed\n{}", kSeeHelp));
  if (argv[1] == std::string_view("layers")) {  // reading models is left to the package onnx
    return fail("'layers' is a command of the Python package: python3 -m convt layers model.onnx");
  }
  if (is_unknown_command(commands, argv[1])) {
    return fail(fmt::format("there is no command '{}'\n{}", argv[1], kSeeHelp));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    return fail(fmt::format("{}\n{}", error.what(), kSeeHelp));
  }
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    if (command.compiles_anew) setenv("CONVT_CACHE", "off", 0);
    const Result<int> status = command.run();
    if (!status.ok()) return fail(status.error().message);
    if (std::fflush(stdout) != 0) return fail("cannot write to standard output");
    return *status;
  }
  return fail("no command");
}

}  // namespace
}  // namespace convt::tools

int main(int argc, char** argv) {
  using convt::tools::fail;
  try {
    return convt::tools::dispatch(argc, argv);
  } catch (const std::bad_alloc&) {
    return fail("out of memory");
  } catch (const std::exception& error) {
    return fail(error.what());
  }
}
