#include "compiler/backend/llvm/llvm_backend.hpp"

#include <llvm/Config/llvm-config.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/Support/raw_ostream.h>

#include <cstring>
#include <utility>

#include "compiler/backend/llvm/codegen.hpp"
#include "compiler/backend/llvm/elf_image.hpp"
#include "compiler/backend/llvm/ir_module.hpp"
#include "compiler/program/shape.hpp"

namespace convt {
namespace {

Error unsupported(std::string message) { return {ErrorCode::unsupported, std::move(message)}; }

/// An empty string, or what in the Program this backend does not take.
std::string find_obstacle(const program::Program& program, const Target& target) {
  if (target.isa == Isa::scalar) return "the LLVM backend has no code for scalar machines";
  if (program.lanes != target.lanes) {
    return "the program has " + std::to_string(program.lanes) + " lanes, the target " +
           std::to_string(target.lanes);
  }
  if (program::is_dynamic(program)) return "the LLVM backend makes no code for dynamic axes";
  return program.allocated ? "" : "the program's registers are not allocated";
}

/// A module with its machine.
class Translation {
 public:
  explicit Translation(const Target& target)
      : target_(target),
        machine_(llvm_backend::target_machine(target)),
        module_("convt", context_) {
    if (machine_ == nullptr) return;
    module_.setTargetTriple(machine_->getTargetTriple().str());
    module_.setDataLayout(machine_->createDataLayout());
  }

  Status add(const program::Program& program, const std::vector<std::string>& symbols) {
    if (machine_ == nullptr) return unsupported("this LLVM has no such target");
    if (symbols.size() != program.stages.size()) {
      return Error{ErrorCode::internal, "not one symbol a stage"};
    }
    std::string why = find_obstacle(program, target_);
    if (why.empty()) why = llvm_backend::add_program(module_, program, target_, symbols);
    if (!why.empty()) return unsupported(std::move(why));
    return ok_status();
  }

  Result<std::string> object() {
    return llvm_backend::generate_code(module_, *machine_, llvm::CodeGenFileType::ObjectFile);
  }
  Result<std::string> assembly() {
    return llvm_backend::generate_code(module_, *machine_, llvm::CodeGenFileType::AssemblyFile);
  }
  std::string ir() const {
    std::string text;
    llvm::raw_string_ostream stream(text);
    module_.print(stream, nullptr);
    return text;
  }

 private:
  const Target& target_;
  llvm::LLVMContext context_;
  llvm::TargetMachine* machine_;
  llvm::Module module_;
};

/// Names for code that nobody links: the symbol, then the stage.
std::vector<std::string> stage_symbols(const program::Program& program, const std::string& symbol) {
  std::vector<std::string> symbols;
  for (std::size_t i = 0; i < program.stages.size(); ++i) {
    symbols.push_back(symbol + "." + std::to_string(i) + "." + program.stages[i].name);
  }
  return symbols;
}

}  // namespace

bool has_llvm() { return true; }
std::string llvm_version() { return "LLVM " LLVM_VERSION_STRING; }

Result<Code> emit_llvm(const program::Program& program, const Target& target, std::string symbol) {
  if (target.isa == Isa::neon) return unsupported("emit_llvm() makes code for x86-64 only");
  Translation translation(target);
  const std::vector<std::string> symbols = stage_symbols(program, symbol);
  if (Status status = translation.add(program, symbols); !status.ok()) return status.error();
  Result<std::string> object = translation.object();
  if (!object.ok()) return object.error();
  Result<Code> code = llvm_backend::link_object(*object, symbols);
  if (!code.ok()) return code;
  if (code->constants_offset > kMaxCodeBytes) {
    return unsupported("the kernel's instructions take " + std::to_string(code->constants_offset) +
                       " bytes; at most " + std::to_string(kMaxCodeBytes) + " are allowed");
  }
  code->symbol = std::move(symbol);
  return code;
}

Result<std::vector<std::byte>> llvm_object(std::span<const NamedProgram> programs,
                                           const Target& target) {
  Translation translation(target);
  for (const NamedProgram& named : programs) {
    Status status = translation.add(*named.program, named.stage_symbols);
    if (!status.ok()) return status.error();
  }
  Result<std::string> object = translation.object();
  if (!object.ok()) return object.error();
  std::vector<std::byte> bytes(object->size());
  std::memcpy(bytes.data(), object->data(), bytes.size());
  return bytes;
}

Result<std::string> llvm_text(const program::Program& program, const Target& target,
                              std::string symbol, LlvmText form) {
  Translation translation(target);
  Status status = translation.add(program, stage_symbols(program, symbol));
  if (!status.ok()) return status.error();
  if (form == LlvmText::assembly) return translation.assembly();
  return translation.ir();
}

}  // namespace convt
