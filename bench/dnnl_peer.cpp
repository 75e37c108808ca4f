#include "bench/dnnl_peer.hpp"

#include <dlfcn.h>

#include <dnnl.hpp>
#include <unordered_map>
#include <utility>
#include <vector>

namespace convt::bench {
namespace {

using Dims = dnnl::memory::dims;
using Descriptor = dnnl::memory::desc;
constexpr auto kFloat = dnnl::memory::data_type::f32;

const dnnl::engine& cpu() {
  static const dnnl::engine engine = [] {
    dnnl::set_primitive_cache_capacity(0);
    return dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return engine;
}

Dims per_axis(const Problem& problem, std::int64_t (*value_of)(const Axis&)) {
  Dims values;
  for (int a = 0; a < problem.rank; ++a) {
    values.push_back(value_of(problem.axes[static_cast<std::size_t>(a)]));
  }
  return values;
}

std::int64_t crop_end(const Axis& axis) { return axis.full() - axis.crop_begin - axis.output; }

Descriptor activation(const Problem& problem, std::int64_t batch, std::int64_t channels,
                      std::int64_t (*length)(const Axis&)) {
  using Tag = dnnl::memory::format_tag;
  constexpr Tag kFirst[] = {Tag::abc, Tag::abcd, Tag::abcde};
  constexpr Tag kLast[] = {Tag::acb, Tag::acdb, Tag::acdeb};
  Dims dims{batch, channels};
  for (const std::int64_t extent : per_axis(problem, length)) dims.push_back(extent);
  const auto rank = static_cast<std::size_t>(problem.rank - 1);
  return {dims, kFloat, problem.layout == Layout::nchw ? kFirst[rank] : kLast[rank]};
}

/// oneDNN's logical order of the weights' dimensions, ([g,] oc, ic, k...), and where canonical
/// weights (Cin, Cout/g, K...) keep them.
struct WeightsShape {
  explicit WeightsShape(const Problem& problem) {
    const std::int64_t ic = problem.ic_per_group();
    const std::int64_t oc = problem.oc_per_group();
    std::int64_t step = problem.kernel_volume();
    if (problem.groups > 1) {
      dims = {problem.groups};
      strides = {ic * oc * step};
    }
    dims.insert(dims.end(), {oc, ic});
    strides.insert(strides.end(), {step, oc * step});
    for (const std::int64_t taps : per_axis(problem, [](const Axis& a) { return a.kernel; })) {
      step /= taps;
      dims.push_back(taps);
      strides.push_back(step);
    }
  }

  Dims dims;
  Dims strides;
};

dnnl::deconvolution_forward::primitive_desc describe(const Problem& problem, std::int64_t batch) {
  constexpr auto kKind = dnnl::prop_kind::forward_inference;
  constexpr auto kAlgorithm = dnnl::algorithm::deconvolution_direct;
  const Descriptor src =
      activation(problem, batch, problem.in_channels, [](const Axis& a) { return a.input; });
  const Descriptor dst =
      activation(problem, batch, problem.out_channels, [](const Axis& a) { return a.output; });
  const Descriptor weights(WeightsShape(problem).dims, kFloat, dnnl::memory::format_tag::any);
  const Descriptor bias =
      problem.bias ? Descriptor({problem.out_channels}, kFloat, dnnl::memory::format_tag::a)
                   : Descriptor();
  const Dims strides = per_axis(problem, [](const Axis& a) { return a.stride; });
  const Dims dilations = per_axis(problem, [](const Axis& a) { return a.dilation - 1; });
  const Dims begin = per_axis(problem, [](const Axis& a) { return a.crop_begin; });
  const Dims end = per_axis(problem, crop_end);
#if DNNL_VERSION_MAJOR >= 3
  return {cpu(), kKind, kAlgorithm, src, weights, bias, dst, strides, dilations, begin, end};
#else
  using Deconvolution = dnnl::deconvolution_forward;
  if (!problem.bias) {
    return {
        Deconvolution::desc(kKind, kAlgorithm, src, weights, dst, strides, dilations, begin, end),
        cpu()};
  }
  return {Deconvolution::desc(kKind, kAlgorithm, src, weights, bias, dst, strides, dilations, begin,
                              end),
          cpu()};
#endif
}

Error refused(const dnnl::error& error) {
  return {ErrorCode::unsupported, std::string("oneDNN: ") + error.what()};
}

float* mutable_data(const float* data) { return const_cast<float*>(data); }

}  // namespace

struct DnnlPeer::Parts {
  explicit Parts(const Problem& layer, std::int64_t batch)
      : problem(layer), description(describe(layer, batch)), primitive(description) {}

  Problem problem;
  dnnl::deconvolution_forward::primitive_desc description;
  dnnl::deconvolution_forward primitive;
  dnnl::stream stream{cpu()};
  std::unordered_map<int, dnnl::memory> arguments;
};

std::string dnnl_version() {
  const dnnl_version_t* version = dnnl::version();
  return "oneDNN " + std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
         std::to_string(version->patch);
}

Status set_dnnl_threads(int threads) {
  // Whichever OpenMP oneDNN brought along; linking another one here would have its own threads.
  using SetThreads = void (*)(int);
  const auto set = reinterpret_cast<SetThreads>(::dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (set != nullptr) {
    set(threads);
  } else if (threads > 1) {
    return Error{ErrorCode::unsupported, "--threads: this oneDNN is built without OpenMP"};
  }
  return ok_status();
}

Status check_dnnl_can(const Problem& problem) {
  const auto cannot = [](const std::string& what) -> Status {
    return Error{ErrorCode::unsupported, "oneDNN cannot express " + what};
  };
  if (problem.src_pitch() != problem.in_channels || problem.dst_pitch() != problem.out_channels) {
    return cannot("channel pitches (here)");
  }
  for (int a = 0; a < problem.rank; ++a) {
    const Axis& axis = problem.axes[static_cast<std::size_t>(a)];
    const std::string where = " (axis " + std::to_string(a) + ")";
    if (axis.zero_tail > 0) return cannot("a zero tail" + where);
    if (axis.crop_begin < 0) return cannot("a negative crop at the begin" + where);
    if (crop_end(axis) + axis.stride <= 0) {
      return cannot("a tail of a stride or more behind the full result" + where);
    }
  }
  return ok_status();
}

Result<DnnlPeer> DnnlPeer::create(const Problem& problem, std::int64_t batch) {
  try {
    return DnnlPeer(std::make_unique<Parts>(problem, batch));
  } catch (const dnnl::error& error) {
    return refused(error);
  }
}

Status DnnlPeer::create_only(const Problem& problem, std::int64_t batch) {
  try {
    const dnnl::deconvolution_forward primitive(describe(problem, batch));
  } catch (const dnnl::error& error) {
    return refused(error);
  }
  return ok_status();
}

DnnlPeer::DnnlPeer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
DnnlPeer::DnnlPeer(DnnlPeer&& other) noexcept = default;
DnnlPeer& DnnlPeer::operator=(DnnlPeer&& other) noexcept = default;
DnnlPeer::~DnnlPeer() = default;

void DnnlPeer::bind(const float* src, const float* weights, const float* bias, float* dst) {
  Parts& p = *parts_;
  const WeightsShape shape(p.problem);
  dnnl::memory canonical({shape.dims, kFloat, shape.strides}, cpu(), mutable_data(weights));
  dnnl::memory packed(p.description.weights_desc(), cpu());
  dnnl::reorder(canonical, packed).execute(p.stream, canonical, packed);
  p.stream.wait();
  p.arguments = {{DNNL_ARG_SRC, {p.description.src_desc(), cpu(), mutable_data(src)}},
                 {DNNL_ARG_WEIGHTS, packed},
                 {DNNL_ARG_DST, {p.description.dst_desc(), cpu(), dst}}};
  if (p.problem.bias) {
    p.arguments.insert({DNNL_ARG_BIAS, {p.description.bias_desc(), cpu(), mutable_data(bias)}});
  }
}

void DnnlPeer::run() {
  parts_->primitive.execute(parts_->stream, parts_->arguments);
  parts_->stream.wait();
}

std::string DnnlPeer::implementation() const { return parts_->description.impl_info_str(); }

}  // namespace convt::bench
