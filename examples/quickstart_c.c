/* The C API from end to end: a layer that repeats every input twice, checked. C99. */
#include <convt/convt.h>

#include <stdio.h>
#include <stdlib.h>

static int fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, convt_last_error());
  return 1;
}

int main(void) {
  enum { kChannels = 2, kInput = 5, kOutput = 10 };
  convt_problem_t problem;
  convt_kernel_t* kernel = NULL;
  convt_run_arguments_t run = CONVT_RUN_ARGUMENTS_INIT;
  float x[kChannels * kInput];
  float y[kChannels * kOutput];
  /* (Cin, Cout/groups, K): each channel is its own group, both taps are 1. */
  const float weights[kChannels * 1 * 2] = {1, 1, 1, 1};
  const float bias[kChannels] = {0, 100};
  void* packed;
  size_t packed_bytes;
  int i;

  if (convt_abi_version() != CONVT_ABI_VERSION) return fail("another version of libconvt");

  if (convt_problem_init(&problem, 1) != CONVT_OK) return fail("init");
  problem.in_channels = kChannels;
  problem.out_channels = kChannels;
  problem.groups = kChannels;
  problem.has_bias = 1;
  problem.axes[0].input = kInput;
  problem.axes[0].kernel = 2;
  problem.axes[0].stride = 2;
  problem.axes[0].output = kOutput;
  if (convt_compile(&problem, NULL, &kernel) != CONVT_OK) return fail("compile");
  printf("%s", convt_kernel_report(kernel));

  packed_bytes = convt_packed_weights_bytes(kernel);
  packed = malloc(packed_bytes);
  if (packed == NULL) return 1;
  if (convt_pack(kernel, weights, sizeof weights / sizeof weights[0], packed, packed_bytes) !=
      CONVT_OK) {
    return fail("pack");
  }

  for (i = 0; i < kChannels * kInput; ++i) x[i] = (float)i;
  run.src = x;
  run.weights = packed;
  run.weights_bytes = packed_bytes;
  run.bias = bias;
  run.dst = y;
  if (convt_run(kernel, &run) != CONVT_OK) return fail("run");

  for (i = 0; i < kChannels * kOutput; ++i) {
    const float expected = x[i / 2] + bias[i / kOutput];
    if (y[i] != expected) {
      fprintf(stderr, "y[%d] is %g, not %g\n", i, y[i], expected);
      return 1;
    }
  }
  printf("%d outputs, all as expected\n", kChannels * kOutput);

  /* Misuse is refused with a message that names it. */
  run.src = NULL;
  if (convt_run(kernel, &run) != CONVT_INVALID_ARGUMENT) return 1;
  printf("refused: %s\n", convt_last_error());

  free(packed);
  convt_kernel_destroy(kernel);
  return 0;
}
