"""Transposed convolution in 1, 2 and 3 dimensions, compiled just in time for each layer.

y = convt.conv_transpose2d(x, w, b, stride=2, padding=1)       # NumPy arrays

problem = convt.Problem(in_channels=64, out_channels=32, input=(16, 16), kernel=4, stride=2,
                        padding=1)
kernel = convt.compile(problem)                                # once
packed = kernel.pack(w)                                        # once per set of weights
y = kernel.run(x, packed)                                      # often, from any threads
"""

from ._convt import (
    CompileTimes,
    Kernel,
    KernelInfo,
    PackedWeights,
    PlanCandidate,
    Problem,
    TunedLayer,
    TuningResult,
    cache_clear,
    cache_statistics,
    compile,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    export_tuned,
    import_tuned,
    tune,
)
from ._convt import version as __version__
from .distributed import tune_distributed

__all__ = [
    "CompileTimes",
    "Kernel",
    "KernelInfo",
    "PackedWeights",
    "PlanCandidate",
    "Problem",
    "TunedLayer",
    "TuningResult",
    "__version__",
    "cache_clear",
    "cache_statistics",
    "compile",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "export_tuned",
    "import_tuned",
    "tune",
    "tune_distributed",
]
