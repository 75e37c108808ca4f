#include "runtime/stored_kernel.hpp"

#include <cstring>
#include <type_traits>
#include <utility>

#include <convt/version.hpp>

#include "compiler/backend/llvm/llvm_backend.hpp"
#include "compiler/backend/xbyak/emit.hpp"
#include "runtime/compiler_fingerprint.hpp"

namespace convt {
namespace {

/// Numbers as they stand in memory, lists and texts behind their length: entries are read on the
/// machine that wrote them.
class Writer {
 public:
  template <class Number>
  void number(Number value) {
    static_assert(std::is_arithmetic_v<Number>);
    const auto* const data = reinterpret_cast<const std::uint8_t*>(&value);
    bytes_.insert(bytes_.end(), data, data + sizeof value);
  }
  void bytes(std::span<const std::uint8_t> data) {
    number(std::uint64_t{data.size()});
    bytes_.insert(bytes_.end(), data.begin(), data.end());
  }
  void text(const std::string& text) {
    bytes({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  }
  template <class List, class WriteItem>
  void list(const List& items, WriteItem write_item) {
    number(std::uint64_t{items.size()});
    for (const auto& item : items) write_item(item);
  }
  std::vector<std::uint8_t> take() { return std::move(bytes_); }

 private:
  std::vector<std::uint8_t> bytes_;
};

/// After the first read that goes beyond the end everything is 0, and ok() is false.
class Reader {
 public:
  explicit Reader(std::span<const std::uint8_t> bytes) : rest_(bytes) {}

  template <class Number>
  Number number() {
    Number value{};
    const std::span<const std::uint8_t> data = take(sizeof value);
    if (!data.empty()) std::memcpy(&value, data.data(), sizeof value);
    return value;
  }
  template <class Number>
  void number(Number& value) {
    value = number<Number>();
  }
  std::span<const std::uint8_t> bytes() { return take(number<std::uint64_t>()); }
  std::string text() {
    const std::span<const std::uint8_t> data = bytes();
    return {reinterpret_cast<const char*>(data.data()), data.size()};
  }
  template <class Item, class ReadItem>
  std::vector<Item> list(ReadItem read_item) {
    std::vector<Item> items;
    // One by one: a wrong length ends with the bytes, before it takes memory.
    for (auto count = number<std::uint64_t>(); ok_ && count > 0; --count) {
      items.push_back(read_item());
    }
    return items;
  }
  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] bool at_end() const { return ok_ && rest_.empty(); }

 private:
  std::span<const std::uint8_t> take(std::uint64_t count) {
    ok_ = ok_ && count <= rest_.size();
    if (!ok_) return {};
    const auto data = rest_.first(static_cast<std::size_t>(count));
    rest_ = rest_.subspan(static_cast<std::size_t>(count));
    return data;
  }

  std::span<const std::uint8_t> rest_;
  bool ok_ = true;
};

// The structured bindings name every member: one that is added does not compile before it is
// stored, too. (The fingerprint of the sources makes entries of before unreachable.)

void write_candidate(Writer& writer, const PlanCandidate& candidate) {
  const auto& [plan, predicted_us, useful_lanes, why] = candidate;
  writer.text(plan);
  writer.number(predicted_us);
  writer.number(useful_lanes);
  writer.text(why);
}

PlanCandidate read_candidate(Reader& reader) {
  PlanCandidate candidate;
  candidate.plan = reader.text();
  reader.number(candidate.predicted_us);
  reader.number(candidate.useful_lanes);
  candidate.why = reader.text();
  return candidate;
}

void write_stage(Writer& writer, const RunStage& stage) {
  const auto& [entry, fixed_items, batch_blocks] = stage;
  (void)entry;
  writer.number(fixed_items);
  writer.list(batch_blocks, [&](std::int64_t block) { writer.number(block); });
}

RunStage read_stage(Reader& reader) {
  RunStage stage;
  reader.number(stage.fixed_items);
  stage.batch_blocks = reader.list<std::int64_t>([&] { return reader.number<std::int64_t>(); });
  return stage;
}

void write_frame(Writer& writer, const Code::StageFrame& frame) {
  const auto& [name, begin, end, steps] = frame;
  writer.text(name);
  writer.number(begin);
  writer.number(end);
  writer.list(steps, [&](const Code::FrameStep& step) {
    const auto& [offset, frame_bytes, saves, dwarf_register] = step;
    writer.number(offset);
    writer.number(frame_bytes);
    writer.number(static_cast<std::uint8_t>(saves));
    writer.number(dwarf_register);
  });
}

Code::StageFrame read_frame(Reader& reader) {
  Code::StageFrame frame;
  frame.name = reader.text();
  reader.number(frame.begin);
  reader.number(frame.end);
  frame.steps = reader.list<Code::FrameStep>([&] {
    Code::FrameStep step;
    reader.number(step.offset);
    reader.number(step.frame_bytes);
    step.saves = static_cast<Code::FrameStep::Saves>(reader.number<std::uint8_t>());
    reader.number(step.dwarf_register);
    return step;
  });
  return frame;
}

void write_code(Writer& writer, const Code& code, std::span<const std::uint8_t> code_bytes) {
  const auto& [symbol, bytes, stage_entries, frames, constants_offset, roles] = code;
  (void)symbol, (void)bytes;
  writer.bytes(code_bytes);
  writer.list(stage_entries, [&](std::size_t entry) { writer.number(entry); });
  writer.list(frames, [&](const Code::StageFrame& frame) { write_frame(writer, frame); });
  writer.number(constants_offset);
  writer.list(roles, [&](const Code::Role& role) {
    const auto& [offset, text] = role;
    writer.number(offset);
    writer.text(text);
  });
}

Code read_code(Reader& reader) {
  Code code;
  const std::span<const std::uint8_t> bytes = reader.bytes();
  code.bytes.assign(bytes.begin(), bytes.end());
  code.stage_entries = reader.list<std::size_t>([&] { return reader.number<std::size_t>(); });
  code.frames = reader.list<Code::StageFrame>([&] { return read_frame(reader); });
  reader.number(code.constants_offset);
  code.roles = reader.list<Code::Role>([&] {
    Code::Role role;
    reader.number(role.offset);
    role.text = reader.text();
    return role;
  });
  return code;
}

/// Whether the parts go together.
bool is_plausible(const StoredKernel& stored) {
  const Code& code = stored.code;
  if (stored.stages.empty() || code.stage_entries.size() != stored.stages.size()) return false;
  if (code.constants_offset > code.bytes.size()) return false;
  for (const std::size_t entry : code.stage_entries) {
    if (entry >= code.constants_offset) return false;
  }
  for (const RunStage& stage : stored.stages) {
    if (stage.fixed_items < 0) return false;
    for (const std::int64_t block : stage.batch_blocks) {
      if (block < 1) return false;
    }
  }
  return true;
}

}  // namespace

std::string make_storage_key(const KernelKey& key, std::string_view backend) {
  const auto& [problem, target, options] = key;
  const auto& [isa, lanes, vector_registers, mask_registers, l1, l2, l3, dot_bf16, dot_u8s8] =
      target;
  (void)isa, (void)dot_bf16, (void)dot_u8s8;  // in the text
  const auto& [wanted_backend, strict, plan, wanted_isa, expected_batch, reproducible] = options;
  (void)wanted_backend;  // `backend` is what became of it
  (void)reproducible;    // `plan` is the tuned one, if one is used
  const auto number = [](std::int64_t value) { return " " + std::to_string(value); };

  std::string text = "convt " CONVT_VERSION_STRING " " CONVT_COMPILER_FINGERPRINT "\nbackend ";
  text += backend;
  text += " " + (backend == "llvm" ? llvm_version() : xbyak_version());
  text += "\nproblem " + problem.to_text();
  text += "\ntarget " + target.to_text() + number(lanes) + number(vector_registers) +
          number(mask_registers) + number(l1) + number(l2) + number(l3);
  text += "\noptions" + number(strict ? 1 : 0) + number(expected_batch) + " isa=" + wanted_isa +
          " plan=" + plan + "\n";
  return text;
}

std::vector<std::uint8_t> write_stored_kernel(const KernelState& kernel,
                                              std::span<const std::uint8_t> code) {
  Writer writer;
  writer.text(kernel.info.plan);
  writer.text(kernel.info.reason);
  writer.text(kernel.info.note);
  writer.number(kernel.info.predicted_us);
  writer.number(kernel.info.useful_lanes);
  writer.list(kernel.info.rejected,
              [&](const PlanCandidate& candidate) { write_candidate(writer, candidate); });
  writer.list(kernel.stages, [&](const RunStage& stage) { write_stage(writer, stage); });
  const auto& [src, dst, images] = kernel.staged;
  (void)images;  // chosen anew
  writer.number(src);
  writer.number(dst);
  writer.number(kernel.workspaces->slice_bytes());
  write_code(writer, kernel.code, code);
  return writer.take();
}

std::optional<StoredKernel> read_stored_kernel(std::span<const std::uint8_t> bytes) {
  Reader reader(bytes);
  StoredKernel stored;
  stored.info.plan = reader.text();
  stored.info.reason = reader.text();
  stored.info.note = reader.text();
  reader.number(stored.info.predicted_us);
  reader.number(stored.info.useful_lanes);
  stored.info.rejected = reader.list<PlanCandidate>([&] { return read_candidate(reader); });
  stored.stages = reader.list<RunStage>([&] { return read_stage(reader); });
  reader.number(stored.staged.src);
  reader.number(stored.staged.dst);
  reader.number(stored.slice_bytes);
  stored.code = read_code(reader);
  if (!reader.at_end() || !is_plausible(stored)) return std::nullopt;
  Result<Plan> plan = parse_plan(stored.info.plan);
  if (!plan.ok()) return std::nullopt;
  stored.plan = *plan;
  return stored;
}

}  // namespace convt
