#include "tools/test_chart.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <optional>

namespace convt::tools {
namespace {

// Coordinates are in units of the picture's height: y in [0, 1], x in [0, width/height]. Every part
// answers with a colour where it covers the point, and with nothing elsewhere.

struct Color {
  double r = 0, g = 0, b = 0;
};
using MaybeColor = std::optional<Color>;

struct Point {
  double x = 0, y = 0;
};

struct Box {
  double left, top, right, bottom;
  [[nodiscard]] bool contains(Point p) const {
    return p.x >= left && p.x < right && p.y >= top && p.y < bottom;
  }
  /// Position within the box, 0 to 1 on both axes.
  [[nodiscard]] Point relative(Point p) const {
    return {(p.x - left) / (right - left), (p.y - top) / (bottom - top)};
  }
};

constexpr Color gray(double value) { return {value, value, value}; }

Color mix(Color a, Color b, double t) {
  return {a.r + (b.r - a.r) * t, a.g + (b.g - a.g) * t, a.b + (b.b - a.b) * t};
}

MaybeColor color_bars(const Box& box, Point p) {
  constexpr double kHigh = 0.75;
  constexpr double kLow = 0.04;
  constexpr std::array<int, 8> kBars{7, 6, 3, 2, 5, 4, 1, 0};  // bits: red, green, blue
  if (!box.contains(p)) return std::nullopt;
  const int bits = kBars[static_cast<std::size_t>(box.relative(p).x * 8)];
  return Color{(bits & 4) != 0 ? kHigh : kLow, (bits & 2) != 0 ? kHigh : kLow,
               (bits & 1) != 0 ? kHigh : kLow};
}

MaybeColor gray_steps(const Box& box, Point p) {
  constexpr double kSteps = 16;
  if (!box.contains(p)) return std::nullopt;
  return gray(std::floor(box.relative(p).x * kSteps) / (kSteps - 1));
}

// cos(k r^2): rings that grow finer outwards, up to one period in about two and a half pixels.
MaybeColor zone_plate(const Box& box, Point p, double pixels) {
  if (!box.contains(p)) return std::nullopt;
  const Point at = box.relative(p);
  const double dx = at.x - 0.5;
  const double dy = at.y - 0.5;
  const double side = (box.right - box.left) * pixels;
  return gray(0.5 + 0.5 * std::cos(std::numbers::pi * side * 0.8 * (dx * dx + dy * dy)));
}

// A square turned by five degrees, the classic for measuring how sharp edges stay.
MaybeColor slanted_square(const Box& box, Point p) {
  constexpr double kAngle = 5 * std::numbers::pi / 180;
  if (!box.contains(p)) return std::nullopt;
  const Point at = box.relative(p);
  const double u = (at.x - 0.5) * std::cos(kAngle) + (at.y - 0.5) * std::sin(kAngle);
  const double v = (at.y - 0.5) * std::cos(kAngle) - (at.x - 0.5) * std::sin(kAngle);
  return std::max(std::abs(u), std::abs(v)) < 0.32 ? gray(0.12) : gray(0.9);
}

MaybeColor star(const Box& box, Point p) {
  constexpr double kRays = 36;
  if (!box.contains(p)) return std::nullopt;
  const Point at = box.relative(p);
  const double radius = std::hypot(at.x - 0.5, at.y - 0.5);
  if (radius > 0.47) return gray(0.9);
  if (radius < 0.04) return Color{0.8, 0.15, 0.1};
  const double angle = std::atan2(at.y - 0.5, at.x - 0.5);
  return std::sin(angle * kRays) > 0 ? gray(0.9) : gray(0.1);
}

// Hue around a disc, paler towards its centre: smooth everywhere but at its rim.
MaybeColor color_wheel(const Box& box, Point p) {
  if (!box.contains(p)) return std::nullopt;
  const Point at = box.relative(p);
  const double radius = 2 * std::hypot(at.x - 0.5, at.y - 0.5);
  if (radius > 1) return std::nullopt;
  const double angle = std::atan2(at.y - 0.5, at.x - 0.5);
  const auto level = [&](double turn) {
    return 0.5 + 0.45 * radius * std::cos(angle - 2 * std::numbers::pi * turn / 3);
  };
  return Color{level(0), level(1), level(2)};
}

// Letters are strokes: segments and arcs in a square of side 1, y downwards.

double distance_to_segment(Point p, Point a, Point b) {
  const double dx = b.x - a.x;
  const double dy = b.y - a.y;
  const double along = ((p.x - a.x) * dx + (p.y - a.y) * dy) / (dx * dx + dy * dy);
  const double t = std::clamp(along, 0.0, 1.0);
  return std::hypot(p.x - a.x - t * dx, p.y - a.y - t * dy);
}

// An arc from angle `from` to `to` (degrees, clockwise on the screen, from <= to).
double distance_to_arc(Point p, Point center, double radius, double from, double to) {
  constexpr double kDegree = std::numbers::pi / 180;
  double angle = std::atan2(p.y - center.y, p.x - center.x) / kDegree;
  while (angle < from) angle += 360;
  if (angle <= to) return std::abs(std::hypot(p.x - center.x, p.y - center.y) - radius);
  const auto end = [&](double degrees) {
    return std::hypot(p.x - center.x - radius * std::cos(degrees * kDegree),
                      p.y - center.y - radius * std::sin(degrees * kDegree));
  };
  return std::min(end(from), end(to));
}

double distance_to_letter(char letter, Point p) {
  constexpr Point kMiddle{0.5, 0.6};
  constexpr double kRadius = 0.3;
  switch (letter) {
    case 'c':
      return distance_to_arc(p, kMiddle, kRadius, 45, 315);
    case 'o':
      return distance_to_arc(p, kMiddle, kRadius, 0, 360);
    case 'n':
      return std::min({distance_to_segment(p, {0.2, 0.3}, {0.2, 0.9}),
                       distance_to_arc(p, kMiddle, kRadius, 180, 360),
                       distance_to_segment(p, {0.8, 0.6}, {0.8, 0.9})});
    case 'v':
      return std::min(distance_to_segment(p, {0.2, 0.3}, {0.5, 0.9}),
                      distance_to_segment(p, {0.5, 0.9}, {0.8, 0.3}));
    default:  // t
      return std::min({distance_to_segment(p, {0.4, 0.05}, {0.4, 0.7}),
                       distance_to_segment(p, {0.2, 0.3}, {0.65, 0.3}),
                       distance_to_arc(p, {0.6, 0.7}, 0.2, 70, 180)});
  }
}

MaybeColor word(const Box& box, Point p) {
  constexpr std::array<char, 5> kLetters{'c', 'o', 'n', 'v', 't'};
  constexpr double kStroke = 0.07;  // half of its width
  if (!box.contains(p)) return std::nullopt;
  const double column = box.relative(p).x * kLetters.size();
  const auto index = static_cast<std::size_t>(column);
  const double letter_width = (box.right - box.left) / kLetters.size();
  const Point at{column - static_cast<double>(index), (p.y - box.top) / letter_width};
  if (distance_to_letter(kLetters[index], at) > kStroke) return std::nullopt;
  return mix({1.0, 0.85, 0.3}, {1.0, 0.4, 0.2}, at.y);
}

// Vertical lines whose spacing shrinks from left to right.
MaybeColor line_sweep(const Box& box, Point p, double pixels) {
  if (!box.contains(p)) return std::nullopt;
  const double x = box.relative(p).x;
  const double side = (box.right - box.left) * pixels;
  return gray(0.5 + 0.4 * std::cos(2 * std::numbers::pi * side * (0.02 * x + 0.19 * x * x)));
}

Color chart_color(Point p, double width, double pixels) {
  constexpr double kMargin = 0.04;
  constexpr double kTop = 0.32;
  constexpr double kSmall = 0.27;
  const double right = width - kMargin;
  const Box zone{kMargin, kTop, kMargin + 0.46, kTop + 0.46};
  const auto small_box = [&](int index) {
    const double left = zone.right + kMargin + index * (kSmall + kMargin);
    return Box{left, kTop, left + kSmall, kTop + kSmall};
  };
  const Box letters{zone.right + kMargin, kTop + kSmall + 0.02, zone.right + kMargin + 0.88,
                    zone.bottom + 0.01};
  for (const MaybeColor& color :
       {color_bars({kMargin, kMargin, right, 0.2}, p), gray_steps({kMargin, 0.21, right, 0.28}, p),
        zone_plate(zone, p, pixels), slanted_square(small_box(0), p), star(small_box(1), p),
        color_wheel(small_box(2), p), word(letters, p),
        line_sweep({kMargin, zone.bottom + kMargin, right, 1 - kMargin}, p, pixels)}) {
    if (color) return *color;
  }
  return mix({0.07, 0.1, 0.16}, {0.16, 0.24, 0.34}, p.y);
}

// The mean of 4 x 4 points: enough against stairs at edges.
Color pixel_color(std::int64_t x, std::int64_t y, double width, double pixels) {
  constexpr int kPoints = 4;
  Color sum;
  for (int row = 0; row < kPoints; ++row) {
    for (int column = 0; column < kPoints; ++column) {
      const Point p{(static_cast<double>(x) + (column + 0.5) / kPoints) / pixels,
                    (static_cast<double>(y) + (row + 0.5) / kPoints) / pixels};
      const Color color = chart_color(p, width, pixels);
      sum = {sum.r + color.r, sum.g + color.g, sum.b + color.b};
    }
  }
  return mix({}, sum, 1.0 / (kPoints * kPoints));
}

std::uint8_t to_sample(double value) {
  return static_cast<std::uint8_t>(std::lround(255 * std::clamp(value, 0.0, 1.0)));
}

}  // namespace

Image draw_test_chart(std::int64_t width, std::int64_t height) {
  Image image(width, height, 3);
  const auto pixels = static_cast<double>(height);
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      const Color color = pixel_color(x, y, static_cast<double>(width) / pixels, pixels);
      image.at(x, y, 0) = to_sample(color.r);
      image.at(x, y, 1) = to_sample(color.g);
      image.at(x, y, 2) = to_sample(color.b);
    }
  }
  return image;
}

}  // namespace convt::tools
