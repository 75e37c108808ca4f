// What sweeps do with a random layer: fill its tensors, run it in some way, judge the result. Every
// function returns what went wrong, in words, or an empty string: they are called from many
// threads.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include <convt/convt.hpp>

#include "compiler/backend/llvm/llvm_backend.hpp"
#include "compiler/plan/plan.hpp"
#include "compiler/program/abi.hpp"
#include "compiler/program/program.hpp"
#include "compiler/target/target.hpp"
#include "runtime/compile.hpp"
#include "tests/random_layer.hpp"
#include "tests/test_support.hpp"

namespace convt::test {

/// What runs return for a plan that needs too many registers or too much code: neither right nor
/// wrong.
inline constexpr const char* kRefused = "refused";

/// kRefused, or the message.
inline std::string failure_of(const Error& error) {
  return error.code == ErrorCode::unsupported ? kRefused : error.message;
}

/// Random tensors of the case; what lies between the channel slices of a pitched x is NaN.
LayerData make_data(const LayerCase& layer);

/// Options that compile the case's plan, if it has one, for the target that it is meant for.
Options compile_options(const LayerCase& layer);

/// Every element of data.dst against the reference, and that nothing between its channel slices was
/// touched.
std::string check_result(const LayerData& data);

/// Whether two results of one layer are the same bits.
bool same_bits(const std::vector<float>& a, const std::vector<float>& b);

/// What a Program works on: its arguments, and how many bytes each of their pointers has, in the
/// order of Args.
struct ProgramMemory {
  Args args;
  std::array<std::size_t, 10> bytes{};
};

/// Calls run(memory) for a Program of `plan` on data, whose dst is then what was written.
std::string run_program(const program::Program& program, const Plan& plan, LayerData& data,
                        const std::function<std::string(const ProgramMemory&)>& run);

/// All stages of an allocated Program of `plan` on data; writes data.dst.
std::string interpret_layer(const program::Program& program, const Plan& plan, LayerData& data);

/// Compiles for one target, plan given, and checks.
class Machine {
 public:
  /// `backend` automatic: Xbyak or none.
  explicit Machine(const Target& target, Backend backend = Backend::automatic);

  /// Whether its machine code runs here.
  [[nodiscard]] bool runs_code() const {
    const bool is_llvm = backend_ == Backend::llvm && has_llvm();
    return (is_llvm || target_.isa == Isa::avx512) && host_can_run(target_);
  }
  [[nodiscard]] const Target& target() const { return target_; }

  /// As machine code, if it runs here, else interpreted.
  [[nodiscard]] Result<Kernel> compile(const LayerCase& layer) const;

  /// As machine code, if it runs here, and interpreted: right, and the same bits. The Program is
  /// proved.
  [[nodiscard]] std::string check(const LayerCase& layer) const;

 private:
  Target target_;
  Backend backend_;
  CompileContext context_;
};

/// The target without the instructions that multiply words of several channels.
Target without_dot_products(Target target);

/// The plans that choose_plan() weighed, the chosen one first; empty if there is none.
std::vector<Plan> candidate_plans(const Problem& problem, const Target& target);

/// Calls check(index) for every index below `count`, on `threads` threads (0: all CPUs), and
/// reports what it returns: the first few failures and how many there are.
void for_each_index(int count, const std::function<std::string(int)>& check, int threads = 0);

/// check(layer) for each of `count` layers of a theme, or for the one to be replayed; failures show
/// the line that replays them.
void for_each_layer(Theme theme, int count,
                    const std::function<std::string(const LayerCase&)>& check, int threads = 0,
                    const Extras& extras = {});

/// Checks the layer with its plan, or with the best one; plans for other targets are left to other
/// tests.
void replay(LayerCase layer, const Machine& machine);

/// `what`, and the line that replays the layer.
std::string describe_failure(const LayerCase& layer, const std::string& what);

}  // namespace convt::test
