#!/usr/bin/env bash
# The checks that a GPU must pass before its figures are believed: the canary in every quantization with tuned and with shared kernels;
# the op tests; SmolLM2 against the reference, alone and among other sequences; no growth of memory over many loads; and
# compute-sanitizer's four tools on the op tests.
# usage: bench/gpu_check.sh [FOLDER OF BINARIES] [SMOLLM2.gguf]
set -uo pipefail
bin=${1:-build/bin}
model=${2:-}
here=$(cd "$(dirname "$0")/.." && pwd)
failed=0
step() {
  echo "== $1"
  shift
  "$@" || { echo "FAILED: $*"; failed=1; }
}
selftest() { "$bin/plumb" selftest --backend cuda --all | tail -1; return "${PIPESTATUS[0]}"; }
shared() { [ "$("$bin/plumb" run canary -p 1 --temp 0 --backend cuda --shared-kernels 2>/dev/null)" = 1 ]; }
step 'canary, every quantization, every known answer' selftest
step 'canary, shared kernels' shared
[ ! -x "$bin/load_cycles" ] || step '1,000 loads' "$bin/load_cycles" "$here/models/canary-f16.gguf" 1000
if [ -x "$bin/backends_tests" ]; then
  empty=$(mktemp -d)
  trap 'rm -rf "$empty"' EXIT
  for version in 12 13; do cc -shared -x c /dev/null -o "$empty/libcublasLt.so.$version"; done
  step 'op tests' "$bin/backends_tests" --gtest_filter='*cuda:*cuda_tuned' --gtest_brief=1
  for tool in memcheck racecheck initcheck synccheck; do
    command -v compute-sanitizer >/dev/null || break
    libraries=${LD_LIBRARY_PATH:-}
    # initcheck does not see the writes of cuBLASLt's products (it reports a product of PyTorch alone, too). An empty library
    # therefore stands before the real one here, and prompts run on the shared kernels.
    [ $tool != initcheck ] || libraries=$empty:$libraries
    step "compute-sanitizer $tool, op tests" env LD_LIBRARY_PATH="$libraries" compute-sanitizer --tool "$tool" --print-limit 3 \
      --error-exitcode 1 "$bin/backends_tests" --gtest_filter='*cuda:*cuda_tuned' --gtest_brief=1
    for kernels in '' --shared-kernels; do
      step "compute-sanitizer $tool $kernels" env LD_LIBRARY_PATH="$libraries" compute-sanitizer --tool "$tool" --print-limit 3 --error-exitcode 1 \
        "$bin/plumb" run canary -p 1 --temp 0 --backend cuda $kernels
    done
    step "compute-sanitizer $tool, 20 streams" compute-sanitizer --tool "$tool" --print-limit 3 --error-exitcode 1 \
      "$bin/plumb" bench canary --backend cuda -p 0 -n 3 -r 1 -s 20
  done
fi
if [ -n "$model" ] && [ -x "$bin/compare_backends" ]; then
  n=$(nproc)
  agree() {
    local i pids=() status=0
    for i in $(seq 0 $((n - 1))); do
      "$bin/compare_backends" "$model" "$here/tools/compare_prompts.txt" --backend cuda -n 64 --part "$i/$n" "$@" | grep '^all' &
      pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || status=1; done
    return $status
  }
  step 'SmolLM2 against the reference, 50 prompts, 64 tokens' agree
  step 'the same beside 63 other sequences' agree --beside 63
fi
exit $failed
