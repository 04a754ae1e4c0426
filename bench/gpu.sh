#!/usr/bin/env bash
# Times the cuda backend on models with random weights. In the same run it measures the GPU's ceilings: the bandwidth of a large copy
# (bytes read and written) and the rate of a bf16 product. These two need PyTorch, and are left out without it.
# usage: bench/gpu.sh [PLUMB] [PRESET:TYPE ...]
set -euo pipefail
plumb=${1:-build/bin/plumb}
shift || true
models=("$@")
[ ${#models[@]} -gt 0 ] || models=(llama-3.1-8b:Q4_K_M llama-3.1-8b:Q8_0 llama-3.1-8b:F16 tinyllama-1.1b:Q4_K_M tinyllama-1.1b:Q8_0)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$plumb" devices | head -20 || true
python3 - <<'PYTHON' || true
import torch
x = torch.randn(2**30, device="cuda")
y = torch.empty_like(x)
a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
b = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
def median_ms(work, n=10):
    for _ in range(3): work()
    times = []
    for _ in range(n):
        s, e = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        s.record(); work(); e.record(); torch.cuda.synchronize(); times.append(s.elapsed_time(e))
    return sorted(times)[n // 2]
print(f"copy      {8 * 2**30 / median_ms(lambda: y.copy_(x)) / 1e9:.2f} TB/s")
print(f"bf16      {2 * 8192**3 / median_ms(lambda: a @ b) / 1e9:.0f} TFLOP/s")
PYTHON
for model in "${models[@]}"; do
  preset=${model%%:*} type=${model##*:}
  "$plumb" synth "$preset" "$type" -o "$folder/model.gguf" 2>/dev/null >/dev/null
  echo "== $preset $type"
  "$plumb" bench "$folder/model.gguf" --backend cuda -p 4096 -n 128 -r 3 2>/dev/null
  "$plumb" bench "$folder/model.gguf" --backend cuda -p 0 -n 128 -d 4096 -r 3 2>/dev/null | grep 'decode ' | sed 's/decode/at 4096/'
  "$plumb" bench "$folder/model.gguf" --backend cuda -p 0 -n 128 -s 64 -r 3 2>/dev/null | grep 'decode ' | sed 's/decode/64 streams/'
  rm -f "$folder/model.gguf"
done
