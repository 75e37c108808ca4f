/* The program that links only an archive: aot_driver <layer> <file> packs and runs one layer on the
 * tensors in the file. aot_layers.h (made by the test) has CONVT_TEST_LAYERS(X): X(name) for each.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "aot_driver.h"
#include "aot_layers.h"
#include "kernels.h"

#define ENTRY(name) {#name, &name##_layer},
static const struct {
  const char* name;
  const convt_aot_layer* layer;
} kLayers[] = {CONVT_TEST_LAYERS(ENTRY)};

/* The last task first: no task may depend on another. */
static void run_backwards(void* context, int tasks, convt_aot_task task, void* data) {
  (void)context;
  while (tasks-- > 0) task(data, tasks);
}

static const void* at(const AotJob* job, uint64_t offset) {
  return offset == 0 ? NULL : (const char*)job + offset;
}

static int run(const convt_aot_layer* layer, AotJob* job) {
  convt_aot_arguments a;
  const int threads = (int)job->threads;
  const size_t workspace = convt_aot_workspace_bytes(CONVT_AOT_ABI, layer, threads, job->batch);
  const char* target = convt_aot_target(CONVT_AOT_ABI, layer);
  char* packed = (char*)job + job->packed;
  int status;
  if (target != NULL) strncpy(job->target, target, sizeof job->target - 1);
  job->packed_bytes = convt_aot_packed_bytes(CONVT_AOT_ABI, layer);
  if (job->packed_bytes > job->packed_room) return -1;
  status = convt_aot_pack(CONVT_AOT_ABI, layer, at(job, job->weights), packed);
  if (status != CONVT_AOT_OK) return status;
  memset(&a, 0, sizeof a);
  a.batch = job->batch;
  a.src = at(job, job->src);
  a.weights = packed;
  a.bias = at(job, job->bias);
  a.parameters = (const float*)at(job, job->parameters);
  a.input_parameters = (const float*)at(job, job->input_parameters);
  a.residual = at(job, job->residual);
  a.dst = (char*)job + job->dst;
  a.workspace = workspace == 0 ? NULL : aligned_alloc(64, (workspace + 63) / 64 * 64);
  a.workspace_bytes = workspace;
  a.threads = threads;
  a.parallel_for = threads > 1 ? run_backwards : NULL;
  status = convt_aot_run(CONVT_AOT_ABI, layer, &a);
  free(a.workspace);
  return status;
}

int main(int argc, char** argv) {
  struct stat about;
  void* memory;
  size_t i;
  const int file = argc == 3 ? open(argv[2], O_RDWR) : -1;
  if (file < 0 || fstat(file, &about) != 0) return 2;
  memory = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) return 2;
  for (i = 0; i < sizeof kLayers / sizeof kLayers[0]; ++i) {
    if (strcmp(kLayers[i].name, argv[1]) != 0) continue;
    ((AotJob*)memory)->status = run(kLayers[i].layer, (AotJob*)memory);
    return 0;
  }
  fprintf(stderr, "no layer %s\n", argv[1]);
  return 2;
}
