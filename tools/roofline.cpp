#include "tools/roofline.hpp"

#include <algorithm>

#include "compiler/problem/phases.hpp"
#include "compiler/problem/reference.hpp"

namespace convt::tools {

Work work_of(const Problem& problem, std::int64_t batch) {
  double live_inputs_product = 1;
  double live_kernel_product = 1;
  for (int a = 0; a < problem.rank; ++a) {
    const Axis& axis = problem.axes[static_cast<std::size_t>(a)];
    live_inputs_product *= static_cast<double>(live_inputs(axis));
    live_kernel_product *= static_cast<double>(live_kernel(axis));
  }
  const auto n = static_cast<double>(batch);
  const auto ic = static_cast<double>(problem.in_channels);
  const auto oc = static_cast<double>(problem.out_channels);
  const auto cog = static_cast<double>(problem.oc_per_group());
  const double outputs = n * oc * static_cast<double>(problem.output_spatial());
  const auto bytes = [](DataType type) { return static_cast<double>(element_bytes(type)); };
  const double src = bytes(problem.dtype);
  const double weights = bytes(weights_dtype(problem.dtype));
  const double dst = bytes(problem.dst_dtype);
  const double input_rows =
      problem.input_activation ? problem.input_activation->parameter_rows() : 0;
  const double others =
      bytes(DataType::f32) *
          (oc * ((problem.bias ? 1 : 0) + problem.parameter_rows()) + ic * input_rows) +
      (problem.has_residual() ? dst * outputs : 0);

  Work work;
  work.macs = n * static_cast<double>(problem.live_macs());
  work.products = problem.is_int8()          ? Work::Products::int8
                  : multiplies_bf16(problem) ? Work::Products::bf16
                                             : Work::Products::f32;
  work.read_bytes =
      src * n * ic * live_inputs_product + weights * ic * cog * live_kernel_product + others;
  work.write_bytes = dst * outputs;
  work.tensor_bytes = src * n * ic * static_cast<double>(problem.input_spatial()) +
                      weights * static_cast<double>(problem.weights_count()) + others +
                      work.write_bytes;
  return work;
}

double peak_gflops(const Work& work, const Machine& machine) {
  const FmaPeak& peak = machine.peak();
  switch (work.products) {
    case Work::Products::bf16:
      return peak.gflops_all * peak.dot_bf16;
    case Work::Products::int8:
      return peak.gflops_all * peak.dot_u8s8;
    default:
      return peak.gflops_all;
  }
}

Roof roof_of(const Work& work, Machine& machine, bool cold) {
  const double set = cold ? static_cast<double>(Machine::working_sets().back()) : work.live_bytes();
  const double gbs = machine.bandwidth_gbs(set, work.write_share());
  return {2 * work.macs / peak_gflops(work, machine) * 1e-6, work.live_bytes() / gbs * 1e-6};
}

double simple_roof_ms(const Work& work, Machine& machine) {
  constexpr double kReferencePeak = 274;
  constexpr double kCachedGbs = 120;
  constexpr double kCachedBytes = 30e6;
  const double peak = machine.peak().gflops_all;
  const double gbs =
      work.tensor_bytes < kCachedBytes ? kCachedGbs * peak / kReferencePeak : machine.read_gbs();
  return std::max(2 * work.macs / peak_gflops(work, machine), work.tensor_bytes / gbs) * 1e-6;
}

}  // namespace convt::tools
