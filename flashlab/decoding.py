"""Inference from a cache of keys and values: the public function, its operators, and the CPU path."""

import torch

from flashlab import blockwise, checks, decoding_checks
from flashlab.layout import accumulation_dtype, empty_out
from flashlab.spec import NO_EXTRAS, Extras, Spec


def attention_decode(
    query, k_cache, v_cache, cache_lengths=None, *, key=None, value=None, block_table=None,
    scale=None, is_causal=True, window=None, softcap=None, alibi_slopes=None, sinks=None,
    rotary_cos=None, rotary_sin=None, rotary_interleaved=False, k_scale=None, v_scale=None,
    splits=None, check=False, return_lse=False,
):  # fmt: skip
    """Attention of one or a few new tokens of each sequence over a cache of keys and values. For inference: no gradients.

    The keys are split over the GPU's multiprocessors and the parts joined by their logsumexp, so that one sequence keeps all of them
    busy. A group of query heads reads each key once. Nothing waits for the GPU: lengths may change under a CUDA graph.

    Args:
        query: (B, Hq, Sq, D), the new tokens; float16, bfloat16 or float32. Sq may be large: a prompt in chunks.
        k_cache: (B, Hkv, capacity, D), v_cache: (B, Hkv, capacity, Dv); query's dtype or float8_e4m3fn. Hkv divides Hq. Any strides.
            With block_table they hold pages: (pages, Hkv, page size, D) and (pages, Hkv, page size, Dv). Under autocast query, key and
            value are cast to the cache's dtype, or where that is fp8 to the chosen one; the cache, written in place, never is.
        cache_lengths: (B,), int32: keys that each sequence has in the cache, before key and value are added. None: the whole capacity.
        key, value: (B, Hkv, n, D) and (B, Hkv, n, Dv): written into the cache, in place, behind those keys; then they take part.
        block_table: (B, pages of a sequence), int32: sequence b has its keys in pages block_table[b, 0], block_table[b, 1], …, in any
            order. Entries past its length are never read.
        scale, softcap, sinks: as in `attention`; alibi_slopes: (Hq,) or (B, Hq).
        is_causal: new token i does not see the new tokens behind it; the last one meets the last key.
        window: (left, right), counted from that diagonal.
        rotary_cos, rotary_sin: (positions, r / 2), for as many positions as the cache has room for, and for rows of query that may lie
            behind a full cache, their keys not being added: the first r dims of query and key are turned by the angles of their position.
            With is_causal or a window token i lies at position cache_lengths + i, else every row of query at cache_lengths.
        rotary_interleaved: pairs are dims (0, 1), (2, 3), …; else (0, r / 2), (1, r / 2 + 1), …
        k_scale, v_scale: (Hkv,), float32: an fp8 cache holds key / k_scale and value / v_scale. Its numbers have 3 bits of fraction: each
            is off by up to 1/16 of itself, and outputs by a few percent. Keys and values that are appended are rounded so, too.
        splits: into how many parts the keys are split, 1 to 128; None: chosen by the GPU and the capacity.
        check: look at the numbers in cache_lengths and block_table before they are used, which waits for the GPU. On a CPU always.
            Never where torch.compile traces the call, or torch.vmap maps over them.
        return_lse: also return the logsumexp of each row, (B, Hq, Sq), float32, natural log.

    Returns:
        out (B, Hq, Sq, Dv) in query's dtype, or (out, lse). A row that sees no key has out 0 and lse −inf.

    Raises:
        ValueError: an argument that cannot be honoured: what was given, and what would be. The cache is then as it was.

    Source: split keys as in Flash-Decoding (Dao et al. 2023), pages as in PagedAttention (Kwon et al. 2023).
    """
    query, key, value = (_autocast(x, k_cache) for x in (query, key, value))
    decoding_checks.caches(query, k_cache, v_cache, block_table)
    decoding_checks.no_gradient(query, key, value, k_cache, v_cache, alibi_slopes, sinks, rotary_cos, rotary_sin, k_scale, v_scale)
    batch, pages, page = query.shape[0], k_cache.shape[0], k_cache.shape[2]
    capacity = page if block_table is None else page * (block_table.shape[1] if isinstance(block_table, torch.Tensor) else 0)
    added, look = decoding_checks.new_keys(key, value, query, k_cache, v_cache), check or query.device.type == "cpu"
    lengths = decoding_checks.cache_lengths(cache_lengths, batch, capacity, added, query.device, look)
    table = decoding_checks.block_table(block_table, batch, pages, page, lengths, added, query.device, look)
    edges = checks.window(window)
    each = bool(is_causal) or edges != checks.window(None)  # rows lie at positions of their own
    decoding_checks.rotary(rotary_cos, rotary_sin, query, lengths, capacity, capacity - added + (query.shape[2] if each else 1))
    scales = decoding_checks.cache_scales(k_scale, v_scale, k_cache) or (None, None)
    angles, splits = (rotary_cos, rotary_sin, bool(rotary_interleaved)), decoding_checks.splits(splits)
    features = (
        checks.alibi_slopes(alibi_slopes, query, batch),
        checks.sinks(sinks, query),
        checks.scale(query.shape[-1] ** -0.5 if scale is None else scale, query.shape[-1]),
        bool(is_causal),
        *edges,
        checks.softcap(softcap),
    )
    if added:  # only now: a call that is refused leaves the cache as it was
        decoding_checks.written_once(
            key=key, value=value, k_cache=k_cache, v_cache=v_cache, cache_lengths=lengths, block_table=table, k_scale=k_scale,
            v_scale=v_scale, rotary_cos=rotary_cos, rotary_sin=rotary_sin,
        )  # fmt: skip
        torch.ops.flashlab.append(key, value, k_cache, v_cache, lengths, table, *scales, *angles)
    if rotary_cos is not None:
        query = torch.ops.flashlab.rotate(query, lengths, *angles, each)
    out, lse = torch.ops.flashlab.decode(query, k_cache, v_cache, lengths, added, table, *scales, splits, *features)
    return (out, lse) if return_lse else out


def _autocast(x, cache):
    """Under autocast, what meets a cache is computed in the cache's dtype, or where that is fp8 in the one that the user chose."""
    castable = checks.DTYPES["cuda"]
    if not isinstance(x, torch.Tensor) or not isinstance(cache, torch.Tensor) or x.dtype not in castable:
        return x
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return x
    return x.to(cache.dtype if cache.dtype in castable else torch.get_autocast_dtype(device))


def _described(slopes, sinks, scale, is_causal, left, right, softcap):
    spec = Spec(scale, is_causal, (left, right), bottom_right=True, softcap=softcap)
    return spec, NO_EXTRAS if slopes is None and sinks is None else Extras(alibi_slopes=slopes, sinks=sinks)


def _scales(k_scale, v_scale):
    return None if k_scale is None else (k_scale, v_scale)


# -------------------------------------------------------------------------------------------------------------- on a CPU


@torch.autocast("cpu", enabled=False)
def _decode_on_cpu(query, k_cache, v_cache, lengths, added, table, k_scale, v_scale, splits, slopes, *features):
    out, lse = _decode_shapes(query, k_cache, v_cache)
    for b in _sequences(len(query), lengths, table):
        length = None if lengths is None else int(lengths[b.start]) + added
        k, v = (_keys_of(cache, b, length, table, x_scale) for cache, x_scale in ((k_cache, k_scale), (v_cache, v_scale)))
        own_slopes = slopes if slopes is None or len(slopes) == 1 else slopes[b]
        out[b], lse[b] = blockwise.forward(query[b], k, v, *_described(own_slopes, *features))
    return out, lse


def _sequences(batch, lengths, table):
    """Which sequences are computed together, as slices: all of them where their keys lie side by side and are as many."""
    if batch and table is None and (lengths is None or bool((lengths == lengths[0]).all())):
        return [slice(0, batch)]
    return [slice(b, b + 1) for b in range(batch)]


def _keys_of(cache, b, length, table, scale):
    """The first keys (or values) of the sequences b, (…, Hkv, length, D). length None: all that there is room for."""
    if table is None:
        found = cache[b]
    else:
        pages = table[b.start] if length is None else table[b.start, : -(-length // cache.shape[2])]
        found = cache[pages.long()].transpose(0, 1).flatten(1, 2)[None]
    found = found[:, :, :length]
    return found if scale is None else found.float() * scale[:, None, None]


def _append_on_cpu(key, value, k_cache, v_cache, lengths, table, k_scale, v_scale, cos, sin, interleaved):
    if cos is not None:
        key = _rotate_on_cpu(key, lengths, cos, sin, interleaved, True)
    page = k_cache.shape[2]
    for b in range(len(key)):
        j = int(lengths[b]) + torch.arange(key.shape[2])
        rows = torch.full_like(j, b) if table is None else table[b, j // page].long()
        for cache, x, scale in ((k_cache, key, k_scale), (v_cache, value, v_scale)):
            x = x[b] if scale is None else x[b].float() / scale[:, None, None]
            cache[rows, :, j if table is None else j % page] = x.transpose(0, 1).to(cache.dtype)


def _rotate_on_cpu(query, lengths, cos, sin, interleaved, each):
    rows = torch.arange(query.shape[2]) if each else torch.zeros(query.shape[2], dtype=torch.int64)
    positions = lengths[:, None].long() + rows  # (B, S)
    c, s = (x[positions][:, None].to(accumulation_dtype(query)) for x in (cos, sin))  # (B, 1, S, r / 2)
    turned = query[..., : 2 * cos.shape[1]].to(c.dtype)
    x, y = turned.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else turned.chunk(2, dim=-1)
    pair = x * c - y * s, x * s + y * c
    out = query.clone()  # lies as query does, like the kernel's
    out[..., : 2 * cos.shape[1]] = torch.stack(pair, dim=-1).flatten(-2) if interleaved else torch.cat(pair, dim=-1)
    return out


# ------------------------------------------------------------------------------------------------------------- operators


def _decode_on_cuda(query, k_cache, v_cache, lengths, added, table, k_scale, v_scale, splits, *features):
    from flashlab.kernels.decode import decode

    spec, extras = _described(*features)
    with torch.cuda.device_of(query):
        return decode(query, k_cache, v_cache, spec, extras, lengths, added, table, _scales(k_scale, v_scale), splits)


def _append_on_cuda(key, value, k_cache, v_cache, lengths, table, k_scale, v_scale, cos, sin, interleaved):
    from flashlab.kernels.decode import append

    with torch.cuda.device_of(key):
        append(key, value, k_cache, v_cache, lengths, table, _scales(k_scale, v_scale), cos, sin, interleaved)


def _rotate_on_cuda(query, lengths, cos, sin, interleaved, each):
    from flashlab.kernels.decode import rotate

    with torch.cuda.device_of(query):
        return rotate(query, lengths, cos, sin, interleaved, each)


def _decode_shapes(query, k_cache, v_cache, *_):
    return empty_out(query, v_cache), query.new_empty(query.shape[:3], dtype=accumulation_dtype(query))


def _operator(name, arguments, results, on_cpu, on_cuda, shapes):
    torch.library.define(f"flashlab::{name}", f"({arguments}) -> {results}")
    torch.library.impl(f"flashlab::{name}", "cpu", on_cpu)
    torch.library.impl(f"flashlab::{name}", "cuda", on_cuda)
    torch.library.register_fake(f"flashlab::{name}", shapes)


SCALES, ANGLES = "Tensor? k_scale, Tensor? v_scale", "Tensor? cos, Tensor? sin, bool interleaved"
FEATURES = "Tensor? slopes, Tensor? sinks, float scale, bool is_causal, int left, int right, float softcap"
_operator(
    "decode",
    f"Tensor query, Tensor k_cache, Tensor v_cache, Tensor? lengths, int added, Tensor? table, {SCALES}, int? splits, {FEATURES}",
    "(Tensor, Tensor)",
    _decode_on_cpu,
    _decode_on_cuda,
    _decode_shapes,
)
_operator(
    "append",
    f"Tensor key, Tensor value, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor lengths, Tensor? table, {SCALES}, {ANGLES}",
    "()",
    _append_on_cpu,
    _append_on_cuda,
    lambda *_: None,
)
_operator(
    "rotate",
    f"Tensor query, Tensor lengths, {ANGLES}, bool each",
    "Tensor",
    _rotate_on_cpu,
    _rotate_on_cuda,
    lambda query, *_: torch.empty_like(query),
)
