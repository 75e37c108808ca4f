#include "compiler/lower/activation.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <vector>

namespace convt::lowering {
namespace {

using program::Builder;
using program::Mem;
using program::Op;
using program::Operand;
using program::Reg;

// Notation: exp(x) = 2^n * exp(r) with n = x / ln 2 rounded and |r| <= ln(2) / 2.
//
// n comes of adding a large number, kRound, whose ulp is 1: the sum's low bits are n, and shifted
// left by 23 they are the exponent of 2^n. A bias added to kRound goes along.

constexpr float kRound = 0x1.8p23f;
constexpr int kBias = 127;
constexpr std::uint32_t kSignBit = 0x80000000u;

constexpr float kLog2e = 0x1.715476p0f;
constexpr float kLn2 = 0x1.62e43p-1f;
// ln 2 in two parts, the first so short that its product with n is exact.
constexpr float kLn2High = 0x1.62e4p-1f;
constexpr float kLn2Low = 0x1.7f7d1cp-20f;

/// exp(r), |r| <= ln(2) / 2: relative error 3.2e-9.
constexpr float kExp[] = {1.0f,          1.0f,           0x1.fffffcp-2f, 0x1.555492p-3f,
                          0x1.5558bp-5f, 0x1.12398ep-7f, 0x1.6a4d6p-10f};
/// (exp(r) - 1) / r, there: relative error 1.4e-8.
constexpr float kExpm1[] = {1.0f,           0x1.fffffep-2f, 0x1.5554b4p-3f,
                            0x1.5556f2p-5f, 0x1.12254ap-7f, 0x1.6b9c68p-10f};
/// log(1 + e) / e, 0 <= e <= 1: relative error 5.3e-9.
constexpr float kLog1p[] = {1.0f,           -0x1.ffffd2p-2f, 0x1.554ddp-2f,  -0x1.ff23e8p-3f,
                            0x1.934b6ep-3f, -0x1.3a43ep-3f,  0x1.b4b094p-4f, -0x1.d6b75ep-5f,
                            0x1.49211cp-6f, -0x1.af5e2p-9f};
/// sin(r) / r in r^2, |r| <= pi / 2: absolute error of sin 5.6e-9.
constexpr float kSin[] = {1.0f, -0x1.55554cp-3f, 0x1.110ed4p-7f, -0x1.9f6ecap-13f, 0x1.5d9d2ap-19f};
/// Phi(-z) * exp(z^2 / 2) * (z + 3) in z / (z + 3) - 1/4, Phi the normal distribution, 0 <= z <=
/// 14.5: relative error 2e-8.
constexpr float kTail[] = {0x1.0bdb2ep0f,   -0x1.890c92p0f, 0x1.1caedp0f,   -0x1.afd6e8p-4f,
                           -0x1.572f16p-2f, 0x1.8a453ep-6f, 0x1.352ff2p-3f, 0x1.5e6df6p-5f,
                           -0x1.c9095p-4f,  0x1.af7b88p-6f};

// gelu_tanh: v / (1 + exp(-w)), w = c*v*(v^2 + k) with k = 1 / 0.044715 and
// c = 2 * sqrt(2 / pi) * 0.044715. In units of 1 / c, ln 2 is g.
constexpr float kCubicHigh = 0x1.65d26p4f;  ///< k: a multiple of 2^-15, see gelu_tanh()
constexpr float kCubicLow = -0x1.226128p-20f;
constexpr float kCubicLn2High = 0x1.36dap3f;           ///< g: short, as kLn2High
constexpr float kCubicLn2LowShare = -0x1.187b66p-19f;  ///< the rest of g, divided by kCubicLn2High
constexpr float kCubicLog2e = 0x1.a5a7dp-4f;           ///< 1 / g
constexpr float kCubicLn2HighInverse = 0x1.a5a796p-4f;
/// (exp(c*r) - 1) / r, |r| <= g / 2: relative error 3.4e-8.
constexpr float kCubicExpm1[] = {0x1.2444f2p-4f,  0x1.4dad5cp-9f,  0x1.fbeff4p-15f,
                                 0x1.21f42ep-20f, 0x1.096b3ap-26f, 0x1.921042p-33f};

/// A register for each value of a group.
using Group = std::vector<Reg>;

/// What is one instruction for one value is one for each value of a group here, so that chains of
/// dependent instructions interleave.
class Vectors {
 public:
  Vectors(Builder& builder, std::span<const Reg> values, std::span<const Reg> parameters)
      : v_(values.begin(), values.end()),
        parameters_(parameters.begin(), parameters.end()),
        builder_(builder) {}

  // ---- The functions, of v_ in place. Counts are instructions for a value; constants that are in
  // a register for a whole group come on top.

  void relu() { max(v_, constant(0), v_); }  // 1

  void clip(float low, float high) { clamp(v_, low, high); }  // 2

  void leaky_relu(float alpha) {  // 2
    if (alpha == 0) {
      const Mem slope = number(alpha);
      return parametric_relu([&](std::size_t i, Reg mask) {
        builder_.binary(Op::mul, v_[i], v_[i], slope, Operand::broadcast_mem, mask);
      });
    }
    const Group scaled_v = fresh();
    each(Op::mul, scaled_v, v_, alpha);
    each(alpha <= 1 ? Op::max : Op::min, v_, scaled_v, v_);
  }

  void prelu() {  // 2
    parametric_relu([&](std::size_t i, Reg mask) {
      builder_.binary(Op::mul, v_[i], v_[i], parameters_[parameters_.size() == 1 ? 0 : i], mask);
    });
  }

  void hardsigmoid(float alpha, float beta) {  // 4
    const Group t = filled(beta);
    fma(t, v_, alpha);
    max(t, constant(0), t);
    min(v_, constant(1), t);
  }

  void hardswish() {  // 5. Divided before it is multiplied: no overflow
    max(v_, constant(-3), v_);
    const Group t = fresh();
    each(Op::add, t, v_, 3);
    each(Op::min, t, t, 6);
    each(Op::mul, t, t, 0x1.555556p-3f);  // 1/6
    each(Op::mul, v_, v_, t);
  }

  /// max(v, 0) + alpha * (exp(min(v, 0)) - 1).  18
  void elu(float alpha) {
    const Group x = fresh();
    min(x, constant(0), v_);
    each(Op::max, v_, v_, 0);
    max(x, constant(-18), x);
    // Of one part: what it lacks is small beside the result's 2^n - 1.
    const Group t = reduce(x, x, kLog2e, kBias, {-kLn2});
    // p * r*2^n + (2^n - 1)
    const Group p = polynomial(x, kExpm1);
    shift_left(t);
    each(Op::mul, x, x, t);
    each(Op::sub, t, t, 1);
    mul_add(p, x, t);
    fma(v_, p, alpha);
  }

  /// 1 / (1 + exp(-v)), both sides multiplied by 2^-64, so that exp(104) does not overflow. With
  /// p = (exp(r) - 1) / r the denominator is p * r*2^n + 2^n + 1, the smaller one added first.  20
  void sigmoid() {
    clamp(v_, -104, 40);
    const Group t = reduce(v_, v_, -kLog2e, kBias - 64, {kLn2High, kLn2Low});
    const Group p = polynomial(v_, kExpm1, -1, true);
    shift_left(t);
    each(Op::mul, v_, v_, t);
    const Group sum = fresh();
    each(Op::min, sum, t, 0x1p-64f);
    each(Op::max, t, t, 0x1p-64f);
    fma(sum, p, v_);
    each(Op::add, sum, sum, t);
    div(v_, constant(0x1p-64f), sum);
  }

  /// Of z = -|v|: (e - 1) / (e + 1), e = exp(2z) = exp(2r) * 2^n. With p = (exp(2r) - 1) / r and
  /// q = r * 2^n that is (p*q + (2^n - 1)) / (p*q + (2^n + 1)).  21
  void tanh() {
    const Group z = fresh();
    each_word(Op::bit_or, z, v_, kSignBit);
    each(Op::bit_xor, v_, v_, z);  // what the result's sign differs by
    max(z, constant(-9.1f), z);
    const Group t = reduce(z, z, 2 * kLog2e, kBias, {-kLn2 / 2});  // of one part: as in elu()
    const Group p = polynomial(z, kExpm1, 2, true);
    shift_left(t);
    each(Op::mul, z, z, t);
    const Group denominator = fresh();
    each(Op::add, denominator, t, 1);
    each(Op::sub, t, t, 1);
    fma(denominator, p, z);
    fma(t, p, z);
    each(Op::div, t, t, denominator);
    each(Op::bit_xor, v_, v_, t);
  }

  /// max(v, 0) - z / (1 + exp(z)), z = |v|.  21
  void silu() {
    const Group z = magnitude(109);
    const Group r = fresh();
    copy(r, z);
    const Group t = reduce(z, r, kLog2e, kBias - 64, {-kLn2High, -kLn2Low});
    const Group p = polynomial(r, kExpm1);
    subtract_tail(z, p, r, t);
  }

  /// As silu(), with w in place of z. Where exp(w) is large, w needs more digits than a float has:
  /// v^2 + k is a sum of two, and its product with v first met by n*ln2, in an fma.  30
  void gelu_tanh() {
    const Group z = magnitude(10.8f);
    const Group high = filled(kCubicHigh);
    fma(high, z, z);
    Group n = fresh();
    each(Op::mul, n, z, high);
    mul_add(n, constant(kCubicLog2e), kRound);
    each(Op::sub, n, n, kRound);
    each(Op::mul, n, n, -kCubicLn2High);
    {
      // What `high` lacks. k - high is exact, for k has few digits.
      const Group low = filled(kCubicHigh);
      each(Op::sub, low, low, high);
      fma(low, z, z);
      each(Op::add, low, low, kCubicLow);
      mul_add(high, z, n);
      fma(high, low, z);
    }
    const Group& r = high;
    fma(r, n, kCubicLn2LowShare);
    const Group t = filled(kRound + kBias - 64);
    fma(t, n, -kCubicLn2HighInverse);
    const Group p = polynomial(r, kCubicExpm1);
    subtract_tail(z, p, r, t);
  }

  /// max(v, 0) - z * Phi(-z), z = |v|. z * Phi(-z) * exp(z^2 / 2) is a polynomial in z / (z + 3)
  /// times z / (z + 3): few roundings where z is large. In place of r there is 2r = z^2 + 2n*ln2,
  /// exact up to one rounding.  35
  void gelu_erf() {
    const Group z = magnitude(14.5f);
    Group tail = fresh();
    each(Op::add, tail, z, 3);
    each(Op::div, tail, z, tail);
    {
      const Group t = fresh();
      each(Op::sub, t, tail, 0.25f);
      each(Op::mul, tail, tail, polynomial(t, kTail));
    }
    const float round = kRound + kBias + 64;
    const Group n = fresh();
    each(Op::mul, n, z, z);
    mul_add(n, constant(-kLog2e / 2), round);
    each(Op::sub, n, n, round);
    const Group r = fresh();
    each(Op::mul, r, n, 2 * kLn2High);
    fma(r, z, z);
    fma(r, n, 2 * kLn2Low);
    each(Op::add, n, n, round);
    // tail + tail*r * (exp(-r / 2) - 1) / r
    const Group p = polynomial(r, kExpm1, -0.5f, true);
    shift_left(n);
    each(Op::mul, tail, tail, n);
    each(Op::mul, r, r, tail);
    fma(tail, r, p);
    each(Op::max, v_, v_, 0);
    fma(v_, tail, -0x1p-64f);
  }

  /// max(v, 0) + log(1 + e), e = exp(-|v|). e is multiplied by 2^32 until the last step, where it
  /// may become denormal.  30
  void softplus() {
    const Group x = fresh();
    each_word(Op::bit_or, x, v_, kSignBit);
    max(x, constant(-105), x);
    const Group t = reduce(x, x, kLog2e, kBias + 32, {-kLn2High, -kLn2Low});
    const Group e = polynomial(x, kExp);
    shift_left(t);
    each(Op::mul, e, e, t);
    each(Op::mul, t, e, 0x1p-32f);
    each(Op::mul, e, e, polynomial(t, kLog1p));
    each(Op::max, v_, v_, 0);
    fma(v_, e, 0x1p-32f);
  }

  /// v + s * s/a, s = sin(a*v), its sign free. The rounding of a*v and of pi cost up to one ulp of
  /// v. From 2^25 on s may be anything in [-1, 1], and 1/a is less than an ulp of v.  15, and 2 for
  /// a.
  void snake(const Group& shared_inverse) {
    const Group r = fresh();
    each(Op::mul, r, v_, parameters_);
    // 0 * inf becomes a number: for the limit at a = 0.
    each(Op::max, r, r, -0x1p25f);
    each(Op::min, r, r, 0x1p25f);
    {
      const Group n = fresh();
      each(Op::mul, n, r, 0x1.45f306p-2f);  // 1/pi
      for (const Reg reg : n) builder_.unary(Op::round, reg, reg);
      fma(r, n, -0x1.921fb6p1f);  // pi
    }
    const Group square = fresh();
    each(Op::mul, square, r, r);
    const Group s = polynomial(square, kSin);
    each(Op::mul, s, s, r);
    const Group quotient = fresh();
    each(Op::mul, quotient, s, shared_inverse.empty() ? inverse() : shared_inverse);
    fma(v_, s, quotient);
  }

  /// 1/a, the parameter; of a = 0 some number.
  Group inverse() {
    const Group result = fresh(parameters_.size());
    each(Op::add, result, parameters_, 0x1p-126f);
    div(result, constant(1), result);
    return result;
  }

 private:
  // ---- Pieces.

  /// v < 0 ? slope * v : v. The slope may be infinite or NaN, of no matter to other values.
  void parametric_relu(const std::function<void(std::size_t, Reg)>& multiply) {
    const Reg zero = builder_.vector();
    builder_.zero(zero);
    for (std::size_t i = 0; i < v_.size(); ++i)
      multiply(i, builder_.compare(program::Compare::less, v_[i], zero));
  }

  /// min(|v|, limit).
  Group magnitude(float limit) {
    const Group z = fresh();
    each_word(Op::bit_and, z, v_, ~kSignBit);
    min(z, constant(limit), z);
    return z;
  }

  /// n = per_n * x rounded; r, which may be x, += n * each of `parts`. Returns n in the low bits of
  /// a number, with a bias.
  Group reduce(const Group& x, const Group& r, float per_n, int bias,
               std::initializer_list<float> parts) {
    const float round = kRound + static_cast<float>(bias);
    Group biased = filled(round);
    fma(biased, x, per_n);
    const Group n = fresh();
    each(Op::sub, n, biased, round);
    for (const float part : parts) fma(r, n, part);
    return biased;
  }

  /// v = max(v, 0) - z / (1 + exp(x)), x >= 0: p being (exp(r) - 1) / r, and t being n as
  /// reduce() has it, with a bias of kBias - 64. The denominator is multiplied by 2^-64, so that
  /// exp(109) does not overflow, and so is the quotient where it meets v: a result that is denormal
  /// is rounded once.
  void subtract_tail(const Group& z, const Group& p, const Group& r, const Group& t) {
    shift_left(t);
    each(Op::mul, r, r, t);
    mul_add(p, r, 0x1p-64f);
    each(Op::add, p, p, t);
    each(Op::div, z, z, p);
    each(Op::max, v_, v_, 0);
    fma(v_, z, -0x1p-64f);
  }

  /// The polynomial of scale * x, times scale if `extra`. Scales are powers of 2 or -1: exact.
  template <std::size_t N>
  Group polynomial(const Group& x, const float (&coefficients)[N], float scale = 1,
                   bool extra = false) {
    std::array<float, N> c;
    float factor = extra ? scale : 1;
    for (std::size_t i = 0; i < N; ++i, factor *= scale) c[i] = coefficients[i] * factor;
    Group sum = filled(c[N - 1]);
    for (std::size_t i = N - 1; i-- > 0;) mul_add(sum, x, c[i]);
    return sum;
  }

  /// NaN stays.
  void clamp(const Group& d, float low, float high) {
    max(d, constant(low), d);
    min(d, constant(high), d);
  }

  // ---- Instructions.

  Mem word(std::uint32_t value) {
    const auto lanes = static_cast<std::size_t>(builder_.program().lanes);
    return builder_.constant(std::vector<std::uint32_t>(lanes, value));
  }
  Mem number(float value) { return word(std::bit_cast<std::uint32_t>(value)); }

  Group fresh() { return fresh(v_.size()); }
  Group fresh(std::size_t count) {
    Group group(count);
    for (Reg& reg : group) reg = builder_.vector();
    return group;
  }
  Group filled(float value) {
    Group group = fresh();
    const Mem mem = number(value);
    for (const Reg reg : group) builder_.broadcast(reg, mem);
    return group;
  }
  /// In one register for all values, where an instruction cannot take it from memory.
  Reg constant(float value) {
    const Reg reg = builder_.vector();
    if (value == 0) {
      builder_.zero(reg);
    } else {
      builder_.broadcast(reg, number(value));
    }
    return reg;
  }

  void copy(const Group& d, const Group& a) {
    for (std::size_t i = 0; i < d.size(); ++i) builder_.copy(d[i], a[i]);
  }
  /// b may be one register for all.
  void each(Op op, const Group& d, const Group& a, const Group& b) {
    for (std::size_t i = 0; i < d.size(); ++i) builder_.binary(op, d[i], a[i], b[i % b.size()]);
  }
  void each(Op op, const Group& d, const Group& a, float b) {
    each_word(op, d, a, std::bit_cast<std::uint32_t>(b));
  }
  void each_word(Op op, const Group& d, const Group& a, std::uint32_t b) {
    const Mem mem = word(b);
    for (std::size_t i = 0; i < d.size(); ++i)
      builder_.binary(op, d[i], a[i], mem, Operand::broadcast_mem);
  }
  /// d += a * b
  void fma(const Group& d, const Group& a, const Group& b) { each(Op::fma, d, a, b); }
  void fma(const Group& d, const Group& a, float b) { each(Op::fma, d, a, b); }
  /// d = d * a + b
  void mul_add(const Group& d, const Group& a, const Group& b) { each(Op::mul_add, d, a, b); }
  void mul_add(const Group& d, const Group& a, float b) { each(Op::mul_add, d, a, b); }
  void mul_add(const Group& d, Reg a, const Group& b) { from(Op::mul_add, d, a, b); }
  void mul_add(const Group& d, Reg a, float b) {
    const Mem mem = number(b);
    for (const Reg reg : d) builder_.mul_add(reg, a, mem, Operand::broadcast_mem);
  }
  /// NaN in b stays, unlike one in a.
  void max(const Group& d, Reg a, const Group& b) { from(Op::max, d, a, b); }
  void min(const Group& d, Reg a, const Group& b) { from(Op::min, d, a, b); }
  void div(const Group& d, Reg a, const Group& b) { from(Op::div, d, a, b); }
  void from(Op op, const Group& d, Reg a, const Group& b) {
    for (std::size_t i = 0; i < d.size(); ++i) builder_.binary(op, d[i], a, b[i]);
  }
  /// By 23: low bits become the exponent.
  void shift_left(const Group& d) {
    for (const Reg reg : d) builder_.unary(Op::shift_left, reg, reg, 23);
  }

  Group v_, parameters_;
  Builder& builder_;
};

void emit(Vectors vectors, const EpilogueStep& step, const Group& shared_inverse) {
  switch (step.kind) {
    case StepKind::scale_shift:
    case StepKind::add:
      return;
    case StepKind::relu:
      return vectors.relu();
    case StepKind::leaky_relu:
      return vectors.leaky_relu(step.alpha);
    case StepKind::prelu:
      return vectors.prelu();
    case StepKind::elu:
      return vectors.elu(step.alpha);
    case StepKind::clip:
      return vectors.clip(step.alpha, step.beta);
    case StepKind::sigmoid:
      return vectors.sigmoid();
    case StepKind::tanh:
      return vectors.tanh();
    case StepKind::gelu_erf:
      return vectors.gelu_erf();
    case StepKind::gelu_tanh:
      return vectors.gelu_tanh();
    case StepKind::silu:
      return vectors.silu();
    case StepKind::hardswish:
      return vectors.hardswish();
    case StepKind::hardsigmoid:
      return vectors.hardsigmoid(step.alpha, step.beta);
    case StepKind::softplus:
      return vectors.softplus();
    case StepKind::snake:
      return vectors.snake(shared_inverse);
  }
}

/// Registers that are live at once, at most: for each value of a group, and for the group.
struct Scratch {
  int value, group;
};

constexpr Scratch scratch_of(StepKind kind) {
  switch (kind) {
    case StepKind::scale_shift:
    case StepKind::add:
      return {0, 0};
    case StepKind::relu:
    case StepKind::clip:
      return {0, 1};
    case StepKind::hardswish:
      return {1, 0};
    case StepKind::leaky_relu:
    case StepKind::prelu:
    case StepKind::hardsigmoid:
      return {1, 1};
    case StepKind::sigmoid:
    case StepKind::elu:
    case StepKind::softplus:
      return {3, 0};
    case StepKind::snake:
      return {3, 1};
    case StepKind::gelu_erf:
    case StepKind::gelu_tanh:
    case StepKind::silu:
    case StepKind::tanh:
      return {4, 0};
  }
  return {0, 0};
}

}  // namespace

int activation_scratch(StepKind kind) {
  const Scratch scratch = scratch_of(kind);
  return scratch.value + scratch.group;
}

void emit_activation(Builder& builder, const EpilogueStep& step, std::span<const Reg> values,
                     std::span<const Reg> parameters, int scratch) {
  const Scratch need = scratch_of(step.kind);
  std::size_t size = values.size();
  if (need.value > 0)
    size = static_cast<std::size_t>(std::max(1, (scratch - need.group) / need.value));
  const bool one_for_all = parameters.size() == 1;
  Group shared_inverse;
  if (step.kind == StepKind::snake && one_for_all)
    shared_inverse = Vectors(builder, {}, parameters).inverse();
  for (std::size_t first = 0; first < values.size(); first += size) {
    const std::size_t count = std::min(size, values.size() - first);
    const bool own = !one_for_all && !parameters.empty();
    emit(Vectors(builder, values.subspan(first, count),
                 own ? parameters.subspan(first, count) : parameters),
         step, shared_inverse);
  }
}

}  // namespace convt::lowering
