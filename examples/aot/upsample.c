/* An application with kernels compiled ahead of time: two layers, a picture from 16x16 features.
 * It links the archive that `convt compile` made of layers.jsonl, and nothing else of convt. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "example_kernels.h"

enum { kMostThreads = 16 };

/* A parallel loop of the application's own. */
typedef struct {
  convt_aot_task task;
  void* data;
  int index;
} Job;

static void* run_job(void* pointer) {
  Job* job = (Job*)pointer;
  job->task(job->data, job->index);
  return NULL;
}

static void parallel_for(void* context, int tasks, convt_aot_task task, void* data) {
  pthread_t threads[kMostThreads];
  Job jobs[kMostThreads];
  int i, started = 0;
  (void)context;
  for (i = 1; i < tasks; ++i) {
    jobs[i].task = task;
    jobs[i].data = data;
    jobs[i].index = i;
    if (pthread_create(&threads[i], NULL, run_job, &jobs[i]) != 0) break;
    started = i;
  }
  task(data, 0);
  for (i = started + 1; i < tasks; ++i) task(data, i); /* those that got no thread */
  for (i = 1; i <= started; ++i) pthread_join(threads[i], NULL);
}

/* Memory of 64-byte alignment; numbers between -0.1 and 0.1. */
static void* allocate(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

static float* make_floats(size_t count) {
  static unsigned state = 1;
  float* values = (float*)allocate(count * sizeof(float));
  size_t i;
  for (i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    values[i] = ((float)(state >> 8) / 8388608.0f - 1.0f) * 0.1f;
  }
  return values;
}

/* One output element of the second layer, as the definition says. */
static double expected(const float* x, const float* w, const float* bias, int co, int oh, int ow) {
  double sum = bias[co];
  int ci, kh, kw;
  for (ci = 0; ci < 32; ++ci) {
    for (kh = 0; kh < 4; ++kh) {
      for (kw = 0; kw < 4; ++kw) {
        const int ih = oh + 1 - kh, iw = ow + 1 - kw; /* stride 2, padding 1 */
        if (ih % 2 != 0 || iw % 2 != 0 || ih < 0 || iw < 0 || ih / 2 >= 32 || iw / 2 >= 32)
          continue;
        sum += (double)x[(ci * 32 + ih / 2) * 32 + iw / 2] * w[((ci * 3 + co) * 4 + kh) * 4 + kw];
      }
    }
  }
  return tanh(sum);
}

static int check(int status, const char* what) {
  if (status != CONVT_AOT_OK) fprintf(stderr, "%s: %s\n", what, convt_aot_status_text(status));
  return status != CONVT_AOT_OK;
}

int main(void) {
  const int threads = 4;
  float* const x = make_floats(64 * 16 * 16);
  float* const w1 = make_floats(64 * 32 * 4 * 4);
  float* const w2 = make_floats(32 * 3 * 4 * 4);
  float* const bias = make_floats(32);
  float* const features = make_floats(32 * 32 * 32);
  float* const picture = make_floats(3 * 64 * 64);
  void* const packed1 = allocate(up1_packed_bytes());
  void* const packed2 = allocate(up2_packed_bytes());
  void* const workspace1 = allocate(up1_workspace_bytes(1, 1));
  void* const workspace2 = allocate(up2_workspace_bytes(threads, 1));
  double worst = 0;
  int i;

  if (convt_aot_target(CONVT_AOT_ABI, &up1_layer) == NULL) {
    printf("skipped: the archive has no kernel for this CPU\n");
    return 77;
  }
  printf("kernels for %s\n", convt_aot_target(CONVT_AOT_ABI, &up1_layer));
  if (check(up1_pack(w1, packed1), "up1_pack") || check(up2_pack(w2, packed2), "up2_pack"))
    return 1;
  if (check(up1_run(x, packed1, bias, features, 1, workspace1), "up1_run")) return 1;
  if (check(up2_run_parallel(features, packed2, bias, picture, 1, workspace2, threads, parallel_for,
                             NULL),
            "up2_run_parallel")) {
    return 1;
  }
  for (i = 0; i < 3 * 64 * 64; i += 61) {
    const double error =
        fabs(picture[i] - expected(features, w2, bias, i / 4096, i / 64 % 64, i % 64));
    if (!(error <= worst)) worst = error;
  }
  printf("picture of 64x64, greatest error %.1e\n", worst);
  free(x), free(w1), free(w2), free(bias), free(features), free(picture);
  free(packed1), free(packed2), free(workspace1), free(workspace2);
  return worst < 1e-5 ? 0 : 1;
}
