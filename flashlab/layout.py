"""How tensors lie, and what is computed with how many digits: what every path agrees on."""

import torch


def empty_out(query, value):
    """An output tensor (B, Hq, Sq, Dv) for `query`, in its memory order: heads inside of the sequence, or outside."""
    if query.shape[-1] == value.shape[-1]:
        return torch.empty_like(query)
    batch, heads, seqlen, _ = query.shape
    if query.stride(1) < query.stride(2):
        return query.new_empty(batch, seqlen, heads, value.shape[-1]).transpose(1, 2)
    return query.new_empty(batch, heads, seqlen, value.shape[-1])


def empty_results(query, value, packed):
    """(out, lse) to be written. packed: rows that no sequence owns see no key, so nothing is left of what was in memory before."""
    batch, heads, seqlen, _ = query.shape
    out, lse = empty_out(query, value), query.new_empty((batch, heads, seqlen), dtype=accumulation_dtype(query))
    return (out.zero_(), lse.fill_(-torch.inf)) if packed else (out, lse)


def empty_gradients(*tensors, packed):
    """One for each tensor, to be written. packed: rows that no sequence owns have gradients of 0."""
    return [torch.zeros_like(x) if packed else torch.empty_like(x) for x in tensors]


def allows_tf32():
    """Whether the user lets a GPU multiply float32 numbers as TF32, by torch's older switch or by its newer one."""
    try:
        return torch.backends.cuda.matmul.fp32_precision == "tf32"
    except AttributeError:  # before torch 2.9
        return torch.get_float32_matmul_precision() != "highest"


def accumulation_dtype(x):
    """What scores and sums are kept in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
