/* Runs the stages of Programs on the memory that a file holds: stage_driver <file>. Compiled and
 * run by llvm_arm64_test for another machine; stages.h, which it writes, has CONVT_STAGES(X):
 * X(symbol) for each stage.
 *
 * The file: the count of jobs; of each the batch, the offsets of the memory (0: null) in the order
 * of the pointers of Args, the number of its first stage, how many there are, and the items of
 * each. All are 64-bit integers.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "stages.h"

typedef struct Args {
  const void *src, *weights, *bias;
  void *dst, *workspace;
  int64_t batch;
  void *staged_src, *staged_dst;
  const void *residual, *parameters, *input_parameters;
} Args;

#define DECLARE(name) void name(const Args*, int64_t, int64_t);
CONVT_STAGES(DECLARE)
#define ENTRY(name) name,
static void (*const kStages[])(const Args*, int64_t, int64_t) = {CONVT_STAGES(ENTRY)};

int main(int argc, char** argv) {
  struct stat about;
  char* base;
  const int64_t* at;
  int64_t jobs;
  const int file = argc == 2 ? open(argv[1], O_RDWR) : -1;
  if (file < 0 || fstat(file, &about) != 0) return 2;
  base = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (base == MAP_FAILED) return 2;
  at = (const int64_t*)base;
  for (jobs = *at++; jobs > 0; --jobs) {
    const int64_t batch = *at++;
    void* memory[10];
    int64_t i, first, count;
    Args args;
    for (i = 0; i < 10; ++i, ++at) memory[i] = *at == 0 ? NULL : base + *at;
    args.src = memory[0];
    args.weights = memory[1];
    args.bias = memory[2];
    args.dst = memory[3];
    args.workspace = memory[4];
    args.batch = batch;
    args.staged_src = memory[5];
    args.staged_dst = memory[6];
    args.residual = memory[7];
    args.parameters = memory[8];
    args.input_parameters = memory[9];
    first = *at++;
    count = *at++;
    for (i = 0; i < count; ++i) kStages[first + i](&args, 0, *at++);
  }
  return 0;
}
