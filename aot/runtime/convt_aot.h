/* What kernels compiled ahead of time need at run time: choose the code for this CPU, pack weights,
 * run. Plain C11; nothing else of convt is needed, no memory is allocated, none is made executable.
 * Headers that `convt compile` writes contain this text; its implementation is in the archive. */
#ifndef CONVT_AOT_H
#define CONVT_AOT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define CONVT_AOT_EXTERN extern "C"
extern "C" {
#else
#define CONVT_AOT_EXTERN extern
#endif

/* Changes when archives of another version cannot be run. Checked by every call. */
#define CONVT_AOT_ABI 1

/* Results of calls: 0, or what was refused (before any byte was written). */
enum convt_aot_status {
  CONVT_AOT_OK = 0,
  CONVT_AOT_BAD_ABI,        /* header, archive and runtime are of different versions */
  CONVT_AOT_NO_KERNEL,      /* the archive has nothing that this CPU can run */
  CONVT_AOT_NULL_POINTER,   /* src, weights or dst; or one that the layer needs */
  CONVT_AOT_UNUSED_POINTER, /* given, but the layer has no use for it */
  CONVT_AOT_BAD_BATCH,      /* negative, or a tensor of 2^40 bytes */
  CONVT_AOT_BAD_THREADS,    /* below 1 */
  CONVT_AOT_BAD_WEIGHTS,    /* not packed, or packed for another layer or CPU */
  CONVT_AOT_BAD_WORKSPACE,  /* too small, or not 64-byte aligned */
  CONVT_AOT_OVERLAP         /* dst shares bytes with another argument */
};
const char* convt_aot_status_text(int status);

/* One layer: its code for one CPU or several, and what there is to know about it. */
typedef struct convt_aot_layer convt_aot_layer;

/* A parallel loop of the caller's: calls task(data, 0) ... task(data, tasks - 1), each once, in any
 * order, on any threads, and returns when all have returned. */
typedef void (*convt_aot_task)(void* data, int index);
typedef void (*convt_aot_parallel_for)(void* context, int tasks, convt_aot_task task, void* data);

typedef struct convt_aot_arguments {
  int64_t batch;
  const void* src;
  const void* weights; /* packed */
  const void* bias;    /* this one to residual: null where the layer has none */
  const float* parameters;
  const float* input_parameters;
  const void* residual; /* may be dst */
  void* dst;
  void* workspace; /* 64-byte aligned; may be null if workspace_bytes is 0 */
  size_t workspace_bytes;
  int threads;                         /* at most so many tasks */
  convt_aot_parallel_for parallel_for; /* null: the caller's thread does it all */
  void* context;                       /* for parallel_for */
} convt_aot_arguments;

/* `abi` is CONVT_AOT_ABI. The sizes are 0 where there is no kernel for this CPU. */
size_t convt_aot_packed_bytes(uint32_t abi, const convt_aot_layer* layer);
size_t convt_aot_workspace_bytes(uint32_t abi, const convt_aot_layer* layer, int threads,
                                 int64_t batch);
/* Packs canonical weights, row-major (Cin, Cout/g, K...), into packed_bytes() bytes (64-byte
 * alignment is fastest). They may be stored: run() refuses what was packed for another CPU's plan.
 */
int convt_aot_pack(uint32_t abi, const convt_aot_layer* layer, const void* weights, void* packed);
/* Weights that were packed into the archive, or null. */
const void* convt_aot_weights(uint32_t abi, const convt_aot_layer* layer);
/* Re-entrant. Bit for bit the same result whatever the number of threads. */
int convt_aot_run(uint32_t abi, const convt_aot_layer* layer, const convt_aot_arguments* arguments);
/* The target whose code this CPU runs, or null. */
const char* convt_aot_target(uint32_t abi, const convt_aot_layer* layer);

#ifdef __cplusplus
}
#endif

#endif
