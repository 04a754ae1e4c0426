#!/usr/bin/env python3
"""Makes tests/data/quants: what the PyPI package `gguf` decodes and encodes.

    pip install gguf numpy
    python tools/make_quant_goldens.py

FORMAT.decode.bin: blocks of random bytes with finite scales, the last ones with adversarial scales (zeros of both
signs, subnormals, the largest finite number, a negative one), then the float32 values that they decode to.
FORMAT.encode.bin: float32 values, then the blocks that they encode to. Only for F16, BF16 and Q8_0, whose encoding is
plain rounding; the other formats leave the encoder a choice.
"""

import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "quants"

# Byte offsets of the binary16 scales in a block.
HALVES = {
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q8_0: [0],
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
    Type.IQ4_NL: [0],
    Type.IQ4_XS: [0],
    Type.MXFP4: [],
    Type.TQ2_0: [64],
}
ADVERSARIAL = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF], dtype=np.uint16)
ADVERSARIAL_E8M0 = np.array([0, 1, 2, 254, 255, 127], dtype=np.uint8)
N_RANDOM = 8


def decode_case(kind: Type, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    if kind in (Type.F32, Type.F16, Type.BF16):
        if kind == Type.F32:
            blocks = rng.standard_normal(64).astype(np.float32).view(np.uint8)
        else:
            patterns = np.arange(0, 65536, 97, dtype=np.uint16)
            as_float = gguf.dequantize(patterns.view(np.uint8), kind).ravel()
            blocks = patterns[~np.isnan(as_float)].view(np.uint8)
        return blocks, gguf.dequantize(blocks, kind)
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    n = N_RANDOM + len(ADVERSARIAL)
    blocks = rng.integers(0, 256, (n, block_bytes), dtype=np.uint8)
    if kind == Type.MXFP4:
        blocks[N_RANDOM:, 0] = ADVERSARIAL_E8M0
    for k, offset in enumerate(HALVES[kind]):
        scales = (rng.standard_normal(n) * 0.1).astype(np.float16).view(np.uint16)
        scales[N_RANDOM:] = np.roll(ADVERSARIAL, k)
        blocks[:, offset : offset + 2] = scales.reshape(n, 1).view(np.uint8)
    return blocks, gguf.dequantize(blocks, kind)


def encode_case(kind: Type, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    rows = [rng.standard_normal(32) * scale for scale in (1.0, 0.02, 300.0, 1e-4, 1e-6, 1e-9)]
    rows += [np.zeros(32), np.full(32, -0.7), np.linspace(-127, 127, 32), np.arange(32) - 15.5, np.eye(1, 32, 5)[0] * 65504]
    halves = np.zeros(32)
    halves[:4] = (127, 0.5, -0.5, 1.5)
    rows.append(halves)
    values = np.array(rows, dtype=np.float32)
    return values, gguf.quantize(values, kind)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for kind in (Type.F32, Type.F16, Type.BF16, *HALVES):
        with np.errstate(over="ignore"):
            blocks, values = decode_case(kind, np.random.default_rng([20240229, kind]))
        (OUT / f"{kind.name}.decode.bin").write_bytes(blocks.tobytes() + values.astype("<f4").tobytes())
    for kind in (Type.F16, Type.BF16, Type.Q8_0):
        values, blocks = encode_case(kind, np.random.default_rng([20240229, kind]))
        (OUT / f"{kind.name}.encode.bin").write_bytes(values.astype("<f4").tobytes() + blocks.tobytes())


if __name__ == "__main__":
    main()
