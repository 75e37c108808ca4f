// convt: transposed convolution, compiled just in time for each layer. Everything of the C++ API,
// but for the front ends of frameworks (convt/dialects/).
//
//     convt::Problem problem = convt::conv_transpose2d({.in_channels = 64, .out_channels = 32,
//         .input = {16, 16}, .kernel = {4, 4}, .stride = {2, 2}, .padding = {1, 1}});
//     convt::Kernel kernel = convt::compile(problem).value();
//     convt::PackedWeights weights = kernel.pack(canonical, count).value();
//     kernel.run({.batch = 1, .src = x, .weights = weights, .dst = y}).value();
#pragma once

#include <convt/kernel.hpp>
#include <convt/layer.hpp>
#include <convt/parallel_for.hpp>
#include <convt/problem.hpp>
#include <convt/result.hpp>
#include <convt/runtime.hpp>
#include <convt/version.hpp>
