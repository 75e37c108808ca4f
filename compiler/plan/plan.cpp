#include "compiler/plan/plan.hpp"

#include <algorithm>
#include <charconv>
#include <functional>

#include "compiler/plan/geometry.hpp"

namespace convt {
namespace {

constexpr std::array<const char*, 5> kFamilies{"channel_lanes", "space_lanes", "reduction_lanes",
                                               "group_lanes", "tap_lanes"};
constexpr std::array<const char*, 3> kPhases{"one", "all", "row"};

struct IntField {
  const char* key;
  int Plan::*value;
  int least;
  bool is_always_shown;
};
constexpr std::array<IntField, 8> kIntFields{{{"lanes", &Plan::lanes, 1, true},
                                              {"channels", &Plan::channels, 1, true},
                                              {"positions", &Plan::positions, 1, true},
                                              {"tile_rows", &Plan::tile_rows, 1, false},
                                              {"images", &Plan::images, 1, false},
                                              {"ic_unroll", &Plan::ic_unroll, 1, false},
                                              {"tap_unroll", &Plan::tap_unroll, 0, false},
                                              {"run", &Plan::run, 1, false}}};

constexpr std::array<const char*, 3> kProducts{"f32", "bf16", "int8"};
constexpr std::array<const char*, 3> kAxisOrders{"dhw", "dwh", "hwd"};

template <std::size_t N>
int find_name(const std::array<const char*, N>& names, std::string_view text) {
  for (std::size_t i = 0; i < N; ++i)
    if (text == names[i]) return static_cast<int>(i);
  return -1;
}

Error bad(std::string_view what, std::string_view word) {
  return {ErrorCode::invalid_argument,
          "plan: " + std::string(what) + " '" + std::string(word) + "'"};
}

std::string_view next_word(std::string_view& text) {
  const std::size_t begin = text.find_first_not_of(' ');
  if (begin == std::string_view::npos) return text = {};
  text.remove_prefix(begin);
  const std::string_view word = text.substr(0, text.find(' '));
  text.remove_prefix(word.size());
  return word;
}

bool parse_int(std::string_view text, int least, int& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() && value >= least &&
         value <= 4096;
}

/// "none", or the staged layout and order of axes: "nhwc:dhw".
std::string staging_text(const Staging& staging) {
  if (!staging.used) return "none";
  return std::string(to_string(staging.layout)) + ":" +
         kAxisOrders[static_cast<std::size_t>(staging.order)];
}

bool parse_staging(std::string_view text, Staging& staging) {
  staging = {};
  if (text == "none") return true;
  const std::string_view layout = text.substr(0, text.find(':'));
  const int order = find_name(kAxisOrders, text.substr(std::min(text.size(), layout.size() + 1)));
  if (order < 0 || (layout != "nchw" && layout != "nhwc")) return false;
  staging = {true, layout == "nhwc" ? Layout::nhwc : Layout::nchw, static_cast<AxisOrder>(order)};
  return true;
}

}  // namespace

const char* to_string(Family family) { return kFamilies[static_cast<std::size_t>(family)]; }

std::string Plan::to_text() const {
  std::string text =
      std::string(to_string(family)) + " phases=" + kPhases[static_cast<std::size_t>(phases)];
  const auto add = [&text](const char* key, const std::string& value) {
    text.append(" ").append(key).append("=").append(value);
  };
  const Plan usual;
  for (const IntField& field : kIntFields) {
    if (field.is_always_shown || this->*field.value != usual.*field.value)
      add(field.key, std::to_string(this->*field.value));
  }
  add("rows", rows_by_phase ? "phase" : "output");
  if (prefetch) add("prefetch", "1");
  if (panel) add("panel", "1");
  if (staging.used) add("staging", staging_text(staging));
  if (products != usual.products) add("products", kProducts[static_cast<std::size_t>(products)]);
  if (convert) add("convert", "1");
  return text;
}

Result<Plan> parse_plan(std::string_view text) {
  Plan plan;
  const std::string_view family_word = next_word(text);
  const int family = find_name(kFamilies, family_word);
  if (family < 0) return bad("unknown family", family_word);
  plan.family = static_cast<Family>(family);
  for (std::string_view word = next_word(text); !word.empty(); word = next_word(text)) {
    const std::string_view key = word.substr(0, word.find('='));
    if (key.size() == word.size()) return bad("expected key=value, got", word);
    const std::string_view value = word.substr(key.size() + 1);
    if (key == "phases") {
      const int phases = find_name(kPhases, value);
      if (phases < 0) return bad("phases must be one, all or row, got", value);
      plan.phases = static_cast<Phases>(phases);
      continue;
    }
    if (key == "rows") {
      if (value != "phase" && value != "output")
        return bad("rows must be phase or output, got", value);
      plan.rows_by_phase = value == "phase";
      continue;
    }
    if (key == "prefetch" || key == "panel" || key == "convert") {
      if (value != "0" && value != "1") return bad("expected 0 or 1, got", word);
      (key == "panel"     ? plan.panel
       : key == "convert" ? plan.convert
                          : plan.prefetch) = value == "1";
      continue;
    }
    if (key == "products") {
      const int products = find_name(kProducts, value);
      if (products < 0) return bad("products must be f32, bf16 or int8, got", value);
      plan.products = static_cast<Products>(products);
      continue;
    }
    if (key == "staging") {
      if (!parse_staging(value, plan.staging))
        return bad("staging must be none or layout:order such as nhwc:dhw, got", value);
      continue;
    }
    const auto field = std::find_if(kIntFields.begin(), kIntFields.end(),
                                    [&](const IntField& known) { return key == known.key; });
    if (field == kIntFields.end()) return bad("unknown key", key);
    if (!parse_int(value, field->least, plan.*field->value)) {
      return bad("expected an integer in [" + std::to_string(field->least) + ", 4096], got", word);
    }
  }
  return plan;
}

std::size_t hash_value(const Plan& plan) { return std::hash<std::string>{}(plan.to_text()); }

}  // namespace convt
