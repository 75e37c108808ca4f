/* convt in C (C99): transposed convolution, compiled just in time for each layer.
 *
 *     convt_problem_t problem;
 *     convt_problem_init(&problem, 2);
 *     problem.in_channels = 64; ... problem.axes[0] = (convt_axis_t){16, 4, 2, 1, 1, 32, 0}; ...
 *     convt_kernel_t* kernel = NULL;
 *     if (convt_compile(&problem, NULL, &kernel)) die(convt_last_error());
 *     void* packed = aligned_alloc(64, ...convt_packed_weights_bytes(kernel)...);
 *     convt_pack(kernel, weights, weights_count, packed, packed_bytes);
 *     convt_run_arguments_t run = CONVT_RUN_ARGUMENTS_INIT;
 *     run.src = x; run.weights = packed; run.weights_bytes = packed_bytes; run.dst = y;
 *     convt_run(kernel, &run);
 *     convt_kernel_destroy(kernel);
 *
 * Every function that can fail returns a convt_status_t; the message of this thread's last failure
 * is convt_last_error(). No C++ exception leaves. All functions may be called from any threads at
 * once. Sizes named _bytes are bytes, all others count elements.
 */
#ifndef CONVT_CONVT_H_
#define CONVT_CONVT_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when this header changes so that programs must be compiled anew. Fields may be appended to
 * structs without it: each struct says how large its user believes it to be. */
#define CONVT_ABI_VERSION 2

/* CONVT_ABI_VERSION of the library in use. */
int convt_abi_version(void);

/* Version of the library, "major.minor.patch". */
const char* convt_version(void);

typedef enum convt_status {
  CONVT_OK = 0,
  CONVT_INVALID_ARGUMENT =
      1,                 /* the caller's input is wrong; the message names what, and its value */
  CONVT_UNSUPPORTED = 2, /* legal, but not offered here */
  CONVT_OUT_OF_MEMORY = 3,
  CONVT_IO = 4,
  CONVT_INTERNAL = 5 /* a defect of convt */
} convt_status_t;

/* Message of the last call on this thread that did not return CONVT_OK; "" before the first. Valid
 * until the next failing call on this thread. */
const char* convt_last_error(void);

/* ---- Problems ----------------------------------------------------------------------------------
 */

#define CONVT_MAX_RANK 3

typedef enum convt_layout {
  CONVT_NCHW = 0, /* channels first: x (N, Cin, I...), y (N, Cout, O...) */
  CONVT_NHWC = 1  /* channels last:  x (N, I..., Cin), y (N, O..., Cout) */
} convt_layout_t;

/* 16-bit types are passed as their bit patterns. */
typedef enum convt_data_type {
  CONVT_F32 = 0,
  CONVT_F16 = 1,
  CONVT_BF16 = 2,
  CONVT_S8 = 3,
  CONVT_U8 = 4
} convt_data_type_t;

/* How float32 tensors are multiplied. */
typedef enum convt_math_mode {
  CONVT_MATH_STRICT = 0, /* in float32 */
  CONVT_MATH_BF16 = 1    /* inputs and weights rounded to bfloat16 first; sums in float32 */
} convt_math_mode_t;

/* What happens to an output v after the bias, in float32. Rows come from
 * convt_run_arguments_t.parameters. alpha and beta are 0 where a kind has no use for them. */
typedef enum convt_step_kind {
  CONVT_STEP_SCALE_SHIFT = 0,  /* v * scale[c] + shift[c] (two rows): a batch norm */
  CONVT_STEP_ADD = 1,          /* v + alpha * (residual - beta) */
  CONVT_STEP_RELU = 2,         /* max(v, 0) */
  CONVT_STEP_LEAKY_RELU = 3,   /* v < 0 ? alpha * v : v */
  CONVT_STEP_PRELU = 4,        /* v < 0 ? slope[c] * v : v (one row) */
  CONVT_STEP_ELU = 5,          /* v < 0 ? alpha * (exp(v) - 1) : v */
  CONVT_STEP_CLIP = 6,         /* min(max(v, alpha), beta) */
  CONVT_STEP_SIGMOID = 7,      /* 1 / (1 + exp(-v)) */
  CONVT_STEP_TANH = 8,         /* tanh(v) */
  CONVT_STEP_GELU_ERF = 9,     /* v/2 * (1 + erf(v / sqrt(2))) */
  CONVT_STEP_GELU_TANH = 10,   /* v/2 * (1 + tanh(sqrt(2/pi) * (v + 0.044715 * v^3))) */
  CONVT_STEP_SILU = 11,        /* v * sigmoid(v) */
  CONVT_STEP_HARDSWISH = 12,   /* v * min(max(v + 3, 0), 6) / 6 */
  CONVT_STEP_HARDSIGMOID = 13, /* min(max(alpha * v + beta, 0), 1) */
  CONVT_STEP_SOFTPLUS = 14,    /* log(1 + exp(v)) */
  CONVT_STEP_SNAKE = 15        /* v + sin(a[c] * v)^2 / a[c] (one row) */
} convt_step_kind_t;

typedef struct convt_step {
  int32_t kind; /* convt_step_kind_t */
  float alpha;
  float beta;
} convt_step_t;

#define CONVT_MAX_STEPS 8

/* Reads "relu", "leaky_relu:0.1", "clip:0:6" and the like; constants that have usual values may be
 * left out. Errors: UNSUPPORTED for an unknown name, INVALID_ARGUMENT for wrong constants or null
 * pointers. */
convt_status_t convt_step_parse(const char* text, convt_step_t* step);

/* One spatial axis. Output o takes tap k of input i when o = i*stride + k*dilation - crop_begin;
 * the kernel is not flipped. With a framework's padding p and output padding op: crop_begin = p,
 * and output = (input-1)*stride + (kernel-1)*dilation + 1 - 2*p + op. */
typedef struct convt_axis {
  int64_t input;
  int64_t kernel;
  int64_t stride;
  int64_t dilation;
  int64_t crop_begin;
  int64_t output;
  int64_t zero_tail; /* count of trailing outputs that are exactly 0, bias not added; mostly 0 */
} convt_axis_t;

/* One layer. Set by convt_problem_init() first. */
typedef struct convt_problem {
  size_t struct_bytes; /* sizeof(convt_problem_t), set by convt_problem_init() */
  int32_t rank;        /* 1 to 3 */
  int32_t has_bias;    /* 0 or 1 */
  int32_t data_type;   /* convt_data_type_t of x and, but for CONVT_U8, the weights: then s8 */
  int32_t layout;      /* convt_layout_t */
  int64_t in_channels;
  int64_t out_channels;
  int64_t groups;
  convt_axis_t
      axes[CONVT_MAX_RANK]; /* outermost (d, h, w order) first; those past rank are ignored */
  int64_t
      src_channel_pitch; /* channels of the tensor that x is a channel slice of; 0: x is dense */
  int64_t dst_channel_pitch;      /* same of y */
  int64_t residual_channel_pitch; /* same of what CONVT_STEP_ADD reads */
  int32_t dst_data_type; /* convt_data_type_t of y and the residual: CONVT_F32 or data_type; s8 and
                            u8 go with either of them */
  int32_t math_mode;     /* convt_math_mode_t */
  int32_t has_input_activation;  /* 0 or 1 */
  convt_step_t input_activation; /* LEAKY_RELU or SNAKE, applied to x before the products */
  int32_t step_count;            /* 0 to CONVT_MAX_STEPS */
  convt_step_t
      steps[CONVT_MAX_STEPS]; /* the epilogue, in order; those past step_count are ignored */
  int32_t src_zero_point;     /* what stands for 0 in an s8 or u8 x */
  int32_t dst_zero_point;     /* s8 or u8 y: v / dst_scale + dst_zero_point, rounded and clamped */
  float dst_scale;
  int32_t dynamic[CONVT_MAX_RANK]; /* 0 or 1 an axis: 1: each run says its length, and `input` is
                                      the one that the plan is chosen for; output - input*stride is
                                      the same for all lengths */
  int32_t reserved;                /* 0 */
} convt_problem_t;

/* One channel, one group, every axis one element with one tap; f32, nchw, no bias, no steps.
 * Errors: INVALID_ARGUMENT if problem is null or rank is not 1 to 3. */
convt_status_t convt_problem_init(convt_problem_t* problem, int rank);

/* Reads the text form ("r2 ic512 oc256 g1 i4x4 k4x4 s2x2 d1x1 b1x1 o8x8 z0x0 bias0 f32 nchw xp0
 * yp0") and validates it. Errors: INVALID_ARGUMENT, what was expected and where; those of
 * convt_problem_validate(). */
convt_status_t convt_problem_parse(const char* text, convt_problem_t* problem);

/* Checks every field and derived size. Errors, which name parameter, value and axis:
 * INVALID_ARGUMENT for what makes no sense; UNSUPPORTED beyond a limit (kernel and stride 2^20,
 * other lengths and channels 2^40, each tensor below 2^40 bytes). */
convt_status_t convt_problem_validate(const convt_problem_t* problem);

/* ---- Kernels -----------------------------------------------------------------------------------
 */

typedef enum convt_backend {
  CONVT_BACKEND_AUTOMATIC =
      0,                   /* machine code where this machine can run it, else the interpreter */
  CONVT_BACKEND_XBYAK = 1,       /* machine code for AVX-512, or an error */
  CONVT_BACKEND_INTERPRETER = 2, /* same arithmetic, slowly */
  CONVT_BACKEND_LLVM = 3         /* machine code by way of LLVM, or an error */
} convt_backend_t;

typedef struct convt_options {
  size_t struct_bytes;    /* sizeof(convt_options_t) */
  int32_t backend;        /* convt_backend_t */
  int32_t strict;         /* 1: refuse plans with under 25% useful lanes */
  const char* plan;       /* plan to use, as convt_kernel_plan() prints it; null: convt chooses */
  const char* isa;        /* target to compile for ("avx2", "x86-64-v4", ...); null: this machine */
  int64_t expected_batch; /* images a run will mostly have, at least 1; any batch may be run */
} convt_options_t;

#define CONVT_OPTIONS_INIT \
  { sizeof(convt_options_t), CONVT_BACKEND_AUTOMATIC, 0, NULL, NULL, 1 }

/* A compiled layer: immutable, usable from any threads at once. */
typedef struct convt_kernel convt_kernel_t;

/* Compiles `problem`, or finds it in the process-wide cache (which keeps 64 MiB of code). `options`
 * may be null for the defaults. On success *kernel is a handle for convt_kernel_destroy(); on
 * failure it is null. Errors: INVALID_ARGUMENT, UNSUPPORTED (beyond a limit, no plan fits, strict
 * refuses the best one, CONVT_BACKEND_XBYAK without AVX-512, CONVT_BACKEND_LLVM without LLVM),
 * OUT_OF_MEMORY, INTERNAL. */
convt_status_t convt_compile(const convt_problem_t* problem, const convt_options_t* options,
                             convt_kernel_t** kernel);

/* Gives a handle back; null is fine. No run may be under way through it. */
void convt_kernel_destroy(convt_kernel_t* kernel);

/* Texts about a kernel, alive as long as its handle; "" if kernel is null.
 * plan: what options.plan takes. report: several lines for people: the plan, why it was chosen,
 * what was rejected with predicted times, backend, sizes, compile times. backend: "xbyak",
 * "llvm", "interpreter". symbol: convt_<family>_<layer>_<isa>_<hash>. */
const char* convt_kernel_plan(const convt_kernel_t* kernel);
const char* convt_kernel_report(const convt_kernel_t* kernel);
const char* convt_kernel_backend(const convt_kernel_t* kernel);
const char* convt_kernel_symbol(const convt_kernel_t* kernel);

/* Bytes of machine code and constants; 0 for the interpreter or a null kernel. */
size_t convt_kernel_code_bytes(const convt_kernel_t* kernel);

/* Microseconds that the compilation took. */
double convt_kernel_compile_us(const convt_kernel_t* kernel);

/* ---- Weights -----------------------------------------------------------------------------------
 */

/* Elements of the canonical weights (Cin, Cout/groups, K...), row-major. 0 if kernel is null. */
size_t convt_weights_count(const convt_kernel_t* kernel);

/* Rows of convt_run_arguments_t.parameters: with an s8 or u8 x one of scales, by which sums are
 * multiplied, then those of the steps. 0 if kernel is null. */
int convt_parameter_rows(const convt_kernel_t* kernel);

/* Bytes of the packed weights. 0 if kernel is null. */
size_t convt_packed_weights_bytes(const convt_kernel_t* kernel);

/* Packs canonical weights, convt_weights_count() elements of the weights' type, into `packed`,
 * convt_packed_weights_bytes() bytes of any alignment (64 is fastest). The result begins with a
 * 64-byte header that names its layout; it may be copied and stored. Errors: INVALID_ARGUMENT if a
 * pointer is null, count is not the layer's, or packed_bytes is too small. */
convt_status_t convt_pack(const convt_kernel_t* kernel, const void* canonical, size_t count,
                          void* packed, size_t packed_bytes);

/* ---- Running -----------------------------------------------------------------------------------
 */

/* One task of a run. */
typedef void (*convt_task_t)(void* task_context, int index);

/* A parallel loop of the caller's: calls task(task_context, i) for each i in [0, tasks) once, in
 * any order, on any threads, also one after the other, and returns when all have returned. */
typedef void (*convt_parallel_for_t)(void* context, int tasks, convt_task_t task,
                                     void* task_context);

typedef struct convt_run_arguments {
  size_t struct_bytes; /* sizeof(convt_run_arguments_t) */
  int64_t batch;       /* images N; 0 does nothing */
  const void* src;     /* x, in the problem's layout and element type, any alignment */
  const void* weights; /* packed */
  size_t weights_bytes;
  const void* bias; /* (Cout), float32, if the problem has a bias, else null */
  void* dst;        /* y; may share no byte with the others, but see residual */
  int32_t threads;  /* at most so many, the caller's included; 0: the CPUs this process may use;
                       the result does not depend on it */
  convt_parallel_for_t parallel_for; /* null: convt's own pool */
  void* parallel_for_context;
  void* workspace; /* 64-byte aligned, unused by others meanwhile; null: the kernel's own */
  size_t workspace_bytes;
  const float* parameters;       /* (convt_parameter_rows(), Cout); null if there are no rows */
  const float* input_parameters; /* (1, Cin) with an input activation SNAKE, else null */
  const void* residual;          /* of y's shape and type, if there is a CONVT_STEP_ADD, else null;
                                    may be y itself, with the same pitch */
  int64_t input_lengths[CONVT_MAX_RANK]; /* of x along dynamic axes; 0: the problem's own */
} convt_run_arguments_t;

#define CONVT_RUN_ARGUMENTS_INIT                                                               \
  {                                                                                            \
    sizeof(convt_run_arguments_t), 1, NULL, NULL, 0, NULL, NULL, 0, NULL, NULL, NULL, 0, NULL, \
        NULL, NULL, {                                                                          \
      0, 0, 0                                                                                  \
    }                                                                                          \
  }

/* Bytes of workspace that let a run of `batch` images use `threads` threads; 0 for most kernels. */
size_t convt_workspace_bytes(const convt_kernel_t* kernel, int threads, int64_t batch);

/* Computes y. Re-entrant; machine code allocates nothing unless it is refused, lengths of dynamic
 * axes are new to the kernel (it then takes some ten microseconds more), or a larger batch than
 * ever needs workspace of the kernel's own. Errors, before a byte is written: INVALID_ARGUMENT if a
 * pointer is missing (or one given that the layer has no use for), batch or threads are negative, a
 * length is too short or of an axis that is not dynamic, weights are packed for another layout, y
 * overlaps an input, or the workspace is too small or misaligned; UNSUPPORTED if batch makes a
 * tensor of 2^40 bytes.
 */
convt_status_t convt_run(const convt_kernel_t* kernel, const convt_run_arguments_t* arguments);

/* ---- The process-wide cache --------------------------------------------------------------------
 */

typedef struct convt_cache_statistics {
  size_t struct_bytes; /* sizeof(convt_cache_statistics_t), set by the caller */
  uint64_t hits;
  uint64_t misses;
  uint64_t compiles;
  uint64_t failures;
  uint64_t evictions;
  uint64_t kernels;          /* kept now */
  uint64_t bytes;            /* kept now */
  uint64_t executable_bytes; /* in use in executable memory, by evicted kernels too */
} convt_cache_statistics_t;

/* Errors: INVALID_ARGUMENT if statistics is null or its struct_bytes is not plausible. */
convt_status_t convt_cache_get_statistics(convt_cache_statistics_t* statistics);

/* Forgets all kernels; handles stay usable. */
void convt_cache_clear(void);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* CONVT_CONVT_H_ */
