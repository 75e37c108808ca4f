/* The form of a convt_aot_layer in memory: what `convt compile` writes into archives and
 * convt_aot.c reads. C and C++. Any change is a change of CONVT_AOT_ABI. */
#ifndef CONVT_AOT_DESCRIPTOR_H
#define CONVT_AOT_DESCRIPTOR_H

#include <stdint.h>

/* What a CPU must have, in convt_aot_variant.features. */
#define CONVT_AOT_X86_V3 0x1u     /* AVX2, FMA and the rest of x86-64-v3 */
#define CONVT_AOT_X86_AVX512 0x2u /* F, CD, BW, DQ, VL */
#define CONVT_AOT_X86_VNNI 0x4u   /* AVX512_VNNI */
#define CONVT_AOT_X86_BF16 0x8u   /* AVX512_BF16 */
#define CONVT_AOT_ARM_NEON 0x100u
#define CONVT_AOT_ARM_I8MM 0x200u

/* Args of compiler/program/abi.hpp. */
typedef struct convt_aot_args {
  const void* src;
  const void* weights;
  const void* bias;
  void* dst;
  void* workspace;
  int64_t batch;
  void* staged_src;
  void* staged_dst;
  const void* residual;
  const float* parameters;
  const float* input_parameters;
} convt_aot_args;

#define CONVT_AOT_BATCH_AXES 2

/* Its work items: fixed_items times ceil(batch / b) for each b of batch_blocks that is not 0. */
typedef struct convt_aot_stage {
  void (*entry)(const convt_aot_args* args, int64_t begin, int64_t end);
  int64_t fixed_items;
  int64_t batch_blocks[CONVT_AOT_BATCH_AXES];
} convt_aot_stage;

typedef struct convt_aot_tap {
  uint32_t offset;
  uint32_t ic_block_step;
} convt_aot_tap;

/* PackTable and PackedLayout of compiler/packing/packing.hpp. */
typedef struct convt_aot_packing {
  const uint32_t* group_offset;
  const uint32_t* oc_offset;
  const convt_aot_tap* taps;
  uint64_t hash;
  uint64_t words;
  int64_t groups, channels, oc, tap_count; /* of the canonical weights; channels a group */
  int64_t ic_block, ic_blocks;
  int32_t channels_a_word;
  int32_t zero_point;     /* not 0: a block of corrections follows those of ic */
  int32_t canonical;      /* an enum convt_aot_type */
  int32_t rounds_to_bf16; /* though words are float32 */
} convt_aot_packing;

enum convt_aot_type { CONVT_AOT_F32, CONVT_AOT_F16, CONVT_AOT_BF16, CONVT_AOT_S8, CONVT_AOT_U8 };

/* The code for one kind of CPU. */
typedef struct convt_aot_variant {
  const char* target;
  const char* plan;
  const convt_aot_stage* stages;
  const convt_aot_packing* packing;
  const void* weights; /* packed ahead of time, or null */
  uint64_t features;
  uint64_t stage_count;
  uint64_t slice_bytes;            /* workspace of one task, a multiple of 64 */
  uint64_t staged_src, staged_dst; /* bytes of an image in the kernel's own order, or 0 */
  double predicted_us;             /* one image, one thread */
} convt_aot_variant;

/* Where the elements of a tensor are: `pieces` times the batch pieces of piece_bytes bytes, period
 * bytes apart. (A dense tensor is one piece an image.) */
typedef struct convt_aot_tensor {
  int64_t piece_bytes, period, pieces;
} convt_aot_tensor;

struct convt_aot_layer {
  uint32_t abi;
  uint32_t variant_count;
  const convt_aot_variant* variants; /* the first that the CPU can run is taken */
  const char* name;
  const char* problem; /* Problem::to_text() */
  int64_t max_batch;
  convt_aot_tensor src, dst, residual;
  int64_t bias_bytes, parameter_bytes, input_parameter_bytes; /* 0: none */
  int64_t has_residual;
};

#endif
