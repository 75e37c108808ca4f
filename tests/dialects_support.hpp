// What the tests of all dialects do with a module: shapes, values through a compiled kernel, and
// the exception that answers a mistake.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <convt/convt.hpp>
#include <convt/dialects/module.hpp>

#include "compiler/problem/tensor.hpp"
#include "tests/test_support.hpp"

namespace convt::dialects {

using Values = std::vector<float>;

/// The output shape; empty, and a failure, if there is none.
inline Shape shape_of(const Result<Module>& module, const Shape& input,
                      const CallArguments& arguments = {}) {
  EXPECT_TRUE(succeeded(module));
  if (!module) return {};
  const Result<Shape> output = module->output_shape(input, arguments);
  EXPECT_TRUE(succeeded(output));
  return output ? *output : Shape();
}

/// Begin crops of the axes.
inline Shape crops_of(const Result<Module>& module, const Shape& input) {
  EXPECT_TRUE(succeeded(module));
  if (!module) return {};
  const Result<Problem> problem = module->make_problem(input);
  EXPECT_TRUE(succeeded(problem));
  Shape crops;
  if (!problem) return crops;
  for (int a = 0; a < problem->rank; ++a) {
    crops.push_back(problem->axes[static_cast<std::size_t>(a)].crop_begin);
  }
  return crops;
}

/// y of a compiled kernel; weights in the dialect's layout.
inline Values run(const Result<Module>& module, const Shape& input, const Values& x,
                  const Values& weights, const Values& bias = {},
                  const CallArguments& arguments = {}) {
  EXPECT_TRUE(succeeded(module));
  if (!module) return {};
  const Result<Call> call = module->call(input, arguments);
  EXPECT_TRUE(succeeded(call));
  if (!call) return {};
  EXPECT_EQ(call->problem.bias, !bias.empty());
  const Result<Kernel> kernel = compile(call->problem);
  EXPECT_TRUE(succeeded(kernel));
  const Result<Values> canonical = module->canonical_weights(weights);
  EXPECT_TRUE(succeeded(canonical));
  if (!kernel || !canonical) return {};
  const Result<PackedWeights> packed = kernel->pack(canonical->data(), canonical->size());
  EXPECT_TRUE(succeeded(packed));
  EXPECT_EQ(static_cast<std::int64_t>(x.size()), src_span(call->problem, call->batch));
  Values y(static_cast<std::size_t>(dst_span(call->problem, call->batch)), std::nanf(""));
  const Status status = kernel->run({.batch = call->batch,
                                     .src = x.data(),
                                     .weights = *packed,
                                     .bias = bias.empty() ? nullptr : bias.data(),
                                     .dst = y.data()});
  EXPECT_TRUE(succeeded(status));
  return y;
}

/// EXPECT_TRUE(raises(result, ErrorClass::value_error, "stride must")): an error of that class with
/// that text in its message.
template <class T>
::testing::AssertionResult raises(const Result<T>& result, ErrorClass error_class,
                                  const std::string& text) {
  if (result.ok()) return ::testing::AssertionFailure() << "not refused";
  const Error& error = result.error();
  if (error.error_class != error_class) {
    return ::testing::AssertionFailure() << to_string(error.error_class) << ", not "
                                         << to_string(error_class) << ": " << error.message;
  }
  if (error.message.find(text) == std::string::npos) {
    return ::testing::AssertionFailure() << "without '" << text << "': " << error.message;
  }
  return ::testing::AssertionSuccess();
}

/// raises() of a call.
inline ::testing::AssertionResult call_raises(const Result<Module>& module, const Shape& input,
                                              ErrorClass error_class, const std::string& text,
                                              const CallArguments& arguments = {}) {
  if (!module) return ::testing::AssertionFailure() << module.error().message;
  return raises(module->call(input, arguments), error_class, text);
}

}  // namespace convt::dialects
