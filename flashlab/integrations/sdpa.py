"""torch's `scaled_dot_product_attention`, computed by flashlab: one import line swaps it.

    from flashlab.integrations.sdpa import scaled_dot_product_attention

What torch's function accepts and `flashlab.attention` does not, any number of leading dimensions that broadcast, is seen to here.
"""

import math

import torch

from flashlab.attention import attention


def scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
    """`flashlab.attention` with the arguments, the shapes and the broadcasting of `torch.nn.functional.scaled_dot_product_attention`.

    Args:
        query: (…, Hq, Sq, D), also (Hq, Sq, D) and (Sq, D); float16, bfloat16 or float32 (on a CPU also float64).
        key: (…, Hkv, Sk, D); value: (…, Hkv, Sk, Dv). All dimensions before S broadcast between the three, as views.
        attn_mask: bool (True: takes part) or additive, in query's dtype or float32; broadcasts to (…, Hq, Sq, Sk). Gradients reach it.
        dropout_p: the share of probabilities that becomes 0. Which ones differs from torch for the same generator state.
        is_causal: a row sees no key to the right of the diagonal, which starts top left. Not together with attn_mask.
        scale: multiplies the scores before softmax; default 1/√D.
        enable_gqa: let each key head serve Hq / Hkv query heads.

    Returns:
        out (…, Hq, Sq, Dv) in query's dtype; the leading dimensions are those that the three broadcast to.

    Raises:
        ValueError: attn_mask together with is_causal, and whatever `flashlab.attention` cannot honour.

    Nothing is copied, except where more than one dimension stands before the heads and these cannot be seen as one.

    Source: torch.nn.functional.scaled_dot_product_attention, torch 2.13.
    """
    if attn_mask is not None and is_causal:
        raise ValueError(
            "attn_mask and is_causal=True are both given, and torch's function takes one of them: write the diagonal into the mask, "
            "`attn_mask & torch.ones(seqlen_q, seqlen_k, dtype=torch.bool).tril()`, or call flashlab.attention, which takes both."
        )
    tensors = (_dense(name, x) for name, x in (("query", query), ("key", key), ("value", value)))
    query, key, value = broadcast(*tensors, before=-3 if enable_gqa else -2)
    if isinstance(attn_mask, torch.Tensor):
        attn_mask = _mask_in_four_dims(attn_mask, query.shape[:-3])
    out = attention(
        *(_in_four_dims(x) for x in (query, key, value)), attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale,
        enable_gqa=enable_gqa,
    )  # fmt: skip
    return out.reshape(*query.shape[:-2], *out.shape[-2:])


def broadcast(query, key, value, before=-2):
    """The three with equal numbers of dimensions, and with equal sizes before dimension `before` where one of them is 1: views.

    Sizes that do not fit stay as they are: `attention` says what is wrong with them.
    """
    dims = max(query.dim(), key.dim(), value.dim())
    aligned = [x[(None,) * (dims - x.dim())] for x in (query, key, value)]
    whole = [next((size for size in sizes if size != 1), 1) for sizes in zip(*(x.shape[:before] for x in aligned), strict=True)]
    sizes = [[full if size == 1 else size for size, full in zip(x.shape, whole, strict=False)] for x in aligned]
    return [x.expand(*size, *x.shape[before:]) for x, size in zip(aligned, sizes, strict=True)]


def _in_four_dims(x):
    """(batch, heads, S, D) of a tensor with any dimensions before S."""
    return x.reshape(math.prod(x.shape[:-3]), x.shape[-3] if x.dim() > 2 else 1, *x.shape[-2:])


def _mask_in_four_dims(mask, batch):
    """The mask with one dimension before its heads, where it had as many as batch, or fewer."""
    own = mask.shape[:-3]
    if math.prod(own) == 1:
        return mask.reshape(1, *mask.shape[-3:])
    fits = len(own) <= len(batch) and all(size in (1, full) for size, full in zip(reversed(own), reversed(batch), strict=False))
    return mask.expand(*batch, *mask.shape[-3:]).flatten(0, -4) if fits else mask


def _dense(name, x):
    if not isinstance(x, torch.Tensor):
        raise ValueError(f"{name} is a {type(x).__name__}: pass a torch.Tensor of shape (…, heads, sequence, head_dim).")
    if x.is_nested:
        raise ValueError(f"{name} is a nested tensor: pass its values, one sequence after another, to flashlab.attention_varlen.")
    if x.dim() < 2:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: at least (sequence, head_dim) is needed. For one row, {name}.unsqueeze(0).")
    return x
