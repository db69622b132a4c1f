"""Speed beside FlashAttention-2 as torch ships it, in the same run on the same tensors.

FLOPs: forward 4·B·H·S²·D (half when causal), backward 2.5 times that. Times are medians; the L2 cache is flushed between runs.
"""

import itertools

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashlab import attention, reference
from flashlab.bench.timing import milliseconds
from flashlab.spec import Spec

TOKENS = 16384  # B·S
WIDTH = 2048  # H·D
SEQLENS = (1024, 4096, 16384)
HEAD_DIMS = (64, 128)


def cases():
    """(seqlen, head_dim, is_causal) of every row of the record."""
    return list(itertools.product(SEQLENS, HEAD_DIMS, (False, True)))


def measure(seqlen, head_dim, is_causal):
    """TFLOP/s of forward and backward in bfloat16, for flashlab and for SDPA's FlashAttention-2."""
    batch, heads = TOKENS // seqlen, WIDTH // head_dim
    query, key, value, grad_out = (torch.randn(batch, heads, seqlen, head_dim, dtype=torch.bfloat16, device="cuda") for _ in range(4))
    leaves = [x.requires_grad_() for x in (query, key, value)]
    flops = 4 * batch * heads * seqlen**2 * head_dim * (0.5 if is_causal else 1)
    row = {"seqlen": seqlen, "head_dim": head_dim, "is_causal": is_causal, "dtype": "bfloat16", "batch": batch, "heads": heads}
    implementations = {
        "flashlab": lambda: attention(*leaves, is_causal=is_causal),
        "fa2": lambda: _fa2(*leaves, is_causal),
    }
    for name, attend in implementations.items():
        out = attend()
        row[f"{name}_error"] = _error(out, query, key, value, is_causal)
        row[f"{name}_forward"] = flops / milliseconds(attend) / 1e9
        row[f"{name}_backward"] = (
            2.5 * flops / milliseconds(lambda out=out: torch.autograd.grad(out, leaves, grad_out, retain_graph=True)) / 1e9
        )
    return row


def _fa2(query, key, value, is_causal):
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(query, key, value, is_causal=is_causal)


def _error(out, query, key, value, is_causal):
    """Largest error of the first head and its first 1024 rows against the oracle: checked before it is timed."""
    rows = slice(0, 1024)
    spec = Spec(query.shape[-1] ** -0.5, is_causal)
    truth, _ = reference.attention(query[:1, :1, rows], key[:1, :1], value[:1, :1], spec)
    error = (out[:1, :1, rows] - truth).abs().max().item()
    if not error < 0.05:
        raise AssertionError(f"wrong result (error {error}) for {tuple(query.shape)}, is_causal={is_causal}: not timed")
    return error
