// Shapes of a problem's tensors as arrays have them, outermost axis first.
#pragma once

#include <cstdint>
#include <vector>

#include <convt/problem.hpp>

namespace convt {

/// Of x and y, in the problem's layout; without a batch if `batch` is negative.
std::vector<std::int64_t> src_shape(const Problem& problem, std::int64_t batch);
std::vector<std::int64_t> dst_shape(const Problem& problem, std::int64_t batch);
/// (Cin, Cout/groups, K...), in every layout.
std::vector<std::int64_t> weights_shape(const Problem& problem);

}  // namespace convt
