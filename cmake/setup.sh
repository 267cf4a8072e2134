# setup.sh - sourced by bench/quickstart and test/run: installs what is missing or says what to install; quiet steps with a log.
# SPDX-License-Identifier: Apache-2.0

# what must be there                   how to see that it is              Debian, Ubuntu
seqccl_needs=(
  "C++ compiler|command:g++|g++"
  "CMake|command:cmake|cmake"
  "Ninja|command:ninja|ninja-build"
  "pkg-config|command:pkg-config|pkg-config"
  "ccache|command:ccache|ccache"
  "fmt|header:fmt/format.h|libfmt-dev"
  "Highway|header:hwy/highway.h|libhwy-dev"
  "CLI11|header:CLI/CLI.hpp|libcli11-dev"
  "nlohmann-json|header:nlohmann/json.hpp|nlohmann-json3-dev"
  "GoogleTest|header:gtest/gtest.h|libgtest-dev"
  "Google Benchmark|header:benchmark/benchmark.h|libbenchmark-dev"
  "DLPack|header:dlpack/dlpack.h|libdlpack-dev"
)

seqccl_is_there() {
  case $1 in
    command:*) command -v "${1#command:}" >/dev/null ;;
    header:*) command -v "${CXX:-g++}" >/dev/null && echo "#include <${1#header:}>" | "${CXX:-g++}" -std=c++20 -x c++ -E - >/dev/null 2>&1 ;;
  esac
}

# The packages that are missing, Debian names, into seqccl_missing.
seqccl_find_missing() {
  seqccl_missing=()
  local need what how package
  for need in "${seqccl_needs[@]}"; do
    IFS='|' read -r what how package <<<"$need"
    seqccl_is_there "$how" || seqccl_missing+=("$package")
  done
}

# As root; with fresh lists of packages if those there do not do.
seqccl_apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >"$seqccl_log" 2>&1 ||
    { apt-get update >>"$seqccl_log" 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >>"$seqccl_log" 2>&1; }
}

# What makes more of it when it is there: UCX, for ranks on several hosts. Its tests are skipped without it.
seqccl_add_optional() {
  seqccl_is_there header:ucp/api/ucp.h && return
  [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 0
  seqccl_apt_install libucx-dev || echo "without UCX: libucx-dev cannot be installed"
}

# Installs what is missing with apt-get when root; otherwise prints what to install and exits with 2.
seqccl_setup() {
  seqccl_install_needs
  seqccl_add_optional
}
seqccl_install_needs() {
  seqccl_find_missing
  [ ${#seqccl_missing[@]} -eq 0 ] && return
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing: ${seqccl_missing[*]}"
    if seqccl_apt_install "${seqccl_missing[@]}"; then
      seqccl_find_missing
      [ ${#seqccl_missing[@]} -eq 0 ] && return
    else
      tail -20 "$seqccl_log"
    fi
  fi
  cat >&2 <<TEXT
These are missing (Debian names): ${seqccl_missing[*]}
Install them as root and run this again:
  Debian, Ubuntu   apt-get install ${seqccl_missing[*]}
  Fedora           dnf install gcc-c++ cmake ninja-build pkgconf ccache fmt-devel highway-devel cli11-devel json-devel gtest-devel google-benchmark-devel dlpack-devel
  macOS            brew install cmake ninja pkg-config ccache fmt highway cli11 nlohmann-json googletest google-benchmark dlpack
TEXT
  exit 2
}

# seqccl_quiet TEXT COMMAND...: runs it with its output in the log; prints the end of the log if it fails.
seqccl_quiet() {
  local text=$1 begin=$SECONDS
  shift
  printf '%-44s' "$text" >&2
  if "$@" >"$seqccl_log" 2>&1; then
    printf 'ok  %4d s\n' $((SECONDS - begin)) >&2
  else
    printf 'FAILED after %d s; the end of its output:\n' $((SECONDS - begin)) >&2
    grep -nE 'error|FAILED|Error' "$seqccl_log" | head -20 >&2
    tail -25 "$seqccl_log" >&2
    return 1
  fi
}

seqccl_jobs() { nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2; }
