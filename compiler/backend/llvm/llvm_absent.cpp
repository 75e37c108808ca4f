// What llvm_backend.hpp offers in a build without LLVM: refusals.
#include "compiler/backend/llvm/llvm_backend.hpp"

namespace convt {
namespace {

Error absent() {
  return {ErrorCode::unsupported, "backend llvm: this convt was built without LLVM"};
}

}  // namespace

bool has_llvm() { return false; }
std::string llvm_version() { return "no LLVM"; }

Result<Code> emit_llvm(const program::Program&, const Target&, std::string) { return absent(); }

Result<std::vector<std::byte>> llvm_object(std::span<const NamedProgram>, const Target&) {
  return absent();
}

Result<std::string> llvm_text(const program::Program&, const Target&, std::string, LlvmText) {
  return absent();
}

}  // namespace convt
