/* Runs kernels compiled ahead of time. What the runtime of the just-in-time compiler does
 * (runtime/run.cpp, compiler/packing/packing.cpp), without planning, memory or threads of its own.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "convt_aot.h"
#include "descriptor.h"

typedef convt_aot_layer Layer;
typedef convt_aot_variant Variant;

enum { kAlignment = 64, kHeaderBytes = 64, kChunksPerTask = 4 };
static const double kTaskMicroseconds = 10; /* predicted work that is worth a task of its own */

/* ---- The CPU ---- */

#if defined(__x86_64__)

typedef struct {
  unsigned a, b, c, d;
} Registers;

static Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r = {0, 0, 0, 0};
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
  return r;
}

static int has(unsigned word, unsigned bits) { return (word & bits) == bits; }

/* Which register states the operating system saves. */
static unsigned saved_states(void) {
  unsigned low = 0, high = 0;
  if (!has(cpuid(1, 0).c, 1u << 27)) return 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

static uint64_t detect(void) {
  const unsigned v3_leaf1 = 1u << 12 | 1u << 22 | 1u << 28 | 1u << 29; /* FMA MOVBE AVX F16C */
  const unsigned v3_leaf7 = 1u << 3 | 1u << 5 | 1u << 8;               /* BMI1 AVX2 BMI2 */
  const unsigned lzcnt = 1u << 5;
  const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;
  const unsigned states = saved_states();
  const Registers leaf7 = cpuid(7, 0);
  uint64_t features = 0;
  if (!has(cpuid(1, 0).c, v3_leaf1) || !has(leaf7.b, v3_leaf7) ||
      !has(cpuid(0x80000001u, 0).c, lzcnt) || !has(states, 0x6)) {
    return 0;
  }
  features = CONVT_AOT_X86_V3;
  if (!has(leaf7.b, avx512) || !has(states, 0xe6)) return features;
  features |= CONVT_AOT_X86_AVX512;
  if (has(leaf7.c, 1u << 11)) features |= CONVT_AOT_X86_VNNI;
  if (leaf7.a >= 1 && has(cpuid(7, 1).a, 1u << 5)) features |= CONVT_AOT_X86_BF16;
  return features;
}

#elif defined(__aarch64__)

static uint64_t detect(void) {
  uint64_t features = CONVT_AOT_ARM_NEON;
#if defined(__linux__)
  const unsigned long i8mm = 1ul << 13; /* HWCAP2_I8MM */
  if (getauxval(AT_HWCAP2) & i8mm) features |= CONVT_AOT_ARM_I8MM;
#elif defined(__ARM_FEATURE_MATMUL_INT8)
  features |= CONVT_AOT_ARM_I8MM;
#endif
  return features;
}

#else

static uint64_t detect(void) { return 0; }

#endif

/* The environment may take away, as from the just-in-time compiler: CONVT_MAX_ISA (scalar, avx2),
 * CONVT_DISABLE (bf16,vnni). */
static uint64_t allowed(void) {
  const char* cap = getenv("CONVT_MAX_ISA");
  const char* disabled = getenv("CONVT_DISABLE");
  uint64_t features = ~(uint64_t)0;
  if (cap != NULL && strcmp(cap, "avx2") == 0) features = CONVT_AOT_X86_V3;
  if (cap != NULL && strcmp(cap, "scalar") == 0) features = 0;
  if (disabled != NULL && strstr(disabled, "bf16") != NULL)
    features &= ~(uint64_t)CONVT_AOT_X86_BF16;
  if (disabled != NULL && strstr(disabled, "vnni") != NULL)
    features &= ~(uint64_t)CONVT_AOT_X86_VNNI;
  return features;
}

static uint64_t cpu_features(void) {
  static _Atomic uint64_t known = 0;
  const uint64_t is_known = (uint64_t)1 << 63;
  uint64_t features = atomic_load_explicit(&known, memory_order_relaxed);
  if (features == 0) {
    features = is_known | (detect() & allowed());
    atomic_store_explicit(&known, features, memory_order_relaxed);
  }
  return features & ~is_known;
}

static int choose_variant(uint32_t abi, const Layer* layer, const Variant** chosen) {
  uint32_t i;
  *chosen = NULL;
  if (abi != CONVT_AOT_ABI || layer->abi != CONVT_AOT_ABI) return CONVT_AOT_BAD_ABI;
  for (i = 0; i < layer->variant_count; ++i) {
    const Variant* variant = &layer->variants[i];
    if ((variant->features & ~cpu_features()) != 0) continue;
    *chosen = variant;
    return CONVT_AOT_OK;
  }
  return CONVT_AOT_NO_KERNEL;
}

/* ---- Packed weights: a header of 64 bytes, then words (runtime/packed_weights.hpp) ---- */

typedef struct {
  char magic[8];
  uint64_t layout_hash;
  uint64_t payload_bytes;
  uint64_t reserved[5];
} Header;

static Header make_header(const convt_aot_packing* packing) {
  Header header = {{'c', 'o', 'n', 'v', 't', 'p', 'k', '1'}, 0, 0, {0, 0, 0, 0, 0}};
  header.layout_hash = packing->hash;
  header.payload_bytes = packing->words * 4;
  return header;
}

static int is_packed_as(const convt_aot_packing* packing, const void* packed) {
  const Header expected = make_header(packing);
  return memcmp(&expected, packed, 24) == 0;
}

static float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/* Exact. */
static float decode_f16(uint16_t bits) {
  const uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
  const uint32_t exponent = bits >> 10 & 0x1f;
  const uint32_t fraction = bits & 0x3ff;
  if (exponent == 0x1f) {
    return float_of(sign | 0x7f800000u | (fraction != 0 ? 0x400000u : 0));
  }
  if (exponent == 0) {
    const float magnitude = (float)fraction * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

/* To nearest, ties to even. */
static uint16_t encode_bf16(float value) {
  const uint32_t bits = bits_of(value);
  if (value != value) return (bits >> 31) != 0 ? 0xffc0 : 0x7fc0;
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float load_weight(int32_t type, const void* weights, size_t index) {
  uint16_t half;
  float value;
  if (type == CONVT_AOT_F32) {
    memcpy(&value, (const char*)weights + 4 * index, 4);
    return value;
  }
  memcpy(&half, (const char*)weights + 2 * index, 2);
  return type == CONVT_AOT_F16 ? decode_f16(half) : float_of((uint32_t)half << 16);
}

static void add_to_word(char* word, int32_t addend) {
  int32_t value;
  memcpy(&value, word, 4);
  value += addend;
  memcpy(word, &value, 4);
}

/* Weight `index`, input channel `within` of those that share the word. */
static void pack_weight(const convt_aot_packing* p, const void* weights, size_t index, char* word,
                        int64_t within, char* correction) {
  if (p->channels_a_word == 4) {
    const int8_t weight = ((const int8_t*)weights)[index];
    memcpy(word + within, &weight, 1);
    if (p->zero_point != 0) add_to_word(correction, -p->zero_point * weight);
    return;
  }
  float weight = p->canonical == CONVT_AOT_S8 ? (float)((const int8_t*)weights)[index]
                                              : load_weight(p->canonical, weights, index);
  if (p->channels_a_word == 2) {
    const uint16_t half = encode_bf16(weight);
    memcpy(word + 2 * within, &half, 2);
    return;
  }
  if (p->rounds_to_bf16) weight = float_of((uint32_t)encode_bf16(weight) << 16);
  memcpy(word, &weight, 4);
}

static void pack_words(const convt_aot_packing* p, const void* weights, char* packed) {
  size_t index = 0;
  int64_t group, channel, oc, t;
  memset(packed, 0, p->words * 4);
  for (group = 0; group < p->groups; ++group) {
    for (channel = 0; channel < p->channels; ++channel) {
      const uint64_t ic = (uint64_t)(channel / p->channels_a_word);
      const uint64_t block = ic / (uint64_t)p->ic_block, in_block = ic % (uint64_t)p->ic_block;
      for (oc = 0; oc < p->oc; ++oc) {
        const uint64_t first = (uint64_t)p->group_offset[group] + p->oc_offset[oc];
        for (t = 0; t < p->tap_count; ++t) {
          const convt_aot_tap tap = p->taps[t];
          const uint64_t block0 = first + tap.offset;
          pack_weight(p, weights, index++,
                      packed + 4 * (block0 + in_block + block * tap.ic_block_step),
                      channel % p->channels_a_word,
                      packed + 4 * (block0 + (uint64_t)p->ic_blocks * tap.ic_block_step));
        }
      }
    }
  }
}

/* ---- Arguments ---- */

/* `pieces` pieces of piece_bytes bytes, `period` bytes apart. */
typedef struct {
  uintptr_t base;
  uint64_t piece_bytes, period, pieces;
} Region;

static Region region_of(const void* data, convt_aot_tensor tensor, int64_t batch) {
  Region region;
  region.base = (uintptr_t)data;
  region.piece_bytes = (uint64_t)tensor.piece_bytes;
  region.period = (uint64_t)tensor.period;
  region.pieces = (uint64_t)tensor.pieces * (uint64_t)batch;
  return region;
}

static uint64_t end_of(const Region* r) {
  return r->base + (r->pieces - 1) * r->period + r->piece_bytes;
}

/* As overlap() of runtime/region.hpp: slices of one larger tensor may interleave. */
static int meet(Region a, Region b) {
  uint64_t distance;
  if (a.base >= end_of(&b) || b.base >= end_of(&a)) return 0;
  if (a.period != b.period || (a.pieces == 1 && b.pieces == 1)) return 1;
  distance = (b.base % a.period + a.period - a.base % a.period) % a.period;
  return distance < a.piece_bytes || distance + b.piece_bytes > a.period;
}

static int meets_bytes(Region dst, const void* data, int64_t bytes) {
  Region other;
  other.base = (uintptr_t)data;
  other.piece_bytes = other.period = (uint64_t)bytes;
  other.pieces = 1;
  return bytes != 0 && meet(dst, other);
}

static int check_pointer(const void* pointer, int needed) {
  if (needed && pointer == NULL) return CONVT_AOT_NULL_POINTER;
  return !needed && pointer != NULL ? CONVT_AOT_UNUSED_POINTER : CONVT_AOT_OK;
}

static int check_pointers(const Layer* layer, const convt_aot_arguments* a) {
  const struct {
    const void* pointer;
    int needed;
  } pointers[] = {{a->src, 1},
                  {a->dst, 1},
                  {a->weights, 1},
                  {a->bias, layer->bias_bytes != 0},
                  {a->parameters, layer->parameter_bytes != 0},
                  {a->input_parameters, layer->input_parameter_bytes != 0},
                  {a->residual, layer->has_residual != 0}};
  size_t i;
  for (i = 0; i < sizeof pointers / sizeof pointers[0]; ++i) {
    const int status = check_pointer(pointers[i].pointer, pointers[i].needed);
    if (status != CONVT_AOT_OK) return status;
  }
  return CONVT_AOT_OK;
}

static int overlaps(const Layer* layer, const Variant* variant, const convt_aot_arguments* a) {
  const Region dst = region_of(a->dst, layer->dst, a->batch);
  const int in_place = a->residual == a->dst && layer->residual.period == layer->dst.period;
  if (meet(dst, region_of(a->src, layer->src, a->batch))) return 1;
  if (meets_bytes(dst, a->weights, (int64_t)(kHeaderBytes + 4 * variant->packing->words))) return 1;
  if (meets_bytes(dst, a->bias, layer->bias_bytes)) return 1;
  if (meets_bytes(dst, a->parameters, layer->parameter_bytes)) return 1;
  if (meets_bytes(dst, a->input_parameters, layer->input_parameter_bytes)) return 1;
  return a->residual != NULL && !in_place &&
         meet(dst, region_of(a->residual, layer->residual, a->batch));
}

/* ---- Running ---- */

static uint64_t whole_lines(uint64_t bytes, int64_t batch) {
  return (bytes * (uint64_t)batch + kAlignment - 1) / kAlignment * kAlignment;
}

static uint64_t staged_bytes(const Variant* variant, int64_t batch) {
  return whole_lines(variant->staged_src, batch) + whole_lines(variant->staged_dst, batch);
}

static int check_workspace(const Variant* variant, const convt_aot_arguments* a) {
  const uint64_t needed = staged_bytes(variant, a->batch) + variant->slice_bytes;
  if (needed == 0) return CONVT_AOT_OK;
  if (a->workspace == NULL) return CONVT_AOT_NULL_POINTER;
  return a->workspace_bytes < needed || (uintptr_t)a->workspace % kAlignment != 0
             ? CONVT_AOT_BAD_WORKSPACE
             : CONVT_AOT_OK;
}

/* Rounding and denormals as the caller has them, also on threads that help. */
#if defined(__x86_64__)
typedef unsigned FloatEnvironment;
static FloatEnvironment float_environment(void) { return _mm_getcsr(); }
static void set_float_environment(FloatEnvironment environment) { _mm_setcsr(environment); }
#elif defined(__aarch64__)
typedef uint64_t FloatEnvironment;
static FloatEnvironment float_environment(void) {
  uint64_t fpcr;
  __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
  return fpcr;
}
static void set_float_environment(FloatEnvironment environment) {
  __asm__ volatile("msr fpcr, %0" : : "r"(environment));
}
#else
typedef int FloatEnvironment;
static FloatEnvironment float_environment(void) { return 0; }
static void set_float_environment(FloatEnvironment environment) { (void)environment; }
#endif

/* One stage of a run. */
typedef struct {
  const convt_aot_stage* stage;
  convt_aot_args args; /* workspace: the first task's */
  uint64_t slice_bytes;
  int64_t items;
  int tasks;
  FloatEnvironment environment;
  _Atomic int64_t next; /* first item that nobody has taken */
} StageRun;

static void run_task(StageRun* run, int index) {
  convt_aot_args args = run->args;
  const int64_t share = run->items / ((int64_t)run->tasks * kChunksPerTask);
  const int64_t chunk = share < 1 ? 1 : share;
  if (run->slice_bytes != 0)
    args.workspace = (char*)args.workspace + (uint64_t)index * run->slice_bytes;
  if (run->tasks == 1) {
    run->stage->entry(&args, 0, run->items);
    return;
  }
  for (;;) {
    const int64_t begin = atomic_fetch_add_explicit(&run->next, chunk, memory_order_relaxed);
    if (begin >= run->items) return;
    run->stage->entry(&args, begin, begin + chunk < run->items ? begin + chunk : run->items);
  }
}

static void run_parallel_task(void* data, int index) {
  StageRun* run = (StageRun*)data;
  const FloatEnvironment threads_own = float_environment();
  set_float_environment(run->environment);
  run_task(run, index);
  set_float_environment(threads_own);
}

/* No more than threads, items, workspaces, or work. */
static int choose_tasks(const Variant* variant, const convt_aot_arguments* a, int64_t items) {
  const double worth = variant->predicted_us * (double)a->batch / kTaskMicroseconds;
  int64_t tasks = a->parallel_for == NULL ? 1 : a->threads;
  if (worth < (double)tasks) tasks = (int64_t)worth;
  if (variant->slice_bytes != 0) {
    const uint64_t slices =
        (a->workspace_bytes - staged_bytes(variant, a->batch)) / variant->slice_bytes;
    if (slices < (uint64_t)(tasks < 1 ? 1 : tasks)) tasks = (int64_t)slices;
  }
  if (tasks > items) tasks = items;
  return tasks < 1 ? 1 : (int)tasks;
}

static int64_t count_items(const convt_aot_stage* stage, int64_t batch) {
  int64_t items = stage->fixed_items;
  int i;
  for (i = 0; i < CONVT_AOT_BATCH_AXES; ++i) {
    const int64_t block = stage->batch_blocks[i];
    if (block != 0) items *= (batch + block - 1) / block;
  }
  return items;
}

static void run_stage(const Variant* variant, const convt_aot_stage* stage,
                      const convt_aot_args* args, const convt_aot_arguments* a) {
  StageRun run;
  run.stage = stage;
  run.args = *args;
  run.slice_bytes = variant->slice_bytes;
  run.items = count_items(stage, a->batch);
  run.tasks = choose_tasks(variant, a, run.items);
  run.environment = float_environment();
  atomic_init(&run.next, 0);
  if (run.tasks == 1) {
    run_task(&run, 0);
  } else {
    a->parallel_for(a->context, run.tasks, run_parallel_task, &run);
  }
}

static convt_aot_args make_args(const Variant* variant, const convt_aot_arguments* a) {
  convt_aot_args args;
  char* workspace = (char*)a->workspace;
  memset(&args, 0, sizeof args);
  args.src = a->src;
  args.weights = (const char*)a->weights + kHeaderBytes;
  args.bias = a->bias;
  args.dst = a->dst;
  args.batch = a->batch;
  args.residual = a->residual;
  args.parameters = a->parameters;
  args.input_parameters = a->input_parameters;
  if (workspace == NULL) return args;
  args.staged_src = workspace;
  args.staged_dst = workspace + whole_lines(variant->staged_src, a->batch);
  args.workspace = workspace + staged_bytes(variant, a->batch);
  return args;
}

/* ---- The interface ---- */

const char* convt_aot_status_text(int status) {
  switch (status) {
    case CONVT_AOT_OK:
      return "ok";
    case CONVT_AOT_BAD_ABI:
      return "header, archive and runtime are of different versions";
    case CONVT_AOT_NO_KERNEL:
      return "the archive has no kernel for this CPU";
    case CONVT_AOT_NULL_POINTER:
      return "a pointer that the layer needs is null";
    case CONVT_AOT_UNUSED_POINTER:
      return "a pointer is given that the layer has no use for";
    case CONVT_AOT_BAD_BATCH:
      return "the batch is negative or too large";
    case CONVT_AOT_BAD_THREADS:
      return "threads is below 1";
    case CONVT_AOT_BAD_WEIGHTS:
      return "the weights are not packed for this layer and CPU";
    case CONVT_AOT_BAD_WORKSPACE:
      return "the workspace is too small or not 64-byte aligned";
    case CONVT_AOT_OVERLAP:
      return "dst overlaps another argument";
    default:
      return "unknown status";
  }
}

size_t convt_aot_packed_bytes(uint32_t abi, const Layer* layer) {
  const Variant* variant;
  if (choose_variant(abi, layer, &variant) != CONVT_AOT_OK) return 0;
  return kHeaderBytes + 4 * variant->packing->words;
}

size_t convt_aot_workspace_bytes(uint32_t abi, const Layer* layer, int threads, int64_t batch) {
  const Variant* variant;
  if (choose_variant(abi, layer, &variant) != CONVT_AOT_OK) return 0;
  return staged_bytes(variant, batch < 0 ? 0 : batch) +
         variant->slice_bytes * (uint64_t)(threads < 1 ? 1 : threads);
}

const char* convt_aot_target(uint32_t abi, const Layer* layer) {
  const Variant* variant;
  return choose_variant(abi, layer, &variant) == CONVT_AOT_OK ? variant->target : NULL;
}

const void* convt_aot_weights(uint32_t abi, const Layer* layer) {
  const Variant* variant;
  return choose_variant(abi, layer, &variant) == CONVT_AOT_OK ? variant->weights : NULL;
}

int convt_aot_pack(uint32_t abi, const Layer* layer, const void* weights, void* packed) {
  const Variant* variant;
  Header header;
  const int status = choose_variant(abi, layer, &variant);
  if (status != CONVT_AOT_OK) return status;
  if (weights == NULL || packed == NULL) return CONVT_AOT_NULL_POINTER;
  header = make_header(variant->packing);
  memcpy(packed, &header, sizeof header);
  pack_words(variant->packing, weights, (char*)packed + kHeaderBytes);
  return CONVT_AOT_OK;
}

int convt_aot_run(uint32_t abi, const Layer* layer, const convt_aot_arguments* a) {
  const Variant* variant;
  convt_aot_args args;
  uint64_t i;
  int status = choose_variant(abi, layer, &variant);
  if (status != CONVT_AOT_OK) return status;
  if (a->batch < 0 || a->batch > layer->max_batch) return CONVT_AOT_BAD_BATCH;
  if (a->threads < 1) return CONVT_AOT_BAD_THREADS;
  if (a->batch == 0) return CONVT_AOT_OK;
  status = check_pointers(layer, a);
  if (status != CONVT_AOT_OK) return status;
  if (!is_packed_as(variant->packing, a->weights)) return CONVT_AOT_BAD_WEIGHTS;
  if (overlaps(layer, variant, a)) return CONVT_AOT_OVERLAP;
  status = check_workspace(variant, a);
  if (status != CONVT_AOT_OK) return status;
  args = make_args(variant, a);
  for (i = 0; i < variant->stage_count; ++i) run_stage(variant, &variant->stages[i], &args, a);
  return CONVT_AOT_OK;
}
