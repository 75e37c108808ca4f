#include <convt/epilogue.hpp>

#include <array>
#include <optional>

#include "compiler/problem/float_text.hpp"

namespace convt {
namespace {

/// What a kind's constants are.
struct KindInfo {
  const char* name;
  int constants = 0;  ///< how many of alpha and beta it has
  float alpha = 0;    ///< usual values
  float beta = 0;
  bool may_leave_out = true;  ///< whether there are usual values at all
};

constexpr std::array<KindInfo, kStepKinds> kKinds{{{"scale_shift"},
                                                   {"add", 2, 1, 0},
                                                   {"relu"},
                                                   {"leaky_relu", 1, 0.01f},
                                                   {"prelu"},
                                                   {"elu", 1, 1},
                                                   {"clip", 2, 0, 0, false},
                                                   {"sigmoid"},
                                                   {"tanh"},
                                                   {"gelu_erf"},
                                                   {"gelu_tanh"},
                                                   {"silu"},
                                                   {"hardswish"},
                                                   {"hardsigmoid", 2, 1.0f / 6, 0.5f},
                                                   {"softplus"},
                                                   {"snake"}}};

const KindInfo& info_of(StepKind kind) { return kKinds[static_cast<std::size_t>(kind)]; }

struct Alias {
  const char* name;
  EpilogueStep step;
};

constexpr Alias kAliases[] = {{"bn", {StepKind::scale_shift}},
                              {"gelu", {StepKind::gelu_erf}},
                              {"swish", {StepKind::silu}},
                              {"relu6", {StepKind::clip, 0, 6}}};

std::optional<StepKind> find_kind(std::string_view name) {
  for (std::size_t i = 0; i < kKinds.size(); ++i) {
    if (name == kKinds[i].name) return static_cast<StepKind>(i);
  }
  return std::nullopt;
}

Error invalid(std::string_view text, const std::string& what) {
  return {ErrorCode::invalid_argument, "step '" + std::string(text) + "': " + what};
}

}  // namespace

int EpilogueStep::parameter_rows() const {
  switch (kind) {
    case StepKind::scale_shift:
      return 2;
    case StepKind::prelu:
    case StepKind::snake:
      return 1;
    default:
      return 0;
  }
}

std::string EpilogueStep::to_text() const {
  const KindInfo& info = info_of(kind);
  std::string text = info.name;
  const bool usual_alpha = info.may_leave_out && alpha == info.alpha;
  const bool usual_beta = info.may_leave_out && beta == info.beta;
  if (info.constants >= 1 && !(usual_alpha && usual_beta)) text += ":" + float_text(alpha);
  if (info.constants >= 2 && !usual_beta) text += ":" + float_text(beta);
  return text;
}

Result<EpilogueStep> parse_step(std::string_view text) {
  std::string_view rest = text;
  const auto next = [&rest] {
    const std::size_t colon = rest.find(':');
    const std::string_view word = rest.substr(0, colon);
    rest.remove_prefix(colon == std::string_view::npos ? rest.size() : colon + 1);
    return word;
  };
  const bool has_constants = text.find(':') != std::string_view::npos;
  const std::string_view name = next();
  for (const Alias& alias : kAliases) {
    if (name != alias.name) continue;
    if (has_constants) return invalid(text, std::string(name) + " takes no constants");
    return alias.step;
  }
  const std::optional<StepKind> kind = find_kind(name);
  if (!kind) {
    return Error{ErrorCode::unsupported, "step '" + std::string(text) + "': unknown"};
  }
  const KindInfo& info = info_of(*kind);
  EpilogueStep step{*kind, info.alpha, info.beta};
  int given = 0;
  for (bool more = has_constants; more; ++given) {
    more = rest.find(':') != std::string_view::npos;
    const std::string_view word = next();
    if (given >= info.constants) {
      return invalid(text, std::string(name) + " takes " +
                               (info.constants == 0 ? std::string("no constants")
                                                    : "at most " + std::to_string(info.constants)));
    }
    const std::optional<float> value = parse_float(word);
    if (!value) return invalid(text, "'" + std::string(word) + "' is not a number");
    (given == 0 ? step.alpha : step.beta) = *value;
  }
  if (!info.may_leave_out && given < info.constants) {
    return invalid(text, std::string(name) + " needs " + std::to_string(info.constants) +
                             " constants, got " + std::to_string(given));
  }
  return step;
}

int step_constants(StepKind kind) { return info_of(kind).constants; }

const char* to_string(StepKind kind) {
  return static_cast<std::size_t>(kind) < kKinds.size() ? info_of(kind).name : "unknown";
}

}  // namespace convt
