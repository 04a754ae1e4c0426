"""Rounding as block formats do it, on a flat vector whose rows are multiples of 256 long.

These functions model the formats' error for training; they are not encoders. They do not search for better scales, so
their error is a little larger than an encoder's. Block sizes, level counts and the IQ4_NL levels are the formats' own.
"""

import torch

IQ4_NL_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _safe(scale):
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def symmetric(values, block, low, high):
    """One scale for each block, chosen so that the value furthest from zero becomes `low`."""
    b = values.view(-1, block)
    peak = b.gather(1, b.abs().argmax(1, keepdim=True))
    scale = _safe((peak / low).half().float())
    return ((b / scale).round().clamp(low, high) * scale).view(-1)


def with_minimum(values, block, levels):
    """One scale and one minimum for each block."""
    b = values.view(-1, block)
    low = b.amin(1, keepdim=True)
    scale = _safe(((b.amax(1, keepdim=True) - low) / levels).half().float())
    return (((b - low) / scale).round().clamp(0, levels) * scale + low.half().float()).view(-1)


def super_block(values, block, levels, scale_levels):
    """K-quants with a minimum: the scales and minimums within 256 values are rounded to `scale_levels` too."""
    b = values.view(-1, 256 // block, block)
    low = (-b.amin(2, keepdim=True)).clamp(min=0)
    scale = ((b.amax(2, keepdim=True) + low) / levels).clamp(min=0)
    scale_unit = _safe((scale.amax(1, keepdim=True) / scale_levels).half().float())
    low_unit = _safe((low.amax(1, keepdim=True) / scale_levels).half().float())
    scale = (scale / scale_unit).round() * scale_unit
    low = (low / low_unit).round() * low_unit
    return (((b + low) / _safe(scale)).round().clamp(0, levels) * scale - low).view(-1)


def symmetric_super_block(values, block, low, high, scale_levels):
    """K-quants without a minimum."""
    b = values.view(-1, 256 // block, block)
    peak = b.gather(2, b.abs().argmax(2, keepdim=True))
    scale = peak / low
    unit = _safe((scale.abs().amax(1, keepdim=True) / scale_levels).half().float())
    scale = (scale / unit).round() * unit
    return ((b / _safe(scale)).round().clamp(low, high) * scale).view(-1)


def levels(values, block, codebook):
    """One scale for each block, and a fixed list of levels."""
    b = values.view(-1, block)
    book = torch.tensor(codebook, dtype=values.dtype, device=values.device)
    peak = b.gather(1, b.abs().argmax(1, keepdim=True))
    scale = _safe((peak / book[0]).half().float())
    middles = (book[1:] + book[:-1]) / 2
    return (book[torch.bucketize((b / scale).contiguous(), middles)] * scale).view(-1)


FORMATS = {
    "F32": lambda v: v,
    "Q8_0": lambda v: symmetric(v, 32, -127, 127),
    "Q6_K": lambda v: symmetric_super_block(v, 16, -32, 31, 127),
    "Q5_K": lambda v: super_block(v, 32, 31, 63),
    "Q5_0": lambda v: symmetric(v, 32, -16, 15),
    "Q4_K": lambda v: super_block(v, 32, 15, 63),
    "Q4_1": lambda v: with_minimum(v, 32, 15),
    "Q4_0": lambda v: symmetric(v, 32, -8, 7),
    "IQ4_NL": lambda v: levels(v, 32, IQ4_NL_LEVELS),
    "Q3_K": lambda v: symmetric_super_block(v, 16, -4, 3, 31),
    "Q2_K": lambda v: super_block(v, 16, 3, 15),
}

# How often training uses each format: the coarse ones most, since weights that bear them bear the finer ones too.
TRAINING_SHARE = {"F32": 2, "Q4_K": 3, "Q4_1": 2, "Q4_0": 5, "IQ4_NL": 3, "Q3_K": 5, "Q2_K": 2}
