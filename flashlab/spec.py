"""One description of an attention: which pairs (i, j) see each other, and how their score is shaped.

The oracle, the CPU path and the Triton kernels all read the same `Spec`, so a feature is defined once and tested three ways.
What a feature needs as a tensor travels beside it in `Extras`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flashlab import formulas

UNLIMITED = -1  # a side of the window that has no edge


class Extras(NamedTuple):
    """Tensors that features bring along. None: the feature is off."""

    attn_mask: Tensor | None = None  # (B, Hq, Sq, Sk), each dimension may be 1; bool or additive
    alibi_slopes: Tensor | None = None  # (B or 1, Hq), float32
    sinks: Tensor | None = None  # (Hq,), a logit that takes part in the denominator alone
    seed: Tensor | None = None  # (1,), int32: what dropout is drawn from
    query_labels: Tensor | None = None  # (B or 1, Sq), int32: what `mask_mod` is told of a query row
    key_labels: Tensor | None = None  # (B or 1, Sk), int32
    cu_seqlens_q: Tensor | None = None  # (sequences + 1,), int32: where packed sequences begin
    cu_seqlens_k: Tensor | None = None
    row_blocks: Tensor | None = None  # a block mask, by rows and by keys: see `flashlab.blocks`
    key_blocks: Tensor | None = None


NO_EXTRAS = Extras()


@dataclass(frozen=True)
class Spec:
    """Attention over scores `scale · query @ keyᵀ`, shaped and restricted to the pairs that see each other."""

    scale: float
    is_causal: bool = False
    window: tuple[int, int] = (UNLIMITED, UNLIMITED)  # keys to the left and right of the diagonal that a row sees
    bottom_right: bool = False  # the diagonal ends in the last corner; otherwise it starts in the first
    softcap: float = 0.0  # scores become softcap · tanh(score / softcap); 0: off
    dropout_p: float = 0.0
    mask_mod: Callable | None = None  # (batch, head, i, j[, label_i, label_j]) → may i see j?
    bias_mod: Callable | None = None  # (batch, head, i, j) → what is added to the score
    deterministic: bool = True  # the backward pass gives the same bits every run
    first_batch: int = 0  # the number of the first batch element, where packed sequences are computed one by one

    def diagonal(self, seqlen_q, seqlen_k):
        """The key that lies on the diagonal of row 0."""
        return seqlen_k - seqlen_q if self.bottom_right else 0

    def band(self, seqlen_q, seqlen_k):
        """(lowest, highest): row i sees keys i + lowest … i + highest; None where there is no such edge."""
        diagonal = self.diagonal(seqlen_q, seqlen_k)
        left, right = self.edges
        return (None if left == UNLIMITED else diagonal - left), (None if right == UNLIMITED else diagonal + right)

    @property
    def edges(self):
        """The window with causal folded in: a causal row sees nothing to the right of the diagonal."""
        return self.window[0], 0 if self.is_causal else self.window[1]

    def keys_of_rows(self, first, last, seqlen_q, seqlen_k):
        """(begin, end): rows first … last see no key outside."""
        lowest, highest = self.band(seqlen_q, seqlen_k)
        begin = 0 if lowest is None else max(0, first + lowest)
        end = seqlen_k if highest is None else max(0, min(seqlen_k, last + highest + 1))
        return min(begin, end), end


class Pairs(NamedTuple):
    """A tile of pairs: index tensors and the parts of `Extras` that belong to them, all broadcasting against the tile's scores."""

    batch: Tensor
    head: Tensor
    i: Tensor
    j: Tensor
    band: tuple
    diagonal: int
    plane: Tensor  # batch · heads + head
    attn_mask: Tensor | None = None
    slopes: Tensor | None = None
    seed: Tensor | None = None
    label_i: Tensor | None = None
    label_j: Tensor | None = None


def shape_scores(scores, spec, pairs):
    """What a score becomes before softmax: capped, biased, and −inf where the row does not see the key.

    scores: scale · query @ keyᵀ of the pairs, in the dtype they are summed in.
    """
    if spec.softcap:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    if pairs.slopes is not None:
        scores = scores + formulas.alibi(pairs.slopes.to(scores.dtype), pairs.i + pairs.diagonal, pairs.j)
    if spec.bias_mod is not None:
        scores = scores + _plain(spec.bias_mod)(pairs.batch, pairs.head, pairs.i, pairs.j)
    if pairs.attn_mask is not None and pairs.attn_mask.dtype != torch.bool:
        scores = scores + pairs.attn_mask.to(scores.dtype)
    seen = visible(spec, pairs)
    return scores if seen is None else scores.masked_fill(~seen, -torch.inf)


def visible(spec, pairs):
    """True where row i may see key j; None where nothing hides anything."""
    lowest, highest = pairs.band
    seen = [] if lowest is None else [pairs.j >= pairs.i + lowest]
    seen += [] if highest is None else [pairs.j <= pairs.i + highest]
    if spec.mask_mod is not None:
        labels = () if pairs.label_i is None else (pairs.label_i, pairs.label_j)
        seen.append(asked(spec.mask_mod, pairs.batch, pairs.head, pairs.i, pairs.j, *labels))
    if pairs.attn_mask is not None and pairs.attn_mask.dtype == torch.bool:
        seen.append(pairs.attn_mask)
    if not seen:
        return None
    everything = seen[0]
    for more in seen[1:]:
        everything = everything & more
    return everything


def asked(mask_mod, *positions):
    """What a mask_mod says of these pairs. Of a number the kernels would see the lowest bit alone."""
    seen = _plain(mask_mod)(*positions)
    if not isinstance(seen, Tensor) or seen.dtype != torch.bool:
        came = str(seen.dtype) if isinstance(seen, Tensor) else f"a {type(seen).__name__}"
        raise ValueError(
            f"mask_mod gives {came}: it must be True or False of each pair. Compare, as in `j <= i`; behind a number write `!= 0`."
        )
    return seen


def drop(probs, spec, pairs):
    """Probabilities after dropout: 0 or 1 / (1 − p) times as large, by a mask that only (seed, batch, head, i, j) decide."""
    if not spec.dropout_p:
        return probs
    seed = formulas.plane_seed(pairs.seed, pairs.plane)
    kept = formulas.kept(formulas.row_bits(seed, pairs.i), formulas.key_bits(seed, pairs.j), formulas.threshold(spec.dropout_p))
    return torch.where(kept, probs, 0.0) / (1 - spec.dropout_p)


def _plain(mod):
    """The Python function inside of a `@triton.jit` one: made of operators alone, it works on tensors."""
    return getattr(mod, "fn", mod)
