"""flash-attn 2's functions, by their names, arguments and layout, computed by flashlab: one import line swaps the library.

    from flashlab.integrations.flash_attn import flash_attn_func

Everywhere below:

    q: (B, Sq, Hq, D); k: (B, Sk, Hkv, D); v: (B, Sk, Hkv, Dv), or packed (total, heads, head_dim) in the varlen functions; Hkv divides Hq.
        Dtypes are flashlab's: float16, bfloat16 and, unlike flash-attn, float32 (on a CPU also float64). Views, never copies.
    cu_seqlens_q, cu_seqlens_k: (sequences + 1,), int32: 0, then the running total of lengths. Empty sequences are allowed.
    max_seqlen_q, max_seqlen_k: accepted and not needed.
    dropout_p: the share of probabilities that becomes 0; pass 0.0 in evaluation.
    softmax_scale: multiplies the scores; default 1/√D.
    causal: the last row meets the last key (bottom right), which differs from torch SDPA where Sq ≠ Sk.
    window_size: (left, right): row i sees keys i + Sk − Sq − left … i + Sk − Sq + right; −1: all of that side.
    softcap: scores become softcap · tanh(score / softcap); 0.0: off.
    alibi_slopes: (Hq,) or (B, Hq), float32: −slope · |i + Sk − Sq − j| is added to the score.
    deterministic: the backward pass gives the same bits every run; False allows a faster one where flashlab has one.
    return_attn_probs: return (out, softmax_lse, None) instead of out. The third, flash-attn's S_dmask, is always None: probabilities are
        never formed. softmax_lse: (B, Hq, Sq), or (Hq, total_q) in the varlen functions, float32, natural log. Gradients flow through it.

Each returns out in q's layout and dtype: (B, Sq, Hq, Dv) or (total_q, Hq, Dv), contiguous where q is. A row that sees no key has out 0
and lse −inf (flash-attn says +inf). Raises ValueError for what cannot be honoured; its messages name q, k, v as query, key, value and show
their shapes in flashlab's order, (B, H, S, D).

Source: names, arguments and alignment of flash-attn 2.8, https://github.com/Dao-AILab/flash-attention, flash_attn/flash_attn_interface.py.
"""

import torch

from flashlab import decoding_checks
from flashlab.attention import attention, attention_varlen
from flashlab.decoding import attention_decode


def flash_attn_func(
    q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
    return_attn_probs=False,
):  # fmt: skip
    """Attention of q (B, Sq, Hq, D) over k and v (B, Sk, Hkv, D); returns (B, Sq, Hq, D). Arguments and errors: this module's docstring."""
    names = ("batch", "sequence", "heads", "head_dim")
    query, key, value = (_laid_out(name, x, names).transpose(1, 2) for name, x in (("q", q), ("k", k), ("v", v)))
    out, lse = attention(
        query, key, value, dropout_p=dropout_p, is_causal=causal, scale=softmax_scale, enable_gqa=True, alignment="bottom_right",
        window=window_size, softcap=softcap, alibi_slopes=alibi_slopes, deterministic=deterministic, return_lse=True,
    )  # fmt: skip
    out = out.transpose(1, 2)
    return (out, lse, None) if return_attn_probs else out


def flash_attn_kvpacked_func(
    q, kv, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
    return_attn_probs=False,
):  # fmt: skip
    """`flash_attn_func` for kv (B, Sk, 2, Hkv, D)."""
    k, v = _laid_out("kv", kv, ("batch", "sequence", 2, "heads", "head_dim")).unbind(2)
    return flash_attn_func(q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs)


def flash_attn_qkvpacked_func(
    qkv, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
    return_attn_probs=False,
):  # fmt: skip
    """`flash_attn_func` for qkv (B, S, 3, H, D)."""
    q, k, v = _laid_out("qkv", qkv, ("batch", "sequence", 3, "heads", "head_dim")).unbind(2)
    return flash_attn_func(q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
    softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False, block_table=None,
):  # fmt: skip
    """Attention of packed sequences: q (total_q, Hq, D), k and v (total_k, Hkv, D); returns (total_q, Hq, D).

    alibi_slopes: (Hq,) or (sequences, Hq). block_table must be None. All else and errors: this module's docstring.
    """
    if block_table is not None:
        raise ValueError(
            "block_table is given, and packed queries read no pages: use flash_attn_with_kvcache, which takes a block_table, or gather "
            "each sequence's pages into packed k and v (total_k, heads, head_dim) with their cu_seqlens_k, and pass block_table=None."
        )
    out, lse = attention_varlen(
        *(_laid_out(name, x, ("total", "heads", "head_dim")) for name, x in (("q", q), ("k", k), ("v", v))), cu_seqlens_q, cu_seqlens_k,
        dropout_p=dropout_p, is_causal=causal, scale=softmax_scale, enable_gqa=True, alignment="bottom_right", window=window_size,
        softcap=softcap, alibi_slopes=alibi_slopes, deterministic=deterministic, return_lse=True,
    )  # fmt: skip
    return (out, lse, None) if return_attn_probs else out


def flash_attn_varlen_kvpacked_func(
    q, kv, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
    softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False,
):  # fmt: skip
    """`flash_attn_varlen_func` for kv (total_k, 2, Hkv, D)."""
    k, v = _laid_out("kv", kv, ("total", 2, "heads", "head_dim")).unbind(1)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal, window_size, softcap,
        alibi_slopes, deterministic, return_attn_probs,
    )  # fmt: skip


def flash_attn_varlen_qkvpacked_func(
    qkv, cu_seqlens, max_seqlen, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
    deterministic=False, return_attn_probs=False,
):  # fmt: skip
    """`flash_attn_varlen_func` for qkv (total, 3, H, D)."""
    q, k, v = _laid_out("qkv", qkv, ("total", 3, "heads", "head_dim")).unbind(1)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes,
        deterministic, return_attn_probs,
    )  # fmt: skip


def flash_attn_with_kvcache(
    q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None,
    block_table=None, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, rotary_interleaved=True, alibi_slopes=None,
    num_splits=0, return_softmax_lse=False,
):  # fmt: skip
    """A few new tokens against a cache, in place: `flashlab.attention_decode` in flash-attn's layout, (B, Sq, Hq, D).

    q: (B, Sq, Hq, D); k_cache, v_cache: (B, capacity, Hkv, D), or with block_table (pages, page size, Hkv, D).
    k, v: (B, n, Hkv, D), written behind cache_seqlens, an int or (B,), int32. cache_batch_idx: (B,), int32: whose cache is read.
    cache_leftpad must be None. num_splits: 0 chooses. The rest and errors: this module's docstring, and that of `attention_decode`.
    Returns out, or with return_softmax_lse (out, lse (B, Hq, Sq)).
    """
    if cache_leftpad is not None:
        raise ValueError("cache_leftpad is given, and caches begin at key 0 here: shift each sequence to the start of its cache.")
    names = ("batch", "sequence", "heads", "head_dim")
    query, k_cache, v_cache = (_laid_out(*x, names).transpose(1, 2) for x in (("q", q), ("k_cache", k_cache), ("v_cache", v_cache)))
    key, value = (None if x is None else _laid_out(name, x, names).transpose(1, 2) for name, x in (("k", k), ("v", v)))
    if isinstance(cache_seqlens, int):
        cache_seqlens = torch.full(query.shape[:1], cache_seqlens, dtype=torch.int32, device=query.device)
    if cache_batch_idx is not None:
        if block_table is not None:
            raise ValueError("cache_batch_idx and block_table are both given: a table says already whose pages are read. Pass one of them.")
        indices = decoding_checks.cache_batch_idx(cache_batch_idx, query.shape[0], k_cache.shape[0], query.device)
        block_table = indices[:, None]  # a cache of one page each
    out, lse = attention_decode(
        query, k_cache, v_cache, cache_seqlens, key=key, value=value, block_table=block_table, scale=softmax_scale, is_causal=causal,
        window=window_size, softcap=softcap, alibi_slopes=alibi_slopes, rotary_cos=rotary_cos, rotary_sin=rotary_sin,
        rotary_interleaved=rotary_interleaved, splits=num_splits or None, return_lse=True,
    )  # fmt: skip
    out = out.transpose(1, 2)
    return (out, lse) if return_softmax_lse else out


def _laid_out(name, tensor, dims):
    """The tensor, if it has these dimensions; a number is a size that it must have there."""
    layout = f"({', '.join(map(str, dims))})"
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} is a {type(tensor).__name__}: pass a torch.Tensor {layout}.")
    fits = tensor.dim() == len(dims) and all(isinstance(dim, str) or size == dim for size, dim in zip(tensor.shape, dims, strict=True))
    if not fits:
        raise ValueError(f"{name} is {tuple(tensor.shape)}: flash-attn's layout here is {layout}. transpose or unsqueeze it to that.")
    return tensor
