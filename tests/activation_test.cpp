// Activations by machine code: within max_ulp() of their definition, and the interpreter's bits.
// CONVT_TEST_FULL=1: for every float32.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "compiler/backend/xbyak/emit.hpp"
#include "compiler/lower/activation.hpp"
#include "compiler/problem/activation_error.hpp"
#include "compiler/program/interpreter.hpp"
#include "compiler/program/passes.hpp"
#include "tests/executable.hpp"

namespace convt {
namespace {

using namespace program;

// ---- The definition.

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double logistic(double v) { return 1 / (1 + std::exp(-v)); }

/// include/convt/epilogue.hpp in double precision, in forms that lose no digits; at -inf the limit.
double reference(const EpilogueStep& step, float x, float a) {
  double v = x;
  switch (step.kind) {
    case StepKind::silu:
    case StepKind::hardswish:
    case StepKind::gelu_erf:
    case StepKind::gelu_tanh:
      if (v == -kInfinity) return 0;
      break;
    default:
      break;
  }
  switch (step.kind) {
    case StepKind::scale_shift:
    case StepKind::add:
      break;
    case StepKind::relu:
      return v < 0 ? 0 : v;
    case StepKind::leaky_relu:
      return v < 0 ? step.alpha * v : v;
    case StepKind::prelu:
      return v < 0 ? a * v : v;
    case StepKind::elu:
      return v < 0 ? step.alpha * std::expm1(v) : v;
    case StepKind::clip:
      return v < step.alpha ? step.alpha : v > step.beta ? step.beta : v;
    case StepKind::sigmoid:
      return logistic(v);
    case StepKind::tanh:
      return std::tanh(v);
    case StepKind::gelu_erf:
      return v / 2 * std::erfc(-v * 0.70710678118654752440);
    case StepKind::gelu_tanh:
      return v * logistic(2 * 0.79788456080286535588 * (v + 0.044715 * v * v * v));
    case StepKind::silu:
      return v * logistic(v);
    case StepKind::hardswish:
      return v * (std::isnan(v) ? v : std::min(std::max(v + 3, 0.0), 6.0)) / 6;
    case StepKind::hardsigmoid: {
      const double y = static_cast<double>(step.alpha) * v + step.beta;
      return y < 0 ? 0 : y > 1 ? 1 : y;
    }
    case StepKind::softplus:
      return v > 0 ? v + std::log1p(std::exp(-v)) : std::log1p(std::exp(v));
    case StepKind::snake: {
      if (a == 0 || std::isinf(v)) return v;
      const double s = std::sin(a * v);
      return v + s * s / a;
    }
  }
  return std::numeric_limits<double>::quiet_NaN();
}

/// 2^-23 of the power of two below |value|, at least 2^-149.
double ulp(double value) {
  const std::uint64_t exponent = std::bit_cast<std::uint64_t>(value) & 0x7ff0000000000000u;
  const double power = std::min(std::bit_cast<double>(exponent), 0x1p127);
  return std::max(power * 0x1p-23, 0x1p-149);
}

/// As max_ulp() counts; 0 where the result is the nearest float.
double error_of(const EpilogueStep& step, float x, float a, float actual) {
  const double expected = reference(step, x, a);
  if (static_cast<float>(expected) == actual) return 0;
  if (std::isnan(expected)) return std::isnan(actual) ? 0 : kInfinity;
  const auto nearest = static_cast<float>(expected);
  if (std::isinf(nearest) || !std::isfinite(actual)) return actual == nearest ? 0 : kInfinity;
  double unit = ulp(expected);
  if (step.kind == StepKind::snake && a != 0)
    unit = 0x1p-23 * (std::abs(static_cast<double>(x)) + 1 / std::abs(static_cast<double>(a)));
  return std::abs(actual - expected) / unit;
}

struct Worst {
  double error = 0;
  float x = 0, a = 0, actual = 0;
  void see(double e, float at, float parameter, float y) { see({e, at, parameter, y}); }
  void see(const Worst& other) {
    if (other.error > error) *this = other;
  }
};

std::ostream& operator<<(std::ostream& out, const Worst& worst) {
  char text[120];
  std::snprintf(text, sizeof text, "%.3f ulp at %a (%.9g), a = %a: %a", worst.error,
                static_cast<double>(worst.x), static_cast<double>(worst.x),
                static_cast<double>(worst.a), static_cast<double>(worst.actual));
  return out << text;
}

// ---- Programs.

constexpr std::uint32_t kFloats = 1 << 13;

struct Shape {
  int lanes = 16, vector_registers = 32, mask_registers = 7;
  int values = 4;  ///< at once
  int scratch = lowering::kActivationScratch;
  bool one_parameter = false;  ///< the first one, for all values
};

Result<Program> make_program(const EpilogueStep& step, const Shape& shape) {
  Builder builder("activation", shape.lanes, shape.vector_registers, shape.mask_registers);
  const auto declare = [&](BufferKind kind) {
    Buffer buffer;
    buffer.kind = kind;
    buffer.extent[0] = kFloats;
    buffer.stride[0] = 1;
    return builder.buffer(buffer);
  };
  const BufferId src = declare(BufferKind::src), dst = declare(BufferKind::dst);
  builder.begin_stage("activation");
  const int vectors = static_cast<int>(kFloats) / shape.lanes;
  const bool has_rest = vectors % shape.values != 0;
  const auto emit = [&](const Affine& first, int values) {
    const auto at = [&](BufferId buffer, int value) {
      Mem mem;
      mem.address = builder.address(buffer, {first});
      mem.delta[0] = value * shape.lanes;
      return mem;
    };
    std::vector<Reg> registers, parameters;
    for (int i = 0; i < values; ++i)
      builder.load(registers.emplace_back(builder.vector()), at(src, i));
    if (step.parameter_rows() > 0) {
      const BufferId row = declare(BufferKind::parameters);
      if (shape.one_parameter) {
        Mem mem;
        mem.address = builder.address(row, {Affine(0)});
        builder.broadcast(parameters.emplace_back(builder.vector()), mem);
      } else {
        for (int i = 0; i < values; ++i)
          builder.load(parameters.emplace_back(builder.vector()), at(row, i));
      }
    }
    lowering::emit_activation(builder, step, registers, parameters, shape.scratch);
    for (int i = 0; i < values; ++i)
      builder.store(at(dst, i), registers[static_cast<std::size_t>(i)]);
  };
  builder.coordinate("once", Extent{1, 0});
  const ScalarId block = builder.begin_loop("block", vectors / shape.values);
  emit(Affine::of(block, std::int64_t{shape.values} * shape.lanes), shape.values);
  builder.end_loop();
  if (has_rest)
    emit(Affine(std::int64_t{vectors / shape.values} * shape.values * shape.lanes),
         vectors % shape.values);
  builder.end_stage();
  Result<Program> program = allocate_registers(
      legalise(builder.finish(), generic_target(shape.lanes == 16 ? Isa::avx512 : Isa::avx2)));
  if (!program.ok()) return program;
  const auto verified = verify(*program);
  if (!verified.ok()) return verified.error();
  return program;
}

/// x, parameters, y.
struct Data {
  std::vector<float> x = std::vector<float>(kFloats), a = x, y = x;
  [[nodiscard]] Args args() {
    Args args;
    args.src = x.data();
    args.parameters = a.data();
    args.dst = y.data();
    args.batch = 1;
    return args;
  }
};

/// By machine code if there is a place for it, or else interpreted.
class Kernel {
 public:
  explicit Kernel(const EpilogueStep& step)
      : step_(step), program_(make_program(step, {}).value()) {
    if (test::have_avx512())
      code_ = std::make_unique<test::Executable>(emit_xbyak(program_, "activation").value());
  }
  [[nodiscard]] bool is_native() const { return code_ != nullptr; }

  Worst run(Data& data) const {
    const Args args = data.args();
    if (is_native()) {
      code_->run(0, args, 0, 1);
    } else {
      interpret(program_, 0, args, 0, 1).value();
    }
    Worst worst;
    for (std::size_t i = 0; i < data.x.size(); ++i)
      worst.see(error_of(step_, data.x[i], data.a[i], data.y[i]), data.x[i], data.a[i], data.y[i]);
    return worst;
  }
  void interpret_it(Data& data) const { interpret(program_, 0, data.args(), 0, 1).value(); }

 private:
  EpilogueStep step_;
  Program program_;
  std::unique_ptr<test::Executable> code_;
};

// ---- Arguments.

std::uint32_t hash(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

/// Parameters of both signs from 2^-16 to 2^16, some of them 0, 1 and -1.
float parameter(std::uint32_t index) {
  const std::uint32_t random = hash(index ^ 0x5bd1e995u);
  constexpr float kSpecial[] = {0.0f, 1.0f, -1.0f, 0.25f};
  if (random % 16 == 0) return kSpecial[random / 16 % 4];
  const std::uint32_t exponent = 127 - 16 + hash(random) % 32;
  return std::bit_cast<float>((random & 0x807fffffu) | exponent << 23);
}

/// Where functions change: ends of ranges, and what is no number.
std::vector<float> special_arguments() {
  std::vector<float> result;
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float v :
       {0.0f,     0x1p-149f,   0x1p-127f,   0x1p-126f, 0x1p-24f,
        1 / 6.0f, 0.17328679f, 0.34657359f, 0.5f,      1.0f,
        2.5f,     3.0f,        6.0f,        9.01f,     9.1f,
        10.8f,    14.5f,       17.33f,      18.0f,     40.0f,
        87.3f,    88.72f,      103.97f,     104.0f,    105.0f,
        109.0f,   0x1p23f,     0x1p25f,     0x1p127f,  std::numeric_limits<float>::max()}) {
    for (const float sign : {1.0f, -1.0f}) {
      result.push_back(sign * v);
      result.push_back(std::nextafter(sign * v, 0.0f));
      result.push_back(std::nextafter(sign * v, sign * kInf));
    }
  }
  for (const std::uint32_t nan : {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xffffffffu})
    result.push_back(std::bit_cast<float>(nan));
  return result;
}

/// A half from all exponents alike, a half from 2^-4 to 2^7.
float argument(std::uint32_t index) {
  static const std::vector<float> kSpecial = special_arguments();
  if (index < kSpecial.size()) return kSpecial[index];
  const std::uint32_t random = hash(index);
  const std::uint32_t exponent = index % 2 == 0 ? index / 2 % 256 : 123 + index / 2 % 11;
  return std::bit_cast<float>((random & 0x807fffffu) | exponent << 23);
}

void fill(Data& data, std::uint32_t first) {
  for (std::uint32_t i = 0; i < kFloats; ++i) {
    data.x[i] = argument(first + i);
    data.a[i] = parameter(first + i);
  }
}

bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

void expect_same(const Data& a, const Data& b) {
  for (std::size_t i = 0; i < a.y.size(); ++i)
    ASSERT_TRUE(same_bits(a.y[i], b.y[i]))
        << a.y[i] << " and " << b.y[i] << " at " << a.x[i] << ", a = " << a.a[i];
}

// ---- Tests.

struct Case {
  const char* name;
  EpilogueStep step;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

const Case kCases[] = {{"relu", {StepKind::relu, 0, 0}},
                       {"leaky_relu", {StepKind::leaky_relu, 0.01f, 0}},
                       {"leaky_relu_steep", {StepKind::leaky_relu, 1.7f, 0}},
                       {"leaky_relu_negative", {StepKind::leaky_relu, -0.3f, 0}},
                       {"leaky_relu_flat", {StepKind::leaky_relu, 0, 0}},
                       {"prelu", {StepKind::prelu, 0, 0}},
                       {"elu", {StepKind::elu, 1, 0}},
                       {"elu_steep", {StepKind::elu, 1.6732632f, 0}},
                       {"elu_shallow", {StepKind::elu, 0.3f, 0}},
                       {"clip", {StepKind::clip, 0, 6}},
                       {"sigmoid", {StepKind::sigmoid, 0, 0}},
                       {"tanh", {StepKind::tanh, 0, 0}},
                       {"gelu_erf", {StepKind::gelu_erf, 0, 0}},
                       {"gelu_tanh", {StepKind::gelu_tanh, 0, 0}},
                       {"silu", {StepKind::silu, 0, 0}},
                       {"hardswish", {StepKind::hardswish, 0, 0}},
                       {"hardsigmoid", {StepKind::hardsigmoid, 1 / 6.0f, 0.5f}},
                       {"hardsigmoid_steep", {StepKind::hardsigmoid, 0.7f, 0.1f}},
                       {"softplus", {StepKind::softplus, 0, 0}},
                       {"snake", {StepKind::snake, 0, 0}}};

class Activation : public testing::TestWithParam<Case> {
 protected:
  [[nodiscard]] static const EpilogueStep& step() { return GetParam().step; }
  [[nodiscard]] static double bound() { return max_ulp(step().kind) * (1 + 1e-6); }
};

INSTANTIATE_TEST_SUITE_P(All, Activation, testing::ValuesIn(kCases),
                         [](const auto& c) { return std::string(c.param.name); });

TEST_P(Activation, IsWithinItsBound) {
  const Kernel kernel(step());
  const std::uint32_t count = kernel.is_native() ? 1 << 20 : 1 << 16;
  Data data;
  Worst worst;
  for (std::uint32_t first = 0; first < count; first += kFloats) {
    fill(data, first);
    worst.see(kernel.run(data));
  }
  EXPECT_LE(worst.error, bound()) << worst;
  RecordProperty("worst", testing::PrintToString(worst));
}

TEST_P(Activation, IsWithinItsBoundForEveryFloat) {
  if (std::getenv("CONVT_TEST_FULL") == nullptr) GTEST_SKIP() << "CONVT_TEST_FULL is not set";
  const Kernel kernel(step());
  if (!kernel.is_native()) GTEST_SKIP() << "no AVX-512 here";
  constexpr std::uint32_t kChunks = (std::uint64_t{1} << 32) / kFloats;
  std::atomic<std::uint32_t> next = 0;
  std::mutex mutex;
  Worst worst;
  std::vector<std::thread> threads(std::max(1u, std::thread::hardware_concurrency()));
  for (std::thread& thread : threads) {
    thread = std::thread([&] {
      Data data;
      for (std::uint32_t chunk = next++; chunk < kChunks; chunk = next++) {
        for (std::uint32_t i = 0; i < kFloats; ++i) {
          data.x[i] = std::bit_cast<float>(chunk * kFloats + i);
          if (step().parameter_rows() > 0) data.a[i] = parameter(chunk * kFloats + i);
        }
        const Worst here = kernel.run(data);
        const std::lock_guard lock(mutex);
        worst.see(here);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(worst.error, bound()) << worst;
  RecordProperty("worst", testing::PrintToString(worst));
}

TEST_P(Activation, MachineCodeEqualsTheInterpreter) {
  const Kernel kernel(step());
  if (!kernel.is_native()) GTEST_SKIP() << "no AVX-512 here";
  Data actual, expected;
  for (std::uint32_t first = 0; first < 1 << 16; first += kFloats) {
    fill(actual, first);
    fill(expected, first);
    kernel.run(actual);
    kernel.interpret_it(expected);
    ASSERT_NO_FATAL_FAILURE(expect_same(actual, expected));
  }
}

// Also without mask registers, where constants take a register more; and when values go one by one
// or many at a time.
TEST_P(Activation, FitsItsScratchRegisters) {
  const int least = lowering::activation_scratch(step().kind);
  ASSERT_LE(least, lowering::kActivationScratch);
  Data data, expected;
  fill(expected, 0);
  fill(data, 0);
  Kernel(step()).interpret_it(expected);
  for (const bool masks : {true, false}) {
    for (const int scratch : {least, lowering::kActivationScratch, 9}) {
      for (const bool one_parameter : {false, true}) {
        if (one_parameter && step().parameter_rows() == 0) continue;
        Shape shape;
        if (!masks) shape = {8, 16, 0};
        shape.scratch = scratch;
        shape.one_parameter = one_parameter;
        shape.values = shape.vector_registers - scratch - (masks ? 0 : 1);
        if (one_parameter) shape.values -= 1;
        if (!one_parameter && step().parameter_rows() > 0) shape.values /= 2;
        const Result<Program> program = make_program(step(), shape);
        ASSERT_TRUE(program.ok()) << program.error().message << ", scratch " << scratch;
        if (one_parameter) continue;
        ASSERT_TRUE(interpret(*program, 0, data.args(), 0, 1).ok());
        ASSERT_NO_FATAL_FAILURE(expect_same(data, expected));
      }
    }
  }
}

TEST(ActivationParameter, OneServesAllValues) {
  for (const StepKind kind : {StepKind::prelu, StepKind::snake}) {
    const EpilogueStep step{kind, 0, 0};
    Shape shape;
    shape.one_parameter = true;
    const Program shared = make_program(step, shape).value();
    const Kernel kernel(step);
    Data data, expected;
    for (const float a : {0.0f, 0.3f, -7.0f}) {
      fill(data, 0);
      std::fill(data.a.begin(), data.a.end(), a);
      expected = data;
      ASSERT_TRUE(interpret(shared, 0, data.args(), 0, 1).ok());
      kernel.interpret_it(expected);
      ASSERT_NO_FATAL_FAILURE(expect_same(data, expected));
    }
  }
}

}  // namespace
}  // namespace convt
