"""The canary's hyper-parameters and its matrices, in the order in which they lie in the flat weight vector."""

from dataclasses import dataclass

from vocab import VOCAB_SIZE


@dataclass(frozen=True)
class Shape:
    vocab: int = VOCAB_SIZE
    d_model: int = 256
    n_layers: int = 3
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 64
    d_ff: int = 512
    context: int = 256
    rms_eps: float = 1e-5
    rope_theta: float = 10000.0

    def matrices(self):
        """(GGUF name, out, in) of every matrix; each row is a multiple of 256 long."""
        d, kv = self.d_model, self.n_kv_heads * self.head_dim
        listed = [("token_embd.weight", self.vocab, d)]
        for n in range(self.n_layers):
            listed += [
                (f"blk.{n}.attn_q.weight", self.n_heads * self.head_dim, d),
                (f"blk.{n}.attn_k.weight", kv, d),
                (f"blk.{n}.attn_v.weight", kv, d),
                (f"blk.{n}.attn_output.weight", d, self.n_heads * self.head_dim),
                (f"blk.{n}.ffn_gate.weight", self.d_ff, d),
                (f"blk.{n}.ffn_up.weight", self.d_ff, d),
                (f"blk.{n}.ffn_down.weight", d, self.d_ff),
            ]
        listed.append(("output.weight", self.vocab, d))
        return listed

    def norms(self):
        """(GGUF name, length) of every norm vector."""
        listed = []
        for n in range(self.n_layers):
            listed += [(f"blk.{n}.attn_norm.weight", self.d_model), (f"blk.{n}.ffn_norm.weight", self.d_model)]
        listed.append(("output_norm.weight", self.d_model))
        return listed
