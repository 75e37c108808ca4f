#!/usr/bin/env bash
# From a bare Debian 12 to a tested convt; exits non-zero if anything failed.
#   tools/test.sh               build, unit tests, real layers against the reference, Python package
#   tools/test.sh --sanitizers  besides, chosen tests under ASan + UBSan, and under TSan
#   tools/test.sh --full        besides both, all tests under ASan + UBSan, and every element of
#                               every real layer and every float32 of every activation instead of
#                               a sample
#   tools/test.sh --with-torch  besides, PyTorch and ONNX Runtime in build/python and their tests
set -uo pipefail

# Tests worth a sanitizer's time: those that move memory by hand ...
asan_tests=(packing_test reference_test interpreter_test xbyak_test runtime_test disk_cache_test)
# ... and those where threads meet.
tsan_tests=(runtime_test threads_test cache_test disk_cache_test)

full=0
sanitizers=0
python_options=()
for argument in "$@"; do
  case $argument in
    --full) full=1 sanitizers=1 ;;
    --sanitizers) sanitizers=1 ;;
    --with-torch) python_options=(--with-torch) ;;
    -h | --help)
      sed -n '2,8s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *)
      echo "test.sh: unknown argument '$argument' (see --help)" >&2
      exit 2
      ;;
  esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# Debian's own CMake and Ninja where there are any: another one first in PATH may be a shim.
find_tools() {
  cmake=/usr/bin/cmake ctest=/usr/bin/ctest make_program=()
  [[ -x $cmake && -x $ctest ]] || cmake=cmake ctest=ctest
  [[ -x /usr/bin/ninja ]] && make_program=(-DCMAKE_MAKE_PROGRAM=/usr/bin/ninja)
  jobs=$(nproc)

  # ThreadSanitizer of this compiler's age dies where the kernel randomises addresses by 32 bits;
  # without randomisation it runs. (Some containers forbid changing it: then as it comes.)
  no_aslr=()
  setarch "$(uname -m)" -R true 2> /dev/null && no_aslr=(setarch "$(uname -m)" -R)
}

failures=()

# step <title> <command...>: runs it, reports how long it took, remembers a failure.
step() {
  local title=$1 start=$SECONDS status=0
  shift
  printf '\n== %s\n' "$title"
  "$@" || status=$?
  if ((status == 0)); then
    printf -- '-- %s: ok, %ds\n' "$title" $((SECONDS - start))
  else
    printf -- '-- %s: FAILED (status %d), %ds\n' "$title" "$status" $((SECONDS - start))
    failures+=("$title")
  fi
  return "$status"
}

finish() {
  echo
  if ((${#failures[@]} == 0)); then
    echo "test.sh: all passed, ${SECONDS}s"
    exit 0
  fi
  printf 'test.sh: FAILED: %s\n' "${failures[@]}"
  exit 1
}

# build <preset> [target...]
build() {
  local preset=$1
  shift
  "$cmake" --preset "$preset" "${make_program[@]}" > "build/$preset.configure.log" 2>&1 || {
    cat "build/$preset.configure.log"
    return 1
  }
  "$cmake" --build "build/$preset" -j "$jobs" ${1+--target "$@"}
}

# run_tests <preset> [ctest arguments...]
run_tests() {
  local preset=$1 prefix=()
  shift
  [[ $preset == tsan ]] && prefix=("${no_aslr[@]}")
  "${prefix[@]}" "$ctest" --test-dir "build/$preset" -j "$jobs" --output-on-failure --no-tests=error \
    --progress "$@"
}

# sanitize <preset> <test...>: builds and runs those of the tests that exist.
sanitize() {
  local preset=$1 present=() name labels
  shift
  for name in "$@"; do
    [[ -f tests/$name.cpp ]] && present+=("$name")
  done
  ((${#present[@]})) || return 0
  labels=$(IFS='|' && echo "^(${present[*]})\$")
  step "build $preset" build "$preset" "${present[@]}" &&
    step "tests under $preset" run_tests "$preset" -L "$labels"
}

step "packages" tools/setup-debian.sh || finish
find_tools
mkdir -p build

step "build release" build release || finish
# Tests may try everything where they otherwise take a sample; not under sanitizers, which are slow.
if ((full)); then export CONVT_TEST_FULL=1; fi
step "tests" run_tests release
unset CONVT_TEST_FULL

convt=build/release/tools/convt
layers=bench/layers/real.jsonl
if [[ -x $convt && -f $layers ]]; then
  every_element=()
  ((full)) && every_element=(--full)
  for layout in nchw nhwc; do
    step "real layers, $layout" "$convt" verify --layers "$layers" --ignore-post \
      --layout "$layout" --threads 2 "${every_element[@]}"
  done
else
  printf '\n== real layers: SKIPPED, no %s or no %s\n' "$convt" "$layers"
fi

step "Python package" tools/python.sh "${python_options[@]}"

if ((full)); then
  step "build asan-ubsan" build asan-ubsan && step "tests under asan-ubsan" run_tests asan-ubsan
elif ((sanitizers)); then
  sanitize asan-ubsan "${asan_tests[@]}"
fi
if ((sanitizers)); then
  sanitize tsan "${tsan_tests[@]}"
fi

finish
