// convt dump: a layer's kernel at the stages of its making.
#include <algorithm>
#include <memory>

#include <fmt/format.h>

#include "compiler/backend/llvm/llvm_backend.hpp"
#include "runtime/inspect.hpp"
#include "tools/commands.hpp"
#include "tools/disassemble.hpp"

namespace convt::tools {
namespace {

struct DumpOptions {
  CommonOptions common;
  std::string stage = "program";
  std::string target;
};

void print_plan(const Kernel& kernel) {
  fmt::print("; {}\n{}\n", kernel.info().layer, kernel.info().plan);
}

Status print_program(const Kernel& kernel) {
  const Result<std::string> text = kernel.program_text();
  if (!text.ok()) return text.error();
  fmt::print("{}{}", *text, text->ends_with('\n') ? "" : "\n");
  return ok_status();
}

std::vector<CodeNote> make_notes(const Code& code) {
  std::vector<CodeNote> notes;
  for (std::size_t stage = 0; stage < code.stage_entries.size(); ++stage) {
    notes.push_back({code.stage_entries[stage], fmt::format("stage {}", stage)});
  }
  for (const Code::Role& role : code.roles) notes.push_back({role.offset, role.text});
  std::stable_sort(notes.begin(), notes.end(),
                   [](const CodeNote& a, const CodeNote& b) { return a.offset < b.offset; });
  return notes;
}

Status print_code(const Kernel& kernel) {
  const KernelInfo& info = kernel.info();
  if (kernel.code().empty()) {
    return Error{ErrorCode::unsupported,
                 fmt::format("--stage: no asm: the {} has no machine code{}{}", info.backend,
                             info.note.empty() ? "" : ": ", info.note)};
  }
  const Code code = inspect::code_of(kernel);
  fmt::print("; {}\n; {}\n; {}\n; {} bytes\n", info.symbol, info.layer, info.plan,
             code.bytes.size());
  fmt::print("{}", disassemble(code.bytes, code.constants_offset, make_notes(code)));
  return ok_status();
}

/// What LLVM is given, or makes of it: for any target, whichever backend made the kernel.
Status print_llvm(const Kernel& kernel, LlvmText form) {
  const Result<program::Program> program = inspect::program_of(kernel);
  if (!program.ok()) return program.error();
  const Result<std::string> text =
      llvm_text(*program, inspect::target_of(kernel), kernel.info().symbol, form);
  if (!text.ok()) return text.error();
  fmt::print("{}", *text);
  return ok_status();
}

Result<int> dump(const DumpOptions& options) {
  const Result<Layer> layer = load_layer(options.common);
  if (!layer.ok()) return layer.error();
  Options compiling = compile_options(options.common, *layer);
  compiling.isa = options.target;
  const Result<Kernel> kernel = convt::compile(layer->problem, compiling);
  if (!kernel.ok()) return in_layer(*layer, kernel.error());
  Status status = ok_status();
  if (options.stage == "plan") print_plan(*kernel);
  if (options.stage == "program") status = print_program(*kernel);
  if (options.stage == "ir") status = print_llvm(*kernel, LlvmText::ir);
  if (options.stage == "asm") {
    const bool is_foreign = !host_can_run(inspect::target_of(*kernel)) && has_llvm();
    status = is_foreign ? print_llvm(*kernel, LlvmText::assembly) : print_code(*kernel);
  }
  if (!status.ok()) return status.error();
  return kExitWell;
}

}  // namespace

Command make_dump_command(CLI::App& parent) {
  const auto options = std::make_shared<DumpOptions>();
  CLI::App* app =
      parent.add_subcommand("dump", "print a kernel's plan, program, LLVM IR or machine code");
  add_common_options(*app, LayerSource::one, &options->common);
  app->add_option("--stage", options->stage, "what to print")
      ->check(CLI::IsMember({"plan", "program", "ir", "asm"}))
      ->required();
  app->add_option("--target", options->target,
                  "machine to compile for, one of " + target_names() + "; default: this one");
  return {app, [options] { return dump(*options); }};
}

}  // namespace convt::tools
