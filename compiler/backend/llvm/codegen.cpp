// A Program's plan has counted its registers with its instructions in this order, and its pointers
// are strength-reduced. So of LLVM's passes those run that a translation needs; what moves or
// merges instructions only makes longer lives, and costs time.
#include "compiler/backend/llvm/codegen.hpp"

#include <llvm/Analysis/TargetTransformInfo.h>
#include <llvm/CodeGen/MachineModuleInfo.h>
#include <llvm/CodeGen/Passes.h>
#include <llvm/CodeGen/TargetPassConfig.h>
#include <llvm/IR/DiagnosticInfo.h>
#include <llvm/IR/DiagnosticPrinter.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>

#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace convt::llvm_backend {
namespace {

struct Machine {
  const char* triple;
  const char* cpu;
  std::string features;
  auto operator<=>(const Machine&) const = default;
};

Machine describe(const Target& target) {
  if (target.isa == Isa::neon) {
    return {"aarch64-unknown-linux-gnu", "generic", target.dot_u8s8 ? "+i8mm" : ""};
  }
  std::string features = target.isa == Isa::avx512 ? "" : "-avx512f";
  if (target.dot_bf16) features += "+avx512bf16,";
  if (target.dot_u8s8) features += "+avx512vnni,";
  return {"x86_64-unknown-linux-gnu", target.isa == Isa::avx512 ? "x86-64-v4" : "x86-64-v3",
          std::move(features)};
}

void initialise_llvm() {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeAArch64TargetInfo();
    LLVMInitializeAArch64Target();
    LLVMInitializeAArch64TargetMC();
    LLVMInitializeAArch64AsmPrinter();
  });
}

std::unique_ptr<llvm::TargetMachine> make_machine(const Machine& machine) {
  initialise_llvm();
  std::string error;
  const llvm::Target* target = llvm::TargetRegistry::lookupTarget(machine.triple, error);
  if (target == nullptr) return nullptr;
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Strict;
  options.LoopAlignment = 32;
  return std::unique_ptr<llvm::TargetMachine>(target->createTargetMachine(
      machine.triple, machine.cpu, machine.features, options, llvm::Reloc::PIC_,
      llvm::CodeModel::Small, llvm::CodeGenOptLevel::Default));
}

void disable_passes(llvm::TargetPassConfig& config) {
  for (const void* pass :
       {&llvm::MachineSchedulerID, &llvm::PostMachineSchedulerID, &llvm::PostRASchedulerID,
        &llvm::EarlyMachineLICMID, &llvm::MachineLICMID, &llvm::MachineCSEID,
        &llvm::MachineSinkingID, &llvm::EarlyTailDuplicateID, &llvm::TailDuplicateID,
        &llvm::EarlyIfConverterID, &llvm::MachineCombinerID}) {
    config.disablePass(static_cast<const char*>(pass));
  }
}

/// Collects errors that would otherwise end the process.
struct Diagnostics : llvm::DiagnosticHandler {
  explicit Diagnostics(std::string& text) : text_(text) {}
  bool handleDiagnostics(const llvm::DiagnosticInfo& info) override {
    if (info.getSeverity() != llvm::DS_Error) return true;
    llvm::raw_string_ostream stream(text_);
    llvm::DiagnosticPrinterRawOStream printer(stream);
    info.print(printer);
    return true;
  }
  std::string& text_;
};

}  // namespace

llvm::TargetMachine* target_machine(const Target& target) {
  thread_local std::map<Machine, std::unique_ptr<llvm::TargetMachine>> machines;
  Machine machine = describe(target);
  auto found = machines.find(machine);
  if (found == machines.end()) {
    std::unique_ptr<llvm::TargetMachine> made = make_machine(machine);
    found = machines.emplace(std::move(machine), std::move(made)).first;
  }
  return found->second.get();
}

Result<std::string> generate_code(llvm::Module& module, llvm::TargetMachine& machine,
                                  llvm::CodeGenFileType form) {
  std::string errors;
  module.getContext().setDiagnosticHandler(std::make_unique<Diagnostics>(errors));
  auto& target = static_cast<llvm::LLVMTargetMachine&>(machine);
  llvm::SmallVector<char, 0> bytes;
  llvm::raw_svector_ostream stream(bytes);
  llvm::legacy::PassManager passes;
  llvm::TargetPassConfig* config = target.createPassConfig(passes);
  config->setDisableVerify(true);
  disable_passes(*config);
  passes.add(config);
  auto* machine_module = new llvm::MachineModuleInfoWrapperPass(&target);
  passes.add(machine_module);
  passes.add(llvm::createTargetTransformInfoWrapperPass(target.getTargetIRAnalysis()));
  config->addISelPrepare();
  if (config->addInstSelector()) return Error{ErrorCode::internal, "LLVM has no selector"};
  passes.add(llvm::Pass::createPass(&llvm::FinalizeISelID));
  config->addMachinePasses();
  config->setInitialized();
  if (target.addAsmPrinter(passes, stream, nullptr, form, machine_module->getMMI().getContext())) {
    return Error{ErrorCode::internal, "LLVM cannot write this kind of file"};
  }
  passes.add(llvm::createFreeMachineFunctionPass());
  passes.run(module);
  if (!errors.empty()) return Error{ErrorCode::unsupported, "LLVM: " + errors};
  return std::string(bytes.data(), bytes.size());
}

}  // namespace convt::llvm_backend
