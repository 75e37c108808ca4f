// The C API: checks what C cannot promise (null handles, struct sizes, enum ranges), converts,
// calls the C++ API, and lets no exception leave.
#include <convt/convt.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <convt/convt.hpp>

struct convt_kernel {
  convt::Kernel kernel;
  std::string report;
};

namespace {

using convt::Error;
using convt::ErrorCode;
using convt::Status;

std::string& last_error() {
  thread_local std::string message;
  return message;
}

convt_status_t to_c(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return CONVT_INVALID_ARGUMENT;
    case ErrorCode::unsupported:
      return CONVT_UNSUPPORTED;
    case ErrorCode::out_of_memory:
      return CONVT_OUT_OF_MEMORY;
    case ErrorCode::io:
      return CONVT_IO;
    case ErrorCode::internal:
      return CONVT_INTERNAL;
  }
  return CONVT_INTERNAL;
}

/// Runs `body` (returns Status) and turns whatever comes of it into a status and a message.
template <class Body>
convt_status_t guarded(Body body) noexcept {
  try {
    const Status status = body();
    if (status.ok()) return CONVT_OK;
    last_error() = status.error().message;
    return to_c(status.error().code);
  } catch (const std::bad_alloc&) {
    last_error() = "out of memory";  // short enough to need none
    return CONVT_OUT_OF_MEMORY;
  } catch (const std::exception& exception) {
    try {
      last_error() = exception.what();
    } catch (...) {
    }
  } catch (...) {
  }
  return CONVT_INTERNAL;
}

Error bad(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

/// Copies a caller's struct of an older, a newer or this version of the header over defaults: what
/// it does not have keeps its default, what is unknown here is ignored.
template <class Struct>
convt::Result<Struct> import_struct(const Struct* theirs, const Struct& defaults,
                                    std::size_t at_least, const char* name) {
  if (theirs == nullptr) return bad(std::string(name) + ": null");
  if (theirs->struct_bytes < at_least || theirs->struct_bytes > 16 * sizeof(Struct)) {
    return bad(std::string(name) + ".struct_bytes: " + std::to_string(theirs->struct_bytes) +
               " is not plausible; initialise the struct as convt.h says");
  }
  Struct ours = defaults;
  std::memcpy(&ours, theirs, std::min(theirs->struct_bytes, sizeof(Struct)));
  return ours;
}

// The least that a caller's struct may have: its bytes in ABI version 2. A field that is appended
// later does not count, so its offset takes the place of sizeof.
constexpr std::size_t kProblemBytes = offsetof(convt_problem_t, dynamic);
constexpr std::size_t kOptionsBytes = sizeof(convt_options_t);
constexpr std::size_t kRunArgumentsBytes = offsetof(convt_run_arguments_t, input_lengths);
constexpr std::size_t kStatisticsBytes = sizeof(convt_cache_statistics_t);

// The enums of C have the values of their C++ counterparts.
static_assert(CONVT_U8 == static_cast<int>(convt::DataType::u8));
static_assert(CONVT_MATH_BF16 == static_cast<int>(convt::MathMode::bf16));
static_assert(CONVT_STEP_SNAKE == static_cast<int>(convt::StepKind::snake));
static_assert(CONVT_STEP_SNAKE + 1 == convt::kStepKinds);
static_assert(CONVT_MAX_STEPS == convt::kMaxSteps);

convt::EpilogueStep to_step(const convt_step_t& c) {
  return {static_cast<convt::StepKind>(c.kind), c.alpha, c.beta};
}

convt_step_t from_step(const convt::EpilogueStep& step) {
  return {static_cast<std::int32_t>(step.kind), step.alpha, step.beta};
}

convt_problem_t from_problem(const convt::Problem& problem) {
  convt_problem_t c{};
  c.struct_bytes = sizeof c;
  c.rank = problem.rank;
  c.has_bias = problem.bias ? 1 : 0;
  c.data_type = static_cast<std::int32_t>(problem.dtype);
  c.dst_data_type = static_cast<std::int32_t>(problem.dst_dtype);
  c.math_mode = static_cast<std::int32_t>(problem.math_mode);
  c.layout = problem.layout == convt::Layout::nhwc ? CONVT_NHWC : CONVT_NCHW;
  c.in_channels = problem.in_channels;
  c.out_channels = problem.out_channels;
  c.groups = problem.groups;
  c.src_channel_pitch = problem.src_channel_pitch;
  c.dst_channel_pitch = problem.dst_channel_pitch;
  c.residual_channel_pitch = problem.residual_channel_pitch;
  c.has_input_activation = problem.input_activation ? 1 : 0;
  if (problem.input_activation) c.input_activation = from_step(*problem.input_activation);
  for (const convt::EpilogueStep& step : problem.epilogue) {
    c.steps[c.step_count++] = from_step(step);  // valid: at most kMaxSteps
  }
  c.src_zero_point = problem.src_zero_point;
  c.dst_zero_point = problem.dst_zero_point;
  c.dst_scale = problem.dst_scale;
  for (std::size_t a = 0; a < convt::kMaxRank; ++a) {
    const convt::Axis& axis = problem.axes[a];
    c.axes[a] = {axis.input,      axis.kernel, axis.stride,   axis.dilation,
                 axis.crop_begin, axis.output, axis.zero_tail};
    c.dynamic[a] = axis.dynamic ? 1 : 0;
  }
  return c;
}

/// What a C++ enum would not hold, or not say by its C name.
std::optional<Error> check_range(const char* name, std::int32_t value, std::int32_t count) {
  if (value >= 0 && value < count) return std::nullopt;
  return bad("problem." + std::string(name) + ": " + std::to_string(value) + " is unknown");
}

std::optional<Error> check_enums(const convt_problem_t& c) {
  if (auto error = check_range("data_type", c.data_type, CONVT_U8 + 1)) return error;
  if (auto error = check_range("dst_data_type", c.dst_data_type, CONVT_U8 + 1)) return error;
  if (auto error = check_range("math_mode", c.math_mode, CONVT_MATH_BF16 + 1)) return error;
  if (auto error = check_range("layout", c.layout, CONVT_NHWC + 1)) return error;
  const std::pair<const char*, std::int32_t> flags[] = {
      {"has_bias", c.has_bias},
      {"has_input_activation", c.has_input_activation},
      {"dynamic[0]", c.dynamic[0]},
      {"dynamic[1]", c.dynamic[1]},
      {"dynamic[2]", c.dynamic[2]}};
  for (const auto& [name, value] : flags) {
    if (value != 0 && value != 1) {
      return bad("problem." + std::string(name) + ": " + std::to_string(value) +
                 ", must be 0 or 1");
    }
  }
  if (c.step_count < 0 || c.step_count > CONVT_MAX_STEPS) {
    return bad("problem.step_count: " + std::to_string(c.step_count) + ", must be from 0 to " +
               std::to_string(CONVT_MAX_STEPS));
  }
  for (std::int32_t i = 0; i < c.step_count; ++i) {
    const std::string name = "steps[" + std::to_string(i) + "].kind";
    if (auto error = check_range(name.c_str(), c.steps[i].kind, convt::kStepKinds)) return error;
  }
  if (c.has_input_activation == 0) return std::nullopt;
  return check_range("input_activation.kind", c.input_activation.kind, convt::kStepKinds);
}

convt::Result<convt::Problem> to_problem(const convt_problem_t* theirs) {
  const auto c = import_struct(theirs, from_problem({}), kProblemBytes, "problem");
  if (!c.ok()) return c.error();
  if (c->rank < 1 || c->rank > CONVT_MAX_RANK) {
    return bad("problem.rank: " + std::to_string(c->rank) + ", must be 1, 2 or 3");
  }
  if (auto error = check_enums(*c)) return *error;
  convt::Problem problem;
  problem.rank = c->rank;
  problem.bias = c->has_bias == 1;
  problem.dtype = static_cast<convt::DataType>(c->data_type);
  problem.dst_dtype = static_cast<convt::DataType>(c->dst_data_type);
  problem.math_mode = static_cast<convt::MathMode>(c->math_mode);
  problem.layout = c->layout == CONVT_NHWC ? convt::Layout::nhwc : convt::Layout::nchw;
  problem.in_channels = c->in_channels;
  problem.out_channels = c->out_channels;
  problem.groups = c->groups;
  problem.src_channel_pitch = c->src_channel_pitch;
  problem.dst_channel_pitch = c->dst_channel_pitch;
  problem.residual_channel_pitch = c->residual_channel_pitch;
  if (c->has_input_activation == 1) problem.input_activation = to_step(c->input_activation);
  for (std::int32_t i = 0; i < c->step_count; ++i) problem.epilogue.push_back(to_step(c->steps[i]));
  problem.src_zero_point = c->src_zero_point;
  problem.dst_zero_point = c->dst_zero_point;
  problem.dst_scale = c->dst_scale;
  for (std::size_t a = 0; a < static_cast<std::size_t>(c->rank); ++a) {
    const convt_axis_t& axis = c->axes[a];
    problem.axes[a] = {axis.input,      axis.kernel, axis.stride,   axis.dilation,
                       axis.crop_begin, axis.output, axis.zero_tail};
    problem.axes[a].dynamic = c->dynamic[a] == 1;
  }
  return problem;
}

convt::Result<convt::Options> to_options(const convt_options_t* theirs) {
  convt::Options options;
  if (theirs == nullptr) return options;
  const auto c =
      import_struct(theirs, convt_options_t CONVT_OPTIONS_INIT, kOptionsBytes, "options");
  if (!c.ok()) return c.error();
  if (c->backend < CONVT_BACKEND_AUTOMATIC || c->backend > CONVT_BACKEND_LLVM) {
    return bad("options.backend: " + std::to_string(c->backend) + " is unknown");
  }
  options.backend = static_cast<convt::Backend>(c->backend);
  options.strict = c->strict != 0;
  if (c->plan != nullptr) options.plan = c->plan;
  if (c->isa != nullptr) options.isa = c->isa;
  options.expected_batch = c->expected_batch;
  return options;
}

/// The caller's parallel_for, as a C++ one calls it.
struct CallerLoop {
  convt_parallel_for_t function;
  void* context;

  void operator()(int tasks, convt::Task task) const {
    function(context, tasks, task.function(), task.context());
  }
};

}  // namespace

extern "C" {

int convt_abi_version(void) { return CONVT_ABI_VERSION; }
const char* convt_version(void) { return CONVT_VERSION_STRING; }
const char* convt_last_error(void) { return last_error().c_str(); }

convt_status_t convt_step_parse(const char* text, convt_step_t* step) {
  return guarded([&]() -> Status {
    if (text == nullptr) return bad("text: null");
    if (step == nullptr) return bad("step: null");
    const convt::Result<convt::EpilogueStep> parsed = convt::parse_step(text);
    if (!parsed.ok()) return parsed.error();
    *step = from_step(*parsed);
    return convt::ok_status();
  });
}

convt_status_t convt_problem_init(convt_problem_t* problem, int rank) {
  return guarded([&]() -> Status {
    if (problem == nullptr) return bad("problem: null");
    if (rank < 1 || rank > CONVT_MAX_RANK) {
      return bad("rank: " + std::to_string(rank) + ", must be 1, 2 or 3");
    }
    convt::Problem defaults;
    defaults.rank = rank;
    *problem = from_problem(defaults);
    return convt::ok_status();
  });
}

convt_status_t convt_problem_parse(const char* text, convt_problem_t* problem) {
  return guarded([&]() -> Status {
    if (text == nullptr) return bad("text: null");
    if (problem == nullptr) return bad("problem: null");
    const convt::Result<convt::Problem> parsed = convt::parse_problem(text);
    if (!parsed.ok()) return parsed.error();
    *problem = from_problem(*parsed);
    return convt::ok_status();
  });
}

convt_status_t convt_problem_validate(const convt_problem_t* problem) {
  return guarded([&]() -> Status {
    const convt::Result<convt::Problem> converted = to_problem(problem);
    if (!converted.ok()) return converted.error();
    return convt::validate(*converted);
  });
}

convt_status_t convt_compile(const convt_problem_t* problem, const convt_options_t* options,
                             convt_kernel_t** kernel) {
  return guarded([&]() -> Status {
    if (kernel == nullptr) return bad("kernel: null");
    *kernel = nullptr;
    const convt::Result<convt::Problem> layer = to_problem(problem);
    if (!layer.ok()) return layer.error();
    const convt::Result<convt::Options> how = to_options(options);
    if (!how.ok()) return how.error();
    convt::Result<convt::Kernel> compiled = convt::compile(*layer, *how);
    if (!compiled.ok()) return compiled.error();
    std::string report = compiled->info().to_text();
    *kernel = new convt_kernel{std::move(*compiled), std::move(report)};
    return convt::ok_status();
  });
}

void convt_kernel_destroy(convt_kernel_t* kernel) { delete kernel; }

const char* convt_kernel_plan(const convt_kernel_t* kernel) {
  return kernel == nullptr ? "" : kernel->kernel.info().plan.c_str();
}
const char* convt_kernel_report(const convt_kernel_t* kernel) {
  return kernel == nullptr ? "" : kernel->report.c_str();
}
const char* convt_kernel_backend(const convt_kernel_t* kernel) {
  return kernel == nullptr ? "" : kernel->kernel.info().backend.c_str();
}
const char* convt_kernel_symbol(const convt_kernel_t* kernel) {
  return kernel == nullptr ? "" : kernel->kernel.info().symbol.c_str();
}
size_t convt_kernel_code_bytes(const convt_kernel_t* kernel) {
  return kernel == nullptr ? 0 : kernel->kernel.info().code_bytes;
}
double convt_kernel_compile_us(const convt_kernel_t* kernel) {
  return kernel == nullptr ? 0 : kernel->kernel.info().times.total_us;
}

size_t convt_weights_count(const convt_kernel_t* kernel) {
  return kernel == nullptr ? 0 : static_cast<size_t>(kernel->kernel.problem().weights_count());
}
int convt_parameter_rows(const convt_kernel_t* kernel) {
  return kernel == nullptr ? 0 : kernel->kernel.problem().parameter_rows();
}
size_t convt_packed_weights_bytes(const convt_kernel_t* kernel) {
  return kernel == nullptr ? 0 : kernel->kernel.packed_weights_bytes();
}

convt_status_t convt_pack(const convt_kernel_t* kernel, const void* canonical, size_t count,
                          void* packed, size_t packed_bytes) {
  return guarded([&]() -> Status {
    if (kernel == nullptr) return bad("kernel: null");
    const auto view = kernel->kernel.pack_into(canonical, count, packed, packed_bytes);
    if (!view.ok()) return view.error();
    return convt::ok_status();
  });
}

size_t convt_workspace_bytes(const convt_kernel_t* kernel, int threads, int64_t batch) {
  return kernel == nullptr ? 0 : kernel->kernel.workspace_bytes(threads, batch);
}

convt_status_t convt_run(const convt_kernel_t* kernel, const convt_run_arguments_t* arguments) {
  return guarded([&]() -> Status {
    if (kernel == nullptr) return bad("kernel: null");
    const auto c = import_struct(arguments, convt_run_arguments_t CONVT_RUN_ARGUMENTS_INIT,
                                 kRunArgumentsBytes, "arguments");
    if (!c.ok()) return c.error();
    const CallerLoop loop{c->parallel_for, c->parallel_for_context};
    convt::RunArguments run{
        .batch = c->batch,
        .input_lengths = {c->input_lengths[0], c->input_lengths[1], c->input_lengths[2]},
        .src = c->src,
        .weights = {c->weights, c->weights_bytes},
        .bias = c->bias,
        .parameters = c->parameters,
        .input_parameters = c->input_parameters,
        .residual = c->residual,
        .dst = c->dst,
        .threads = c->threads,
        .workspace = c->workspace,
        .workspace_bytes = c->workspace_bytes};
    if (c->parallel_for != nullptr) run.parallel_for = convt::ParallelFor(loop);
    return kernel->kernel.run(run);
  });
}

convt_status_t convt_cache_get_statistics(convt_cache_statistics_t* statistics) {
  return guarded([&]() -> Status {
    const auto theirs =
        import_struct(statistics, convt_cache_statistics_t{}, kStatisticsBytes, "statistics");
    if (!theirs.ok()) return theirs.error();
    const convt::CacheStatistics s = convt::Runtime::instance().statistics();
    const convt_cache_statistics_t ours{theirs->struct_bytes, s.hits,      s.misses,  s.compiles,
                                        s.failures,           s.evictions, s.kernels, s.bytes,
                                        s.executable_bytes};
    std::memcpy(statistics, &ours, std::min(theirs->struct_bytes, sizeof ours));
    return convt::ok_status();
  });
}

void convt_cache_clear(void) {
  guarded([]() -> Status {
    convt::Runtime::instance().clear();
    return convt::ok_status();
  });
}

}  // extern "C"
