"""Where values are seen in a model of Hugging Face transformers. What each family has is in tools/model_goldens."""

from typing import Literal, NamedTuple


class Tap(NamedTuple):
    module: str
    side: Literal["input", "output"]
    value: str
    # Which third of the features, of a module that makes q, k and v; or the features [from, to), of one that makes several;
    # or a function of the features.
    part: object = None


# The function that rotates q and k returns these two.
ROTATED = ("attn_q_rope", "attn_k_rope")
