"""Peak memory of forward and backward together, beyond the inputs, as the sequence grows."""

import torch

from flashlab import attention
from flashlab.bench.peak import peak_bytes

HEADS, HEAD_DIM = 8, 64
SEQLENS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
NAIVE_LIMIT = 32768  # beyond, one S×S matrix of 8 heads in bfloat16 is 64 GiB


def measure(seqlen):
    """Extra bytes of one training step of attention: flashlab, and attention as the formula says it."""
    row = {"seqlen": seqlen, "heads": HEADS, "head_dim": HEAD_DIM, "dtype": "bfloat16", "is_causal": False}
    row["flashlab"] = _extra(seqlen, attention)
    row["naive"] = _extra(seqlen, _naive) if seqlen <= NAIVE_LIMIT else None
    return row


def _naive(query, key, value):
    return (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1) @ value


def _extra(seqlen, attend):
    query, key, value = (torch.randn(1, HEADS, seqlen, HEAD_DIM, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in range(3))
    grad_out = torch.randn_like(query)
    torch.autograd.grad(attend(query, key, value), (query, key, value), grad_out)  # compile before measuring
    return peak_bytes(lambda: torch.autograd.grad(attend(query, key, value), (query, key, value), grad_out), "cuda")
