#include <convt/epilogue.hpp>

namespace convt {

int EpilogueStep::parameter_rows() const {
  switch (kind) {
    case StepKind::scale_shift:
      return 2;
    case StepKind::prelu:
    case StepKind::snake:
      return 1;
    default:
      return 0;
  }
}

}  // namespace convt
