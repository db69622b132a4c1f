"""The public functions: what every argument means, and how it becomes a `Spec`, its `Extras` and one call of the operators."""

import torch

from flashlab import blocks, checks, ops
from flashlab.layout import allows_tf32
from flashlab.remembered import Remembered
from flashlab.spec import NO_EXTRAS, Extras, Spec

_calls = Remembered()  # calls that have been made, of numbers and words alone: (Spec, what computes them)
ALIGNMENT = 16  # bytes: for tensors that begin elsewhere Triton compiles other kernels
NOTHING = {type(None)}
NUMBERS_AND_WORDS = {type(None), bool, int, float, str}


def attention(
    query, key, value, *,
    attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False,
    alignment="top_left", window=None, softcap=None, alibi_slopes=None, sinks=None,
    mask_mod=None, bias_mod=None, query_labels=None, key_labels=None, block_mask=None, seed=None, deterministic=True, return_lse=False,
):  # fmt: skip
    """Exact softmax attention, softmax(scale · QKᵀ) V, in O(Sq + Sk) extra memory. Differentiable, also twice.

    On CUDA this runs Triton kernels, on a CPU the same algorithm in plain torch. Inputs may have any strides; none is copied.
    `flashlab.explain` takes the same arguments and says which path a call takes.

    Args:
        query: (B, Hq, Sq, D); float16, bfloat16 or float32 (on a CPU also float64). 1 ≤ D ≤ 256.
        key: (B, Hkv, Sk, D), value: (B, Hkv, Sk, Dv), same dtype and device as query. 1 ≤ Dv ≤ 256. Under autocast all three are cast.
        attn_mask: as in torch SDPA: bool (True: takes part) or additive, in query's dtype or float32; at most 4 dimensions that broadcast
            to (B, Hq, Sq, Sk), none of them copied. Gradients reach an additive mask.
        dropout_p: the share of probabilities that becomes 0, 0 ≤ dropout_p < 1; the rest grows by 1 / (1 − dropout_p).
        is_causal: a row sees no key to the right of the diagonal.
        scale: multiplies the scores before softmax; default 1/√D.
        enable_gqa: allow Hkv to be a divisor of Hq; query head h then reads key head h // (Hq / Hkv).
        alignment: where the diagonal lies when Sq ≠ Sk, for is_causal, window and ALiBi. "top_left": row i meets key i, as in torch SDPA.
            "bottom_right": the last row meets the last key, as in flash-attn.
        window: (left, right): a row sees that many keys before and after the diagonal; −1 or None: all of that side.
        softcap: scores become softcap · tanh(score / softcap), before anything is added to them. None or 0: off.
        alibi_slopes: (Hq,) or (B, Hq), float32: −slope · distance to the diagonal is added to the score.
        sinks: (Hq,), query's dtype or float32: a logit of each head that takes part in softmax's denominator and in lse but has no value.
            Gradients reach it.
        mask_mod: a predicate (batch, head, i, j) → may i see j?, made of operators alone, preferably `@triton.jit`: the kernels inline it,
            and elsewhere it is called on integer tensors. With labels it is called with (batch, head, i, j, label_i, label_j).
        bias_mod: the same for a number that is added to the score. A tensor that it closes over gets no gradient: learn an attn_mask.
        query_labels, key_labels: (B or 1, Sq) and (B or 1, Sk), int32: what mask_mod is told of a position, for example its document.
        block_mask: `flashlab.block_mask(mask_mod, …)`; instead of mask_mod and its labels. Empty tiles are then skipped.
        seed: an int; the same seed drops the same pairs, on a CPU and a GPU alike. None: drawn from torch's generator.
        deterministic: the backward pass gives the same bits every run. False: query's gradient may be summed in any order, where that pays:
            today in calls of a certain size on Hopper GPUs (`explain` says so). It stays True under torch.use_deterministic_algorithms.
        return_lse: also return the logsumexp of each row of shaped scores, through which gradients flow too.

    Returns:
        out (B, Hq, Sq, Dv) in query's dtype; with return_lse the pair (out, lse), lse (B, Hq, Sq), float32, natural log.
        A row that sees no key has out 0, lse −inf and gradients 0.

    Raises:
        ValueError: an argument that cannot be honoured: what was given, and what would be.
        NotImplementedError: forward-mode derivatives (`torch.func.jvp`), batches of gradients (`is_grads_batched`), and transforms of
            `torch.func` inside of each other that are to be compiled in one graph.

    Scores and sums are float32 (float64 for float64 inputs). float32 inputs are multiplied exactly unless torch is told to allow TF32
    (`torch.set_float32_matmul_precision`, or `torch.backends.cuda.matmul.fp32_precision`).

    Source: Dao, FlashAttention-2 (2023), Algorithms 1 and 2; the order cap, bias, mask is that of flash-attn.
    """
    query, key, value = _autocast(query, key, value)
    call = _call(
        (query, key, value), (attn_mask, alibi_slopes, sinks, mask_mod, bias_mod, query_labels, key_labels, block_mask),
        (dropout_p, is_causal, scale, enable_gqa, alignment, softcap, seed, deterministic), window,
    )  # fmt: skip
    known = None if call is None else _calls.get(call)
    if known is not None:
        out, lse = ops.apply_again(query, key, value, *known)
    else:
        query, key, value, spec, extras = described(
            query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa,
            alignment=alignment, window=window, softcap=softcap, alibi_slopes=alibi_slopes, sinks=sinks,
            mask_mod=mask_mod, bias_mod=bias_mod, query_labels=query_labels, key_labels=key_labels, block_mask=block_mask, seed=seed,
            deterministic=deterministic,
        )  # fmt: skip
        out, lse = ops.apply(query, key, value, spec, extras)
        if call is not None and extras is NO_EXTRAS:
            _calls.keep(call, (spec, ops.forward_like(query, key, value, spec)))
    return (out, lse) if return_lse else out


def attention_varlen(
    query, key, value, cu_seqlens_q, cu_seqlens_k, *,
    dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False,
    alignment="top_left", window=None, softcap=None, alibi_slopes=None, sinks=None,
    mask_mod=None, bias_mod=None, query_labels=None, key_labels=None, seed=None, deterministic=True, return_lse=False,
):  # fmt: skip
    """Attention of many sequences that lie one after another, without padding: each row sees the keys of its own sequence alone.

    No longest length is asked for and none is computed: nothing waits for the GPU. Empty sequences are allowed.

    Args:
        query: (total_q, Hq, D); key: (total_k, Hkv, D); value: (total_k, Hkv, Dv).
        cu_seqlens_q, cu_seqlens_k: (sequences + 1,), int32, on query's device: 0, then the running total of lengths. Sequence n is made of
            the rows cu_seqlens[n] … cu_seqlens[n + 1] − 1. On a CPU their contents are checked, but not where torch.compile traces the
            call or torch.vmap maps over them.
        query_labels, key_labels: (total_q,) and (total_k,).
        alibi_slopes: (Hq,) or (sequences, Hq).
        Everything else as in `attention`, where batch is the number of the sequence, and i and j count from its beginning.

    Returns:
        out (total_q, Hq, Dv); with return_lse the pair (out, lse), lse (Hq, total_q), float32, natural log.
        Where contents are not checked, rows behind the last sequence (padding) have out 0, lse −inf and gradients 0.

    Raises:
        ValueError: as `attention`.
    """
    query, key, value = _autocast(query, key, value)
    checks.tensors(query, key, value, dims=3)
    query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))  # (1, H, total, D), as views
    checks.heads(query, key, value, enable_gqa)
    checks.cu_seqlens(cu_seqlens_q, cu_seqlens_k, query, key)
    spec = _spec(query, is_causal, scale, alignment, window, softcap, dropout_p, mask_mod, bias_mod, deterministic)
    if query_labels is not None and key_labels is not None:
        query_labels, key_labels = (x[None] if isinstance(x, torch.Tensor) else x for x in (query_labels, key_labels))
    extras = Extras(
        alibi_slopes=checks.alibi_slopes(alibi_slopes, query, len(cu_seqlens_q) - 1),
        sinks=checks.sinks(sinks, query),
        seed=_seed(seed, spec.dropout_p, query.device),
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        **checks.labels(query_labels, key_labels, mask_mod, (1, query.shape[2]), (1, key.shape[2]), query.device),
    )
    out, lse = ops.apply(query, key, value, spec, extras)
    out, lse = out.squeeze(0).transpose(0, 1), lse.squeeze(0)
    return (out, lse) if return_lse else out


def block_mask(mask_mod, seqlen_q, seqlen_k, *, batch=1, heads=1, query_labels=None, key_labels=None, device=None):
    """Find once which tiles of a mask are empty and which are full, so that the kernels skip the first and do not test the second.

    Args:
        mask_mod: (batch, head, i, j) → may i see j?, or with labels (batch, head, i, j, label_i, label_j); see `attention`.
        seqlen_q, seqlen_k: the lengths it will be used with.
        batch, heads: how many batch elements and heads the mask differs between; 1: it is the same for all.
        query_labels, key_labels: (batch or 1, seqlen_q) and (batch or 1, seqlen_k), int32.
        device: where the mask will be used; default: that of the labels, or the CPU.

    Returns:
        a `BlockMask`, for attention(…, block_mask=…). Its `visible_share` is the share of tiles that are visited at all.

    Raises:
        ValueError: an argument that cannot be honoured.
    """
    if device is None:
        device = query_labels.device if isinstance(query_labels, torch.Tensor) else "cpu"
    checks.block_mask_sizes(mask_mod, seqlen_q, seqlen_k, batch, heads)
    labels = checks.labels(query_labels, key_labels, mask_mod, (batch, seqlen_q), (batch, seqlen_k), torch.device(device))
    return blocks.build(mask_mod, seqlen_q, seqlen_k, batch, heads, *labels.values(), device)


def described(
    query, key, value, *,
    attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False,
    alignment="top_left", window=None, softcap=None, alibi_slopes=None, sinks=None,
    mask_mod=None, bias_mod=None, query_labels=None, key_labels=None, block_mask=None, seed=None, deterministic=True,
):  # fmt: skip
    """Checked arguments of `attention` as (query, key, value, Spec, Extras): all that is ever computed from."""
    query, key, value = _autocast(query, key, value)
    checks.tensors(query, key, value, dims=4)
    checks.heads(query, key, value, enable_gqa)
    if block_mask is not None:
        checks.block_mask(block_mask, query, key, mask_mod, query_labels, key_labels, is_causal, window)
        mask_mod, query_labels, key_labels = block_mask.mask_mod, block_mask.query_labels, block_mask.key_labels
    spec = _spec(query, is_causal, scale, alignment, window, softcap, dropout_p, mask_mod, bias_mod, deterministic)
    extras = Extras(
        attn_mask=checks.attn_mask(attn_mask, query, key),
        alibi_slopes=checks.alibi_slopes(alibi_slopes, query, query.shape[0]),
        sinks=checks.sinks(sinks, query),
        seed=_seed(seed, spec.dropout_p, query.device),
        row_blocks=None if block_mask is None else block_mask.row_blocks,
        key_blocks=None if block_mask is None else block_mask.key_blocks,
        **checks.labels(query_labels, key_labels, mask_mod, (query.shape[0], query.shape[2]), (key.shape[0], key.shape[2]), query.device),
    )
    return query, key, value, spec, extras if any(x is not None for x in extras) else NO_EXTRAS


def forget():
    """Check all calls anew, and ask anew which kernels they take: for who changes by what those are chosen."""
    _calls.clear()


def _call(tensors, features, numbers, window):
    """All that a call's checks and the choice of its kernel look at, so that neither need be repeated. None: they must.

    They must where a feature is a tensor or a function, and where anybody watches: to torch's compiler sizes are not numbers.
    Types are part of it: 1, 1.0 and True are equal, and not equally allowed.
    """
    if ops.is_watched() or not NOTHING.issuperset(map(type, features)):
        return None
    types = tuple(map(type, (*numbers, *window) if type(window) is tuple else (*numbers, window)))
    if not NUMBERS_AND_WORDS.issuperset(types):
        return None
    looks = []
    for x in tensors:
        if not ops.is_plain(x) or x.layout != torch.strided:
            return None
        try:
            looks += x.dtype, x.device, x.shape, x.stride(), x.data_ptr() % ALIGNMENT
        except RuntimeError:  # what is left of a tensor of torch.func's has no address
            return None
    return (*looks, numbers, window, types, torch.are_deterministic_algorithms_enabled(), x.dtype == torch.float32 and allows_tf32())


def _spec(query, is_causal, scale, alignment, window, softcap, dropout_p, mask_mod, bias_mod, deterministic):
    return Spec(
        scale=checks.scale(scale, query.shape[-1]),
        is_causal=bool(is_causal),
        window=checks.window(window),
        bottom_right=checks.alignment(alignment) == "bottom_right",
        softcap=checks.softcap(softcap),
        dropout_p=checks.dropout_p(dropout_p),
        mask_mod=checks.mod("mask_mod", mask_mod),
        bias_mod=checks.mod("bias_mod", bias_mod),
        deterministic=bool(deterministic) or torch.are_deterministic_algorithms_enabled(),
    )


def _autocast(query, key, value):
    """Under autocast, tensors of any floating dtype are computed in the one that the user chose, as in torch SDPA."""
    device = query.device.type if isinstance(query, torch.Tensor) else "meta"
    if device == "meta" or not torch.is_autocast_enabled(device):
        return query, key, value
    dtype = torch.get_autocast_dtype(device)
    castable = (torch.float16, torch.bfloat16, torch.float32)
    return tuple(x.to(dtype) if isinstance(x, torch.Tensor) and x.dtype in castable else x for x in (query, key, value))


def _seed(seed, dropout_p, device):
    """(1,), int32, on the device: no value travels to the GPU and back."""
    seed = checks.seed(seed)
    if not dropout_p:
        return None
    if seed is None:
        return torch.randint(-(2**31), 2**31, (1,), dtype=torch.int32, device=device)
    return torch.full((1,), seed, dtype=torch.int32, device=device)
