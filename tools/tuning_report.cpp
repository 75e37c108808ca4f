#include "tools/tuning_report.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>
#include <utility>

#include <fmt/format.h>

#include "compiler/plan/plan.hpp"
#include "tools/text_table.hpp"

namespace convt::tools {
namespace {

using database::CandidateRow;
using database::MachineRow;
using database::TunedRow;

constexpr const char* kStyle = R"(
:root{--ink:#1b1f24;--soft:#5b6570;--line:#d9dee3;--paper:#fff;--card:#f6f8fa;--before:#b3261e;
--after:#0b6e4f;--even:#8a949e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa4ae;--line:#3a424b;--paper:#14181c;
--card:#1d2329;--before:#ff8a80;--after:#58d3a4;--even:#7b8590}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:64rem;padding:1rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem}
h3{font-size:1rem;margin:0 0 .25rem}p{margin:.25rem 0}
.soft{color:var(--soft);font-size:.875rem}
.sum{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.75rem;margin:1rem 0}
.sum div{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem}
.sum b{display:block;font-size:1.35rem}
.layer{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.75rem;
margin:.75rem 0}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font:12px system-ui,sans-serif}
@media(max-width:36rem){svg text{font-size:19px}}
.bars div{display:flex;justify-content:space-between;gap:1rem;font-size:.875rem}
.bars .track{position:relative;height:.7rem;margin-bottom:.5rem;background:var(--card);
border:1px solid var(--line);border-radius:.2rem}
.bars i{background:var(--after)}
.bars b{position:absolute;top:.15rem;height:.3rem;border:1px solid var(--ink);border-width:0 1px;
background:linear-gradient(var(--ink),var(--ink)) center/100% 1px no-repeat}
.axis{stroke:var(--line);stroke-width:1}.roof{stroke:var(--soft);stroke-width:1.5;fill:none}
.b{fill:var(--before)}.a{fill:var(--after)}.e{fill:var(--even)}
.bl{stroke:var(--before)}.al{stroke:var(--after);fill:none;stroke-width:1.5}
.move{stroke:var(--soft);stroke-width:1;opacity:.6}
table{border-collapse:collapse;width:100%;font-size:.875rem}
td,th{text-align:left;padding:.2rem .5rem .2rem 0;vertical-align:top}
code{font:.8125rem/1.45 ui-monospace,monospace}
.tag{display:inline-block;border:1px solid var(--line);border-radius:1rem;padding:0 .5rem;
margin:.1rem .25rem .1rem 0;font-size:.8125rem}
)";

std::string escape(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '&':
        escaped += "&amp;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string name_of(const TunedRow& row) { return row.name.empty() ? row.key.layer : row.name; }

std::string time_text(double us) {
  return us >= 1000 ? fmt::format("{:.3f} ms", us / 1000) : fmt::format("{:.2f} us", us);
}

std::string percent(double ratio) { return fmt::format("{:+.1f}%", 100 * (ratio - 1)); }

std::map<std::string, std::string> decisions(const std::string& plan) {
  std::map<std::string, std::string> all;
  std::istringstream words(plan);
  std::string word;
  words >> word;
  all["family"] = word;
  while (words >> word) {
    const std::size_t equals = word.find('=');
    if (equals != std::string::npos) all[word.substr(0, equals)] = word.substr(equals + 1);
  }
  return all;
}

/// What a decision is where the text leaves it out.
std::string usual(const std::string& key) {
  if (key == "run") return std::to_string(Plan().run);
  if (key == "staging") return "none";
  if (key == "products") return "f32";
  return key == "tile_rows" || key == "images" || key == "ic_unroll" ? "1" : "0";
}

struct Change {
  std::string key, from, to;
};

std::vector<Change> changes_of(const std::string& from, const std::string& to) {
  auto before = decisions(from), after = decisions(to);
  for (const auto& [key, value] : before)
    if (after.count(key) == 0) after[key] = usual(key);
  std::vector<Change> changes;
  for (const auto& [key, value] : after) {
    const auto old = before.find(key);
    const std::string was = old == before.end() ? usual(key) : old->second;
    if (was != value) changes.push_back({key, was, value});
  }
  return changes;
}

/// Of a log scale, in user units of the drawing.
struct Scale {
  double low, high, begin, end;
  [[nodiscard]] double operator()(double value) const {
    const double at = std::log(std::clamp(value, low, high) / low) / std::log(high / low);
    return begin + at * (end - begin);
  }
};

/// Powers of ten, and twice and five times them, within a scale.
std::vector<double> ticks(const Scale& scale) {
  std::vector<double> values;
  for (double decade = std::pow(10, std::floor(std::log10(scale.low))); decade <= scale.high;
       decade *= 10)
    for (const double factor : {1.0, 2.0, 5.0})
      if (decade * factor >= scale.low && decade * factor <= scale.high)
        values.push_back(decade * factor);
  if (values.size() <= 8) return values;
  std::erase_if(
      values, [](double v) { return std::abs(std::log10(v) - std::round(std::log10(v))) > 1e-9; });
  return values;
}

/// GFLOP/s over FLOP a byte: before and after as two dots each, and what bounds them.
std::string roofline(const std::vector<ReportLayer>& layers, const MachineRow* machine) {
  Scale x{0.5, 20, 44, 590}, y{5, 50, 330, 14};
  const auto widen = [](Scale& scale, double value) {
    scale.low = std::min(scale.low, value / 1.5);
    scale.high = std::max(scale.high, value * 1.5);
  };
  std::vector<const ReportLayer*> shown;
  for (const ReportLayer& layer : layers) {
    const TunedRow& row = layer.row;
    if (layer.flops <= 0 || layer.bytes <= 0 || row.time_us <= 0 || row.model_us <= 0) continue;
    shown.push_back(&layer);
    widen(x, layer.flops / layer.bytes);
    widen(y, layer.flops / row.time_us * 1e-3);
    widen(y, layer.flops / row.model_us * 1e-3);
  }
  if (shown.empty()) return "";
  if (machine != nullptr && machine->peak_gflops > 0) widen(y, machine->peak_gflops);
  std::string svg =
      "<svg viewBox=\"0 0 600 380\" role=\"img\" aria-label=\"Roofline plot: GFLOP/s over FLOP a "
      "byte, before and after tuning\">";
  for (const double tick : ticks(x)) {
    svg += fmt::format(
        "<line class=\"axis\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"14\" y2=\"330\"/>"
        "<text x=\"{0:.1f}\" y=\"350\" text-anchor=\"middle\">{1:g}</text>",
        x(tick), tick);
  }
  for (const double tick : ticks(y)) {
    svg += fmt::format(
        "<line class=\"axis\" x1=\"44\" x2=\"590\" y1=\"{0:.1f}\" y2=\"{0:.1f}\"/>"
        "<text x=\"40\" y=\"{1:.1f}\" text-anchor=\"end\">{2:g}</text>",
        y(tick), y(tick) + 4, tick);
  }
  svg += "<text x=\"317\" y=\"374\" text-anchor=\"middle\">FLOP a byte</text>";
  svg += "<text x=\"50\" y=\"28\">GFLOP/s</text>";
  if (machine != nullptr && machine->peak_gflops > 0) {
    const double peak = machine->peak_gflops;
    const std::pair<const char*, double> levels[] = {
        {"memory", machine->memory_gbs}, {"L3", machine->l3_gbs}, {"L2", machine->l2_gbs}};
    double shown_gbs = 0, fastest = 0;
    for (const auto& [name, gbs] : levels) {
      if (gbs < 1.4 * shown_gbs || gbs <= 0) continue;  // one line would hide the other
      shown_gbs = gbs;
      const double from = std::max(x.low, y.low / gbs), to = std::min(x.high, peak / gbs);
      if (from >= to) continue;
      fastest = gbs;
      svg += fmt::format("<path class=\"roof\" d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\"/>", x(from),
                         y(from * gbs), x(to), y(to * gbs));
      svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\">{} {:.0f} GB/s</text>", x(from) + 6,
                         y(from * gbs) + 16, name, gbs);
    }
    const double from = std::max(x.low, fastest > 0 ? peak / fastest : 0);
    svg += fmt::format("<path class=\"roof\" d=\"M{:.1f} {:.1f}L590 {:.1f}\"/>", x(from), y(peak),
                       y(peak));
    svg +=
        fmt::format("<text x=\"588\" y=\"{:.1f}\" text-anchor=\"end\">peak {:.0f} GFLOP/s</text>",
                    y(peak) - 4, peak);
  }
  for (const ReportLayer* layer : shown) {
    const double at = x(layer->flops / layer->bytes);
    const double before = y(layer->flops / layer->row.model_us * 1e-3);
    const double after = y(layer->flops / layer->row.time_us * 1e-3);
    svg += fmt::format(
        "<line class=\"move\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\"/>"
        "<circle class=\"b\" cx=\"{0:.1f}\" cy=\"{1:.1f}\" r=\"3.5\"/>"
        "<circle class=\"a\" cx=\"{0:.1f}\" cy=\"{2:.1f}\" r=\"3.5\"><title>{3}</title></circle>",
        at, before, after, escape(name_of(layer->row)));
  }
  return svg + "</svg>";
}

/// How much faster each layer is, with its interval.
std::string bars(const std::vector<ReportLayer>& layers) {
  double most = 1.02;
  for (const ReportLayer& layer : layers) most = std::max(most, layer.row.speedup_high);
  const auto share = [&](double speedup) {
    return 100 * (std::max(speedup, 1.0) - 1) / (most - 1);
  };
  std::string html = "<div class=\"bars\">";
  for (const ReportLayer& layer : layers) {
    const TunedRow& row = layer.row;
    const bool gains = row.speedup > 1;
    html += fmt::format("<div><span>{}</span><span>{}</span></div><div class=\"track\">",
                        escape(name_of(row)), gains ? percent(row.speedup) : "model's plan");
    html += fmt::format("<i style=\"width:{:.2f}%\"></i>", gains ? share(row.speedup) : 0.4);
    if (gains) {
      html += fmt::format("<b style=\"left:{:.2f}%;width:{:.2f}%\"></b>", share(row.speedup_low),
                          share(row.speedup_high) - share(row.speedup_low));
    }
    html += "</div>";
  }
  return html + "</div>";
}

/// Time over the model's, step by step: each plan tried, and the best so far.
std::string path_plot(const std::vector<CandidateRow>& candidates) {
  std::vector<const CandidateRow*> tried;
  int last = 1;
  double low = 0.95, high = 1.2;
  for (const CandidateRow& row : candidates) {
    if (row.ratio <= 0) continue;
    tried.push_back(&row);
    last = std::max(last, row.step);
    low = std::min(low, row.ratio / 1.05);
    high = std::max(high, std::min(row.ratio, 3.0) * 1.05);
  }
  if (tried.size() < 2) return "";
  const Scale y{low, high, 112, 8};
  const auto x = [&](int step) { return 44 + 546.0 * (step - 1) / std::max(1, last - 1); };
  std::string svg =
      "<svg viewBox=\"0 0 600 132\" role=\"img\" aria-label=\"Search path: time of each plan over "
      "the model's\">";
  for (const double ratio : {low, 1.0, high}) {
    svg += fmt::format(
        "<line class=\"axis\" x1=\"44\" x2=\"590\" y1=\"{0:.1f}\" y2=\"{0:.1f}\"/>"
        "<text x=\"40\" y=\"{1:.1f}\" text-anchor=\"end\">{2:.2f}</text>",
        y(ratio), y(ratio) + 4, ratio);
  }
  svg += fmt::format(
      "<text x=\"44\" y=\"128\">plan 1</text><text x=\"590\" y=\"128\" "
      "text-anchor=\"end\">plan {}</text>",
      last);
  std::string line;
  double best = 1;
  for (const CandidateRow* row : tried) {
    const bool better = row->verdict == "faster" || row->verdict == "model";
    svg += fmt::format("<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\"/>",
                       better ? "a" : "e", x(row->step), y(row->ratio));
    line += line.empty() ? fmt::format("M{:.1f} {:.1f}", x(row->step), y(best))
                         : fmt::format("H{:.1f}", x(row->step));
    if (better && row->ratio < best) {
      best = row->ratio;
      line += fmt::format("V{:.1f}", y(best));
    }
  }
  svg += fmt::format("<path class=\"al\" d=\"{}H590\"/>", line);
  return svg + "</svg>";
}

std::string interval_text(const TunedRow& row) {
  if (row.speedup <= 1) return "no plan was shown to be faster";
  return fmt::format("{} ({} to {}, {:.0f}%)", percent(row.speedup), percent(row.speedup_low),
                     percent(row.speedup_high), 100 * row.confidence);
}

std::string layer_section(const ReportLayer& layer) {
  const TunedRow& row = layer.row;
  std::string html = fmt::format("<section class=\"layer\"><h3>{}</h3>", escape(name_of(row)));
  html += fmt::format("<p class=\"soft\">{}, batch {}, {} thread{}, {}</p>", escape(row.key.layer),
                      row.key.batch, row.key.threads, row.key.threads == 1 ? "" : "s",
                      escape(row.date));
  html += fmt::format("<p><b>{}</b> &middot; {} &rarr; {}", interval_text(row),
                      time_text(row.model_us), time_text(row.time_us));
  if (row.roof_us > 0) {
    html += fmt::format(" &middot; {:.2f} &rarr; {:.2f} times the roof", row.model_us / row.roof_us,
                        row.time_us / row.roof_us);
  }
  html += fmt::format(" &middot; {} plans tried</p><p>", row.candidates);
  for (const Change& change : changes_of(row.model_plan, row.plan)) {
    html += fmt::format("<span class=\"tag\">{} {} &rarr; <b>{}</b></span>", escape(change.key),
                        escape(change.from), escape(change.to));
  }
  html += "</p>" + path_plot(layer.candidates);
  html += fmt::format("<p><code>{}</code></p>", escape(row.plan));
  if (row.plan != row.model_plan)
    html += fmt::format("<p class=\"soft\">instead of <code>{}</code></p>", escape(row.model_plan));
  return html + "</section>";
}

std::vector<TunedRow> rows_of(const TuningReport& report) {
  std::vector<TunedRow> rows;
  for (const ReportLayer& layer : report.layers) rows.push_back(layer.row);
  return rows;
}

}  // namespace

MeanSpeedup mean_speedup(const std::vector<TunedRow>& rows) {
  if (rows.empty()) return {};
  double sum = 0, below = 0, above = 0;
  for (const TunedRow& row : rows) {
    const double middle = std::log(row.speedup);
    sum += middle;
    below += std::pow(middle - std::log(row.speedup_low), 2);
    above += std::pow(std::log(row.speedup_high) - middle, 2);
  }
  const auto count = static_cast<double>(rows.size());
  const double mean = sum / count;
  return {std::exp(mean), std::exp(mean - std::sqrt(below) / count),
          std::exp(mean + std::sqrt(above) / count)};
}

std::string plan_changes(const std::string& from, const std::string& to) {
  std::string text;
  for (const Change& change : changes_of(from, to)) {
    text +=
        fmt::format("{}{} {} -> {}", text.empty() ? "" : ", ", change.key, change.from, change.to);
  }
  return text;
}

std::string report_text(const std::vector<TunedRow>& rows) {
  using Align = TextTable::Align;
  TextTable table({{"layer", Align::left},
                   {"n", Align::right},
                   {"threads", Align::right},
                   {"model", Align::right},
                   {"tuned", Align::right},
                   {"gain", Align::right},
                   {"interval", Align::left},
                   {"plans", Align::right},
                   {"what changed", Align::left}});
  for (const TunedRow& row : rows) {
    const bool gains = row.speedup > 1;
    table.add({name_of(row), fmt::format("{}", row.key.batch), fmt::format("{}", row.key.threads),
               time_text(row.model_us), time_text(row.time_us), gains ? percent(row.speedup) : "-",
               gains ? percent(row.speedup_low) + " to " + percent(row.speedup_high) : "",
               fmt::format("{}", row.candidates), plan_changes(row.model_plan, row.plan)});
  }
  const MeanSpeedup mean = mean_speedup(rows);
  return table.to_text() + fmt::format("geometric mean of {} layers: {} ({} to {})\n", rows.size(),
                                       percent(mean.speedup), percent(mean.low),
                                       percent(mean.high));
}

std::string report_page(const TuningReport& report) {
  std::vector<ReportLayer> layers = report.layers;
  std::stable_sort(layers.begin(), layers.end(), [](const ReportLayer& a, const ReportLayer& b) {
    return a.row.speedup > b.row.speedup;
  });
  const std::vector<TunedRow> rows = rows_of(report);
  const MeanSpeedup mean = mean_speedup(rows);
  int gained = 0, plans = 0;
  std::map<std::string, int> machines;
  for (const TunedRow& row : rows) {
    gained += row.speedup > 1 ? 1 : 0;
    plans += row.candidates;
    ++machines[row.key.machine + "; " + row.key.target + "; convt " + row.key.version];
  }
  const MachineRow* machine = nullptr;
  for (const MachineRow& known : report.machines) {
    if (!rows.empty() && known.machine == rows[0].key.machine &&
        known.target == rows[0].key.target && known.threads == rows[0].key.threads)
      machine = &known;
  }
  std::string html =
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      "<title>convt: tuning report</title><style>" +
      std::string(kStyle) + "</style></head><body><h1>Tuning report</h1>";
  for (const auto& [name, count] : machines) {
    html += fmt::format("<p class=\"soft\">{} ({} layer{})</p>", escape(name), count,
                        count == 1 ? "" : "s");
  }
  html += "<div class=\"sum\">";
  const auto add_sum = [&](const std::string& value, const std::string& what) {
    html += fmt::format("<div><b>{}</b>{}</div>", value, what);
  };
  add_sum(percent(mean.speedup),
          fmt::format("geometric mean gain, {} to {}", percent(mean.low), percent(mean.high)));
  add_sum(fmt::format("{} of {}", gained, rows.size()), "layers have a faster plan");
  add_sum(fmt::format("{}", plans), "plans tried");
  html += "</div>";
  const std::string plot = roofline(layers, machine);
  if (!plot.empty()) {
    html +=
        "<h2>Roofline</h2><p class=\"soft\"><svg viewBox=\"0 0 12 12\" style=\"display:inline;"
        "width:.8em\"><circle class=\"b\" cx=\"6\" cy=\"6\" r=\"5\"/></svg> the model's plan "
        "<svg viewBox=\"0 0 12 12\" style=\"display:inline;width:.8em\"><circle class=\"a\" "
        "cx=\"6\" cy=\"6\" r=\"5\"/></svg> the tuned plan</p>" +
        plot;
  }
  html += "<h2>Gain over the model's plan</h2>" + bars(layers) + "<h2>Layers</h2>";
  for (const ReportLayer& layer : layers) html += layer_section(layer);
  return html +
         "<p class=\"soft\">Gains are of pairs of runs measured in turn, anew after the search; "
         "intervals are those of the trimmed mean. Time is the thread's own with one thread.</p>"
         "</body></html>\n";
}

}  // namespace convt::tools
