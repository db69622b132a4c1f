"""What is timed: problems of one amount of text, and for each its tensors, its FLOPs and its oracle."""

import itertools
from dataclasses import dataclass

import torch

from flashlab import reference
from flashlab.spec import UNLIMITED, Spec

TOKENS = 16384  # B·S
WIDTH = 2048  # H·D
SEQLENS = (512, 1024, 2048, 4096, 8192, 16384)
HEAD_DIMS = (64, 128)
OTHER_HEAD_DIMS = (96, 256)  # at every second length
PACKED = (3000, 1000, 5000, 384, 2000, 3000, 2000)  # lengths of packed sequences, 16384 tokens in all
CHECKED_ROWS = 1024


@dataclass(frozen=True)
class Problem:
    """One call of attention, forward and backward."""

    seqlen: int
    head_dim: int
    is_causal: bool = False
    dtype: str = "bfloat16"
    group: int = 1  # query heads that share a head of keys
    window: int | None = None  # keys to the left that a row sees, and none to the right
    packed: tuple = ()  # lengths of sequences that lie one after another
    tokens: int = TOKENS
    width: int = WIDTH

    @property
    def batch(self):
        return 1 if self.packed else max(1, self.tokens // self.seqlen)

    @property
    def heads(self):
        """Query heads: H·D stays near 2048, and groups stay whole."""
        return max(1, self.width // self.head_dim // self.group) * self.group

    @property
    def kind(self):
        """In words, what is seen."""
        words = ["causal" if self.is_causal else "full"] if self.window is None else [f"window {self.window}"]
        words += [f"{self.group} heads share keys"] * (self.group > 1) + [f"{len(self.packed)} packed sequences"] * bool(self.packed)
        return ", ".join(words)

    def __str__(self):
        return f"S={self.seqlen}, D={self.head_dim}, {self.kind}, {self.dtype}"

    def tensors(self, device):
        """(query, key, value) as (B, H, S, D) that want gradients, and grad_out."""
        dtype = getattr(torch, self.dtype)
        rows = sum(self.packed) or self.seqlen
        heads = (self.heads, self.heads // self.group, self.heads // self.group, self.heads)
        *leaves, grad_out = (torch.randn(self.batch, count, rows, self.head_dim, dtype=dtype, device=device) for count in heads)
        return [x.requires_grad_() for x in leaves], grad_out

    @property
    def flops(self):
        """FLOPs of the forward pass, 4·D for each pair that is seen; causal counts half of all. The backward pass takes 2.5 times that."""
        if self.window is not None:
            pairs = sum(min(row, self.window) + 1 for row in range(self.seqlen))
        else:
            pairs = sum(length**2 for length in self.packed or (self.seqlen,)) * (0.5 if self.is_causal else 1)
        return 4 * pairs * self.head_dim * self.heads * self.batch

    def error(self, out, query, key, value):
        """The largest error of `out` in its first rows of its first and last head, against the float64 oracle."""
        length = self.packed[0] if self.packed else self.seqlen
        rows = slice(0, min(length, CHECKED_ROWS))
        edges = (UNLIMITED, UNLIMITED) if self.window is None else (self.window, 0)
        spec = Spec(self.head_dim**-0.5, self.is_causal, window=edges)
        errors = []
        for head, head_kv in ((0, 0), (self.heads - 1, key.shape[1] - 1)):
            k, v = (x[:1, head_kv : head_kv + 1, :length].detach() for x in (key, value))
            truth, _ = reference.attention(query[:1, head : head + 1, rows].detach(), k, v, spec)
            errors.append((out[:1, head : head + 1, rows].detach() - truth).abs().max().item())
        return max(errors)


def main_sweep():
    """The problems that everybody is compared on."""
    return [Problem(seqlen, head_dim, is_causal) for head_dim, is_causal, seqlen in itertools.product(HEAD_DIMS, (False, True), SEQLENS)]


def grid():
    """Every problem of the record."""
    yield from main_sweep()
    for head_dim, is_causal, seqlen in itertools.product(OTHER_HEAD_DIMS, (False, True), SEQLENS[1::2]):
        yield Problem(seqlen, head_dim, is_causal)
    for head_dim, is_causal in itertools.product(HEAD_DIMS, (False, True)):
        yield Problem(4096, head_dim, is_causal, dtype="float16")
    for head_dim in HEAD_DIMS:
        yield Problem(4096, head_dim, is_causal=True, group=4)
        yield Problem(4096, head_dim, window=512)
        yield Problem(TOKENS, head_dim, is_causal=True, packed=PACKED)
