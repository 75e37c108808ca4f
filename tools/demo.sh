#!/usr/bin/env bash
# From a bare Debian 12 to a picture scaled up by machine code made a moment before:
#   tools/demo.sh [arguments of `convt demo`, e.g. photo.png]
set -euo pipefail

# Arguments may be paths seen from where the caller stands, so only the build changes folder.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/tools/setup-debian.sh"

# Debian's own CMake and Ninja where there are any: another one first in PATH may be a shim.
cmake=/usr/bin/cmake
[[ -x $cmake ]] || cmake=cmake
make_program=()
[[ -x /usr/bin/ninja ]] && make_program=(-DCMAKE_MAKE_PROGRAM=/usr/bin/ninja)

(
  cd "$root"
  "$cmake" --preset release "${make_program[@]}" > /dev/null
  "$cmake" --build build/release --target convt_cli
)
exec "$root/build/release/tools/convt" demo "$@"
