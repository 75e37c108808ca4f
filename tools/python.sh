#!/usr/bin/env bash
# Builds the Python package next to the C++ libraries of build/release and runs its tests.
#   tools/python.sh [--with-torch] [arguments of pytest]
#   tools/python.sh [--with-torch] --setup
#                   only the virtual environment, build/python, and what it needs from PyPI
# --with-torch installs PyTorch, ONNX Runtime and mypy, too, without which tests are skipped.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
requirements=("nanobind>=2.9" "scikit-build-core>=0.11" "numpy>=1.23" "pytest>=7"
  "ml_dtypes>=0.3" "onnx>=1.16")
# PyTorch: the version that the tests were written against.
more=("torch==2.13.0" "onnxruntime>=1.20" "mypy>=1.10")

with_torch=0
if [[ ${1-} == --with-torch ]]; then
  with_torch=1
  shift
fi

# Debian's own where there are any: others first in PATH may be shims.
python=/usr/bin/python3 cmake=/usr/bin/cmake make_program=()
[[ -x $python ]] || python=python3
[[ -x $cmake ]] || cmake=cmake
[[ -x /usr/bin/ninja ]] && make_program=(-DCMAKE_MAKE_PROGRAM=/usr/bin/ninja)

venv=$PWD/build/python
if [[ ! -x $venv/bin/pip ]]; then
  "$python" -m venv "$venv"
fi
wanted=$(printf '%s\n' "${requirements[@]}")
if [[ $(cat "$venv/requirements.txt" 2> /dev/null) != "$wanted" ]]; then
  if ! "$venv/bin/pip" install --quiet --disable-pip-version-check "${requirements[@]}"; then
    echo "python.sh: pip could not install ${requirements[*]} (see above); is PyPI in reach?" >&2
    exit 1
  fi
  printf '%s\n' "$wanted" > "$venv/requirements.txt"
fi
# Not among the requirements: once there, they stay for runs without the option.
if ((with_torch)) && ! "$venv/bin/python" -c 'import torch, onnxruntime, mypy' 2> /dev/null; then
  if ! "$venv/bin/pip" install --quiet --disable-pip-version-check "${more[@]}"; then
    echo "python.sh: pip could not install ${more[*]} (see above); is PyPI in reach?" >&2
    exit 1
  fi
fi
[[ ${1-} == --setup ]] && exit

"$cmake" --preset release "${make_program[@]}" -DCONVT_PYTHON=ON \
  -DPython_EXECUTABLE="$venv/bin/python" > build/python.configure.log 2>&1 || {
  cat build/python.configure.log >&2
  exit 1
}
"$cmake" --build build/release -j "$(nproc)" --target convt_python_package
CONVT_CACHE=off PYTHONPATH=$PWD/build/release/python exec "$venv/bin/python" -m pytest -q -rs "$@"
