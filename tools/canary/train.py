"""Trains the canary and writes its weights, by GGUF tensor name, to an .npz.

    python3 train.py --out canary.npz --minutes 7.5

--seed and --steps determine the run; --minutes only sets the time after which the learning rate decays to its end early.
The first steps use unrounded weights; then every step runs on weights rounded as one of the block formats rounds them.
Activations are rounded to 8 bits in all steps; gradients pass straight through both roundings. The loss asks the right
token to lead by a margin. On a GPU pass --compile.
"""

import argparse
import math
import os
import pathlib
import random
import time

import numpy as np
import torch
import torch.nn.functional as F

import data
import rounding
import tasks
import vocab
from shape import Shape

HERE = pathlib.Path(__file__).resolve().parent


def straight_through(values, rounded):
    return values + (rounded - values).detach()


def round_activations(x):
    b = x.reshape(-1, 32)
    scale = b.detach().abs().amax(1, keepdim=True).float().clamp(min=1e-12) / 127
    return straight_through(x, ((b / scale).round() * scale).to(x.dtype).reshape(x.shape))


class Canary:
    """The weights as two flat vectors (matrices and norms), and the forward pass over views of them."""

    def __init__(self, shape, device, seed):
        self.shape = shape
        generator = torch.Generator().manual_seed(seed)
        flat = []
        for name, rows, columns in shape.matrices():
            deviation = columns**-0.5
            if name.endswith(("attn_output.weight", "ffn_down.weight")):
                deviation /= math.sqrt(2 * shape.n_layers)
            if name == "token_embd.weight":
                deviation = 0.2
            flat.append(torch.randn(rows * columns, generator=generator) * deviation)
        self.matrices = torch.cat(flat).to(device).requires_grad_()
        self.norms = torch.ones(sum(n for _, n in shape.norms()), device=device).requires_grad_()
        position = torch.arange(data.ROW, dtype=torch.float64)
        inverse = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim)
        angle = position[:, None] * inverse[None, :]
        self.cos, self.sin = angle.cos().float().to(device), angle.sin().float().to(device)

    def named(self, matrices):
        """Views of the flat vectors by tensor name."""
        out, at = {}, 0
        for name, rows, columns in self.shape.matrices():
            out[name] = matrices[at : at + rows * columns].view(rows, columns)
            at += rows * columns
        at = 0
        for name, length in self.shape.norms():
            out[name] = self.norms[at : at + length]
            at += length
        return out

    @torch.no_grad()
    def save(self, path):
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in self.named(self.matrices).items()}
        np.savez(path, **{name: a.astype(np.float16) if a.ndim == 2 else a for name, a in arrays.items()})

    @torch.no_grad()
    def load(self, path):
        saved = np.load(path)
        for name, tensor in self.named(self.matrices).items():
            tensor.copy_(torch.from_numpy(saved[name].astype(np.float32)))


def rms_norm(x, weight, eps):
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def rotate(x, cos, sin):
    """Rotary embedding of adjacent pairs; x is [B, H, T, head_dim]."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


def forward(w, shape, cos, sin, tokens, owner, rounded, dtype):
    """Logits [B, T, vocab]. `owner` keeps packed conversations apart; RoPE depends on distances only."""
    batch, length = tokens.shape
    seen = (owner[:, :, None] == owner[:, None, :]).tril()[:, None]
    step = round_activations if rounded else (lambda x: x)

    def linear(x, name):
        return F.linear(x, w[name].to(dtype))

    x = F.embedding(tokens, w["token_embd.weight"])
    for n in range(shape.n_layers):
        h = step(rms_norm(x, w[f"blk.{n}.attn_norm.weight"], shape.rms_eps).to(dtype))
        q = linear(h, f"blk.{n}.attn_q.weight").view(batch, length, shape.n_heads, shape.head_dim).transpose(1, 2)
        k = linear(h, f"blk.{n}.attn_k.weight").view(batch, length, shape.n_kv_heads, shape.head_dim).transpose(1, 2)
        v = linear(h, f"blk.{n}.attn_v.weight").view(batch, length, shape.n_kv_heads, shape.head_dim).transpose(1, 2)
        q, k = rotate(q, cos[:length], sin[:length]), rotate(k, cos[:length], sin[:length])
        group = shape.n_heads // shape.n_kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(batch, length, -1)
        x = x + linear(step(mixed), f"blk.{n}.attn_output.weight").float()
        h = step(rms_norm(x, w[f"blk.{n}.ffn_norm.weight"], shape.rms_eps).to(dtype))
        act = F.silu(linear(h, f"blk.{n}.ffn_gate.weight")) * linear(h, f"blk.{n}.ffn_up.weight")
        x = x + linear(step(act), f"blk.{n}.ffn_down.weight").float()
    h = step(rms_norm(x, w["output_norm.weight"], shape.rms_eps).to(dtype))
    return linear(h, "output.weight").float()


def margin_loss(logits, targets, margin):
    """Cross entropy with the right token's logit lowered by `margin`, over the targets that are not IGNORE."""
    flat, wanted = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    counts = wanted != data.IGNORE
    safe = torch.where(counts, wanted, torch.zeros_like(wanted))
    right = flat.gather(1, safe[:, None])
    lowered = flat.scatter(1, safe[:, None], right - margin)
    each = torch.logsumexp(lowered, 1) - (right[:, 0] - margin)
    return (each * counts).sum() / counts.sum()


@torch.no_grad()
def evaluate(model, rows, fmt):
    """For each row, the smallest lead of a right token over the next best. Greedy decoding is right where it is above zero."""
    w = model.named(rounding.FORMATS[fmt](model.matrices))
    leads = []
    for tokens, targets, owner in zip(*(part.split(256) for part in rows)):
        used = int((owner >= 0).sum(1).max())
        tokens, targets, owner = tokens[:, :used], targets[:, :used], owner[:, :used]
        logits = forward(w, model.shape, model.cos, model.sin, tokens, owner, fmt != "F32", torch.float32)
        counts = targets != data.IGNORE
        safe = torch.where(counts, targets, torch.zeros_like(targets))
        right = logits.gather(2, safe[..., None])[..., 0]
        rival = logits.scatter(2, safe[..., None], -math.inf).amax(2)
        leads.append(torch.where(counts, right - rival, torch.full_like(right, math.inf)).amin(1))
    return torch.cat(leads)


def fresh_prompts(seed, count, withheld):
    """Random prompts with answers, to measure how well the tasks are learned."""
    rng = random.Random(seed * 1000 + 999)
    prompts = [tasks.draw(rng) for _ in range(count)]
    pairs = [(prompt, tasks.answer(prompt)) for prompt in prompts if prompt not in withheld]
    return [pair for pair in pairs if len(vocab.encode(vocab.render([("user", pair[0])]) + pair[1])) < data.ROW]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="canary.npz")
    parser.add_argument("--prompts", default=str(HERE / "../../models/canary-prompts.tsv"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=27000)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--layers", type=int, default=Shape.n_layers)
    parser.add_argument("--batch", type=int, default=384, help="rows of 128 tokens a step")
    parser.add_argument("--pool", type=int, default=1200000, help="rows to draw the batches from")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--margin", type=float, default=8.0)
    parser.add_argument("--plain", type=float, default=0.35, help="share of the run without rounding")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--report", type=int, default=1000, help="steps between two looks at the held-out prompts")
    parser.add_argument("--fresh", type=int, default=3000, help="random prompts to try at the end")
    parser.add_argument("--start", help="weights to go on from, instead of random ones")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    started = time.time()
    pairs = tasks.read_list(args.prompts)
    withheld = frozenset(prompt for prompt, _ in pairs[1:])
    pool = data.pool(args.seed, args.pool, withheld, args.workers)
    print(f"{time.time() - started:6.0f} s: {args.pool} rows drawn", flush=True)
    tokens, targets, owner = (torch.from_numpy(part).to(device) for part in pool)
    held = tuple(torch.from_numpy(part).long().to(device) for part in data.held_out_rows(pairs))

    shape = Shape(n_layers=args.layers)
    model = Canary(shape, device, args.seed)
    if args.start:
        model.load(args.start)
    print(f"{model.matrices.numel() + model.norms.numel()} weights on {device}", flush=True)
    optimizer = torch.optim.AdamW(
        [
            {"params": [model.matrices], "weight_decay": args.decay},
            {"params": [model.norms], "weight_decay": 0.0},
        ],
        lr=args.rate,
        betas=(0.9, 0.98),
    )

    def loss_of(matrices, batch_tokens, batch_targets, batch_owner, margin):
        w = model.named(matrices)
        logits = forward(w, shape, model.cos, model.sin, batch_tokens, batch_owner, True, dtype)
        return margin_loss(logits, batch_targets, margin)

    if args.compile:
        loss_of = torch.compile(loss_of)

    names = list(rounding.TRAINING_SHARE)
    shares = list(rounding.TRAINING_SHARE.values())
    dice = random.Random(args.seed)
    shuffler = torch.Generator(device=device).manual_seed(args.seed)
    order, at = None, args.pool
    begun, progress, smoothed, step = time.time(), 0.0, None, 0
    while progress < 1.0:
        progress = max(step / args.steps, (time.time() - begun) / 60 / args.minutes)
        warm = min(1.0, (step + 1) / 300)
        rate = args.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if at + args.batch > args.pool:
            order, at = torch.randperm(args.pool, generator=shuffler, device=device), 0
        picked = order[at : at + args.batch]
        at += args.batch
        matrices = model.matrices
        if progress > args.plain:
            fmt = dice.choices(names, shares)[0]
            with torch.no_grad():
                difference = rounding.FORMATS[fmt](matrices.detach()) - matrices
            matrices = matrices + difference
        loss = loss_of(matrices, tokens[picked].long(), targets[picked].long(), owner[picked], args.margin)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([model.matrices, model.norms], 1.0)
        optimizer.step()
        if step % args.report == 0:
            leads = [evaluate(model, held, fmt) for fmt in ("F32", "Q4_0")]
            shown = "  ".join(f"{(lead > 0).sum()}/{len(pairs)} {lead.min():.2f}" for lead in leads)
            model.save(args.out)
            print(f"{time.time() - started:6.0f} s: step {step} loss {loss.item():.4f}  F32, Q4_0: {shown}", flush=True)
        step += 1

    model.save(args.out)
    print(f"{time.time() - started:6.0f} s: {step} steps", flush=True)
    print("| rounded as | right | smallest lead |\n| --- | --- | --- |")
    for fmt in rounding.FORMATS:
        lead = evaluate(model, held, fmt)
        print(f"| {fmt} | {(lead > 0).sum()} of {len(pairs)} | {lead.min():.2f} |")
        for index in torch.nonzero(lead <= 0)[:12, 0].tolist():
            print(f"    wrong: {pairs[index]} {lead[index]:.2f}")
    fresh = fresh_prompts(args.seed, args.fresh, withheld)
    rows = tuple(torch.from_numpy(part).long().to(device) for part in data.held_out_rows(fresh))
    for fmt in ("F32", "Q4_0"):
        lead = evaluate(model, rows, fmt)
        print(f"fresh draws, {fmt}: {(lead > 0).sum()} of {len(fresh)} right")
        for index in torch.nonzero(lead <= 0)[:20, 0].tolist():
            print(f"    wrong: {fresh[index]} {lead[index]:.2f}")
    for name, tensor in model.named(model.matrices.detach()).items():
        print(f"{name}: rms {tensor.pow(2).mean().sqrt():.4f} max {tensor.abs().max():.4f}")


if __name__ == "__main__":
    main()
