// Kernel: all of it but run().
#include <convt/kernel.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "compiler/program/passes.hpp"
#include "runtime/compile.hpp"
#include "runtime/kernel_state.hpp"
#include "runtime/shape_cache.hpp"

namespace convt {
namespace {

std::string format(const char* pattern, double a, double b = 0) {
  char text[96];
  std::snprintf(text, sizeof text, pattern, a, b);
  return text;
}

std::string format_times(const CompileTimes& t) {
  char text[160];
  std::snprintf(text, sizeof text,
                "%.0f us: plan %.0f, lower %.0f, verify %.0f, emit %.0f, install %.0f", t.total_us,
                t.plan_us, t.lower_us, t.verify_us, t.emit_us, t.install_us);
  std::string line = text;
  if (t.load_us > 0) line += format(", disk %.0f", t.load_us + t.store_us);
  return line;
}

/// Workspace of a run on so many threads at the lengths of `shape`.
std::size_t run_bytes(const KernelState& kernel, const KernelShape& shape, int threads,
                      std::int64_t batch) {
  return shape.staged.of_run(std::max<std::int64_t>(batch, 0)) +
         kernel.workspaces->slice_bytes() * static_cast<std::size_t>(std::max(threads, 1));
}

Status check_canonical(const Problem& problem, const void* canonical, std::size_t count) {
  if (canonical == nullptr) return Error{ErrorCode::invalid_argument, "canonical: null"};
  const auto expected = static_cast<std::size_t>(problem.weights_count());
  if (count == expected) return ok_status();
  return Error{ErrorCode::invalid_argument, "count: " + std::to_string(count) +
                                                " weights, but the layer has " +
                                                std::to_string(expected)};
}

Status check_float(const Problem& problem) {
  if (problem.dtype == DataType::f32) return ok_status();
  return Error{ErrorCode::invalid_argument, std::string("canonical: float, but the weights are ") +
                                                to_string(weights_dtype(problem.dtype))};
}

}  // namespace

std::string KernelInfo::to_text() const {
  std::string text = symbol + "\n";
  const auto line = [&text](const char* title, const std::string& value) {
    text += "  ";
    text.append(title).append(": ").append(value).append("\n");
  };
  line("layer", layer);
  line("target", target);
  line("backend", backend + ", " + std::to_string(code_bytes) + " bytes of code");
  line("plan", plan);
  line("reason", reason);
  if (!note.empty()) line("note", note);
  line("predicted", format("%.2f us an image on one thread, %.0f%% useful lanes", predicted_us,
                           useful_lanes * 100));
  line("memory", std::to_string(packed_weights_bytes) + " bytes of packed weights, " +
                     std::to_string(workspace_bytes) + " of workspace for one image and thread");
  line(from_disk ? "read from disk in" : "compiled in", format_times(times));
  for (const PlanCandidate& other : rejected) {
    line("rejected", other.plan +
                         format(" (%.2f us, %.0f%% useful lanes)", other.predicted_us,
                                other.useful_lanes * 100) +
                         (other.why.empty() ? "" : ": " + other.why));
  }
  return text;
}

const Problem& Kernel::problem() const { return state_->problem; }
const KernelInfo& Kernel::info() const { return state_->info; }
std::size_t Kernel::packed_weights_bytes() const { return state_->packed.bytes(); }
std::span<const std::uint8_t> Kernel::code() const { return state_->block.bytes(); }

Result<PackedWeights> Kernel::pack(const float* canonical, std::size_t count) const {
  if (Status status = check_float(problem()); !status.ok()) return status.error();
  return pack(static_cast<const void*>(canonical), count);
}

Result<PackedWeights> Kernel::pack(const void* canonical, std::size_t count) const {
  if (Status status = check_canonical(problem(), canonical, count); !status.ok()) {
    return status.error();
  }
  const std::size_t bytes = state_->packed.bytes();
  void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (memory == nullptr) {
    return Error{ErrorCode::out_of_memory,
                 "no memory for " + std::to_string(bytes) + " bytes of packed weights"};
  }
  std::shared_ptr<void> owner(memory, std::free);
  if (Status status = write_packed(state_->layout, canonical, memory); !status.ok()) {
    return status.error();
  }
  return PackedWeights(std::move(owner), bytes);
}

Result<WeightsView> Kernel::pack_into(const float* canonical, std::size_t count, void* packed,
                                      std::size_t packed_bytes) const {
  if (Status status = check_float(problem()); !status.ok()) return status.error();
  return pack_into(static_cast<const void*>(canonical), count, packed, packed_bytes);
}

Result<WeightsView> Kernel::pack_into(const void* canonical, std::size_t count, void* packed,
                                      std::size_t packed_bytes) const {
  if (Status status = check_canonical(problem(), canonical, count); !status.ok()) {
    return status.error();
  }
  if (packed == nullptr) return Error{ErrorCode::invalid_argument, "packed: null"};
  const std::size_t bytes = state_->packed.bytes();
  if (packed_bytes < bytes) {
    return Error{ErrorCode::invalid_argument, "packed_bytes: " + std::to_string(packed_bytes) +
                                                  ", but the packed weights have " +
                                                  std::to_string(bytes)};
  }
  if (Status status = write_packed(state_->layout, canonical, packed); !status.ok()) {
    return status.error();
  }
  return WeightsView{packed, bytes};
}

std::size_t Kernel::workspace_bytes(int threads, std::int64_t batch) const {
  return run_bytes(*state_, *state_, threads, batch);
}

Result<std::size_t> Kernel::workspace_bytes(
    int threads, std::int64_t batch,
    const std::array<std::int64_t, kMaxRank>& input_lengths) const {
  Result<std::shared_ptr<const KernelShape>> other = find_shape(*state_, input_lengths);
  if (!other.ok()) return other.error();
  const KernelShape& shape = *other == nullptr ? *state_ : **other;
  return run_bytes(*state_, shape, threads, batch);
}

Result<std::string> Kernel::program_text() const {
  if (state_->program) return program::to_text(*state_->program);
  Result<program::Program> program = make_program(state_->problem, state_->target, state_->plan);
  if (!program.ok()) return program.error();
  return program::to_text(*program);
}

}  // namespace convt
