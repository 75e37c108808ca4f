// Links kernels that convt_add_kernels() made, and not convt.
#include <cstdio>
#include <vector>

#include "kernels.h"

int main() {
  const char* target = convt_aot_target(CONVT_AOT_ABI, &my_up_layer);
  if (target == nullptr) {
    std::puts("the archive has no kernel for this CPU");
    return 0;
  }
  std::vector<float> weights(8 * 4 * 4 * 4, 1), x(8 * 6 * 6, 1), y(4 * 12 * 12);
  std::vector<char> packed(my_up_packed_bytes());
  if (my_up_pack(weights.data(), packed.data()) != CONVT_AOT_OK) return 1;
  if (my_up_run(x.data(), packed.data(), y.data(), 1, nullptr) != CONVT_AOT_OK) return 1;
  std::printf("for %s: %g in a corner, %g in the middle\n", target, y[0], y[6 * 12 + 6]);
  return y[0] == 8 && y[6 * 12 + 6] == 32 ? 0 : 1;
}
