#!/usr/bin/env bash
# Installs the Debian packages that convt is built from, if any is missing. Sourced or called by
# demo.sh and test.sh; harmless to run again. Elsewhere than on Debian or Ubuntu it only warns.
set -euo pipefail

packages=(
  g++ cmake ninja-build pkg-config
  libxbyak-dev        # the assembler of the backend for AVX-512
  llvm-19-dev         # the backend for everything else
  libpthreadpool-dev  # the default thread pool
  libxxhash-dev       # checksums of kernels on disk
  libsqlite3-dev      # the database of tuned plans
  nlohmann-json3-dev  # layers files
  libcli11-dev libfmt-dev libpng-dev libzip-dev libzydis-dev  # the convt command
  libgtest-dev libgmock-dev librapidcheck-dev      # the tests
  gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user  # ... and those of code for 64-bit ARM
  python3 python3-dev python3-venv                 # the Python package
)

if ! command -v dpkg-query > /dev/null; then
  echo "setup: no dpkg here; make sure that these are installed: ${packages[*]}" >&2
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null || true)
  [[ $state == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo > /dev/null; then
    echo "setup: run as root, or install sudo; missing: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "setup: installing ${missing[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -q --no-install-recommends "${missing[@]}"
