// The commands of `convt`, one file each (command_<name>.cpp).
#pragma once

#include <CLI/CLI.hpp>

#include "tools/common_options.hpp"

namespace convt::tools {

Command make_demo_command(CLI::App& parent);
Command make_run_command(CLI::App& parent);
Command make_explain_command(CLI::App& parent);
Command make_dump_command(CLI::App& parent);
Command make_verify_command(CLI::App& parent);
Command make_bench_command(CLI::App& parent);
Command make_compile_command(CLI::App& parent);
Command make_cache_command(CLI::App& parent);
#ifdef CONVT_HAS_TUNING
Command make_tune_command(CLI::App& parent);
#endif

}  // namespace convt::tools
