"""How tensors lie: what every path agrees on."""

import torch


def empty_out(query, value):
    """An output tensor (B, Hq, Sq, Dv) for `query`, in its memory order: heads inside of the sequence, or outside."""
    if query.shape[-1] == value.shape[-1]:
        return torch.empty_like(query)
    batch, heads, seqlen, _ = query.shape
    if query.stride(1) < query.stride(2):
        return query.new_empty(batch, seqlen, heads, value.shape[-1]).transpose(1, 2)
    return query.new_empty(batch, heads, seqlen, value.shape[-1])


def accumulation_dtype(x):
    """What scores and sums are kept in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
