"""The public function: what every argument means, every check and its message."""

import math
import numbers

import torch

from flashlab import ops

MAX_HEAD_DIM = 128
DTYPES = {
    "cuda": (torch.float16, torch.bfloat16, torch.float32),
    "cpu": (torch.float16, torch.bfloat16, torch.float32, torch.float64),
}


def attention(query, key, value, *, is_causal=False, scale=None, enable_gqa=False, return_lse=False):
    """Exact softmax attention, softmax(scale · QKᵀ) V, in O(Sq + Sk) extra memory. Differentiable.

    On CUDA this runs Triton kernels, on a CPU the same algorithm in plain torch. Inputs may have any strides; none is copied.

    Args:
        query: (B, Hq, Sq, D); float16, bfloat16 or float32 (on a CPU also float64). 1 ≤ D ≤ 128.
        key, value: (B, Hkv, Sk, D), same dtype and device as query.
        is_causal: query row i sees keys 0 … i, also when Sq ≠ Sk: the diagonal starts top left, as in torch SDPA.
        scale: multiplies the scores before softmax; default 1/√D.
        enable_gqa: allow Hkv to be a divisor of Hq; query head h then reads key head h // (Hq / Hkv).
        return_lse: also return the logsumexp of each row of scaled scores, through which gradients flow too.

    Returns:
        out (B, Hq, Sq, D) in query's dtype; with return_lse the pair (out, lse), lse (B, Hq, Sq), float32, natural log.
        A row that sees no key has out 0, lse −inf and gradients 0.

    Raises:
        ValueError: an argument that cannot be honoured: what was given, and what would be.

    Scores and sums are float32 (float64 for float64 inputs). float32 inputs are multiplied exactly unless
    `torch.set_float32_matmul_precision` allows TF32. The backward pass gives the same bits every run.

    Source: Dao, FlashAttention-2 (2023), Algorithms 1 and 2.
    """
    _check_tensors(query, key, value)
    _check_heads(query, key, value, enable_gqa)
    out, lse = ops.attention_forward(query, key, value, _checked_scale(scale, query.shape[-1]), bool(is_causal))
    return (out, lse) if return_lse else out


def _check_tensors(query, key, value):
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}: pass a torch.Tensor of shape (batch, heads, sequence, head_dim).")
        if tensor.dim() != 4:
            raise ValueError(
                f"{name} has {tensor.dim()} dimensions, {_shape(tensor)}: 4 are needed, (batch, heads, sequence, head_dim). "
                "For one head, unsqueeze the missing ones."
            )
    for name, tensor in (("key", key), ("value", value)):
        if tensor.dtype != query.dtype:
            raise ValueError(
                f"{name} is {tensor.dtype} and query {query.dtype}: cast them to one dtype, for example {name}.to(query.dtype)."
            )
        if tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device} and query on {query.device}: move it with {name}.to(query.device).")
    device = query.device.type
    if device not in DTYPES and device != "meta":
        raise ValueError(f"query is on {query.device}: flashlab runs on cuda and cpu. Move the tensors with .to('cpu') or .to('cuda').")
    allowed = DTYPES.get(device, DTYPES["cpu"])
    if query.dtype not in allowed:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise ValueError(f"query is {query.dtype}: on {device} flashlab computes {names}. Cast query, key and value to one of them.")


def _check_heads(query, key, value, enable_gqa):
    shapes = f"query: {_shape(query)}, key: {_shape(key)}, value: {_shape(value)}"
    if not query.shape[0] == key.shape[0] == value.shape[0]:
        raise ValueError(f"batch sizes differ: all three tensors need the same first dimension. {shapes}.")
    if key.shape[1] != value.shape[1] or key.shape[2] != value.shape[2]:
        raise ValueError(f"key and value need the same heads and the same sequence length. {shapes}.")
    if not query.shape[3] == key.shape[3] == value.shape[3]:
        raise ValueError(f"head dims differ: query, key and value need the same last dimension. {shapes}.")
    head_dim, heads, heads_kv = query.shape[3], query.shape[1], key.shape[1]
    if not 1 <= head_dim <= MAX_HEAD_DIM:
        raise ValueError(
            f"head_dim is {head_dim}: flashlab computes 1 to {MAX_HEAD_DIM}. Split the model dimension over more heads. {shapes}."
        )
    if heads < 1 or heads_kv < 1:
        raise ValueError(f"at least one head is needed. {shapes}.")
    if heads == heads_kv:
        return
    if heads % heads_kv:
        divisors = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise ValueError(f"key has {heads_kv} heads and query {heads}: grouped heads need a divisor ({divisors}). {shapes}.")
    if not enable_gqa:
        raise ValueError(f"key has {heads_kv} heads and query {heads}: pass enable_gqa=True to let each key head serve a group. {shapes}.")


def _checked_scale(scale, head_dim):
    if scale is None:
        return head_dim**-0.5
    if isinstance(scale, bool) or not isinstance(scale, numbers.Real) or not math.isfinite(scale):
        raise ValueError(f"scale is {scale!r}: pass a finite number, or None for 1/sqrt(head_dim) = {head_dim**-0.5:.4g}.")
    return float(scale)


def _shape(tensor):
    return tuple(tensor.shape)
