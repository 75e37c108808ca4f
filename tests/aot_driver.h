/* What a test and a program that links nothing but an archive say to each other: a file that both
 * map. Offsets are bytes from its beginning; 0: no such tensor. C and C++. */
#ifndef CONVT_TESTS_AOT_DRIVER_H
#define CONVT_TESTS_AOT_DRIVER_H

#include <stdint.h>

typedef struct AotJob {
  int64_t batch;
  int64_t threads;
  uint64_t src, weights, packed, bias, parameters, input_parameters, residual, dst;
  uint64_t packed_room; /* bytes at `packed` */
  /* The program's answers. */
  int64_t status; /* of the first call that failed; -1: packed_room is too small */
  uint64_t packed_bytes;
  char target[64];
} AotJob;

#endif
