#!/usr/bin/env bash
# Installs the build into a fresh folder and builds a user's project against it, by find_package and by pkg-config.
# Usage: consumer_test.sh BUILD_FOLDER COMPILER [COMPILE FLAGS...]
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
build=$1 compiler=$2
shift 2
flags=("$@")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cmake --install "$build" --prefix "$folder/prefix" >"$folder/install.log" || { cat "$folder/install.log"; exit 1; }

echo "find_package"
cmake -S "$here/consumer" -B "$folder/consumer" -DCMAKE_PREFIX_PATH="$folder/prefix" -DCMAKE_CXX_COMPILER="$compiler" \
  -DCMAKE_CXX_FLAGS="${flags[*]}" >"$folder/configure.log" 2>&1 || { cat "$folder/configure.log"; exit 1; }
cmake --build "$folder/consumer" >"$folder/build.log" 2>&1 || { cat "$folder/build.log"; exit 1; }
LD_LIBRARY_PATH=$folder/prefix/lib:${LD_LIBRARY_PATH:-} "$folder/consumer/consumer"

if ! command -v pkg-config >/dev/null; then
  echo "pkg-config is not installed: its half of this test cannot run"
  exit 1
fi
echo "pkg-config"
pc=$(dirname "$(find "$folder/prefix" -name seqccl.pc)")
read -ra options <<<"$(PKG_CONFIG_PATH=$pc:${PKG_CONFIG_PATH:-} pkg-config --cflags --libs seqccl)"
"$compiler" -std=c++20 "${flags[@]}" "$here/consumer/main.cpp" "${options[@]}" -o "$folder/by-pkg-config"
LD_LIBRARY_PATH=$folder/prefix/lib:${LD_LIBRARY_PATH:-} "$folder/by-pkg-config"
[ -x "$folder/prefix/bin/seqccl" ] || { echo "the command was not installed"; exit 1; }
