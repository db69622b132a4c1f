"""FlashAttention in plain torch, tile by tile: the CPU path.

The S×S matrix never exists. Extra memory is one tile of scores a head, so it grows as O(S·D) and not as O(S²).
Grouped heads stay grouped: tensors are viewed as (B, Hkv, group, S, D), and key and value broadcast over the group.
"""

from dataclasses import replace

import torch

from flashlab.blocks import keys_seen_by
from flashlab.layout import accumulation_dtype, empty_gradients, empty_results
from flashlab.spec import NO_EXTRAS, Extras, Pairs, Spec, drop, shape_scores

BLOCK_M = 256  # rows of Q in a tile
BLOCK_N = 256  # rows of K and V in a tile


def forward(query, key, value, spec: Spec, extras: Extras = NO_EXTRAS):
    """Attention of query (B, Hq, Sq, D) over key (B, Hkv, Sk, D) and value (B, Hkv, Sk, Dv).

    Returns out (B, Hq, Sq, Dv) in query's dtype and lse (B, Hq, Sq), float32 (float64 for float64 inputs).

    Source: Dao, FlashAttention-2 (2023), Algorithm 1.
    """
    accumulate = accumulation_dtype(query)
    out, lse = empty_results(query, value, packed=extras.cu_seqlens_q is not None)
    if extras.cu_seqlens_q is not None:
        for rows, cols, own_spec, own_extras in sequences(spec, extras):
            own = forward(query[:, :, rows], key[:, :, cols], value[:, :, cols], own_spec, own_extras)
            out[:, :, rows], lse[:, :, rows] = own
        return out, lse
    grouped_query, grouped_out = grouped(query, key), grouped(out, key)
    grouped_lse = lse.unflatten(1, (key.shape[1], -1))

    for rows in _row_tiles(query):
        q = grouped_query[..., rows, :].to(accumulate)  # (B, Hkv, group, M, D)
        if extras.sinks is None:
            m = q.new_full(q.shape[:-1], -torch.inf)  # (B, Hkv, group, M)
            l = torch.zeros_like(m)
        else:  # a key whose value is 0 has been seen already
            m = extras.sinks.to(accumulate).unflatten(0, (key.shape[1], -1))[..., None].expand(q.shape[:-1])
            l = (m > -torch.inf).to(accumulate)
        acc = q.new_zeros(*q.shape[:-1], value.shape[-1])
        for cols in _key_tiles(rows, query, key, spec, extras):
            k, v = (_tile(x, cols, accumulate) for x in (key, value))  # (B, Hkv, 1, N, D)
            pairs = pairs_of(rows, cols, query, key, spec, extras)
            scores = shape_scores(spec.scale * q @ k.mT, spec, pairs)  # (B, Hkv, group, M, N)
            m_new = torch.maximum(m, scores.amax(-1))
            pivot = m_new.masked_fill(m_new == -torch.inf, 0.0)  # a row that has seen no key yet
            p = torch.exp(scores - pivot[..., None])
            rescale = torch.exp(m - pivot)
            l = l * rescale + p.sum(-1)
            acc = acc * rescale[..., None] + drop(p, spec, pairs) @ v
            m = m_new
        grouped_out[..., rows, :] = acc / l.masked_fill(l == 0, 1.0)[..., None]
        grouped_lse[..., rows] = m + torch.log(l)  # −inf where no key was seen
    return out, lse


def backward(grad_out, query, key, value, out, lse, spec: Spec, grad_lse=None, extras: Extras = NO_EXTRAS):
    """(grad_query, grad_key, grad_value, delta), recomputing each tile of probabilities from lse.

    delta (B, Hq, Sq) is rowsum(dO ∘ O) less grad_lse, in lse's dtype.

    Source: Dao, FlashAttention-2 (2023), Algorithm 2.
    """
    accumulate = accumulation_dtype(query)
    delta = _delta(grad_out, out, grad_lse, accumulate)
    grads = *empty_gradients(query, key, value, packed=extras.cu_seqlens_q is not None), delta
    if extras.cu_seqlens_q is not None:
        for rows, cols, own_spec, own_extras in sequences(spec, extras):
            tensors = (grad_out[:, :, rows], query[:, :, rows], key[:, :, cols], value[:, :, cols], out[:, :, rows], lse[:, :, rows])
            own = backward(*tensors, own_spec, None if grad_lse is None else grad_lse[:, :, rows], own_extras)
            for grad, part, where in zip(grads, own, (rows, cols, cols, rows), strict=True):
                grad[:, :, where] = part
        return grads
    grad_query = grads[0]
    grad_key, grad_value = (torch.zeros(x.shape, dtype=accumulate) for x in (key, value))
    grouped_grad_query = grouped(grad_query, key)
    for rows in _row_tiles(query):
        dq = query.new_zeros(grouped_grad_query[..., rows, :].shape, dtype=accumulate)
        for cols in _key_tiles(rows, query, key, spec, extras):
            q, k, do, p, ds, pairs = _recomputed(rows, cols, grad_out, query, key, value, lse, delta, spec, extras)
            ds = _through_softcap(ds, q, k, spec)
            dq += ds @ k
            grad_value[:, :, cols] += (drop(p, spec, pairs).mT @ do).sum(2)
            grad_key[:, :, cols] += (ds.mT @ q).sum(2)
        grouped_grad_query[..., rows, :] = spec.scale * dq
    grads[1].copy_(spec.scale * grad_key)
    grads[2].copy_(grad_value)
    return grads


def mask_gradient(grad_out, query, key, value, lse, delta, spec: Spec, extras: Extras):
    """The gradient of an additive attn_mask, in its shape and dtype: dS, summed over the dimensions in which the mask was broadcast."""
    mask = extras.attn_mask
    grad = mask.new_zeros(mask.shape, dtype=accumulation_dtype(query))
    summed = [dim for dim in (0, 1) if mask.shape[dim] == 1]
    for rows in _row_tiles(query):
        for cols in _key_tiles(rows, query, key, spec, extras):
            ds = _recomputed(rows, cols, grad_out, query, key, value, lse, delta, spec, extras)[4].flatten(1, 2)  # (B, Hq, M, N)
            ds = ds.sum(summed, keepdim=True) if summed else ds
            i, j = rows if mask.shape[2] > 1 else slice(0, 1), cols if mask.shape[3] > 1 else slice(0, 1)
            ds = ds if mask.shape[2] > 1 else ds.sum(2, keepdim=True)
            grad[:, :, i, j] += ds if mask.shape[3] > 1 else ds.sum(3, keepdim=True)
    return grad.to(mask.dtype)


def pairs_of(rows, cols, query, key, spec, extras):
    """The `Pairs` of one tile, for scores (B, Hkv, group, M, N)."""
    heads_kv, (batch, heads, seqlen_q, _), seqlen_k = key.shape[1], query.shape, key.shape[2]
    device = query.device
    b = spec.first_batch + torch.arange(batch, dtype=torch.int32, device=device)[:, None, None, None, None]
    h = torch.arange(heads, dtype=torch.int32, device=device).view(heads_kv, -1)[:, :, None, None]
    mask, slopes = extras.attn_mask, extras.alibi_slopes
    if mask is not None:
        mask = mask[:, :, rows if mask.shape[2] > 1 else slice(None), cols if mask.shape[3] > 1 else slice(None)]
        mask = mask.unflatten(1, (heads_kv, -1) if mask.shape[1] > 1 else (1, 1))
    band = spec.band(seqlen_q, seqlen_k)
    return Pairs(
        batch=b,
        head=h,
        i=torch.arange(rows.start, rows.stop, dtype=torch.int32, device=device)[:, None],
        j=torch.arange(cols.start, cols.stop, dtype=torch.int32, device=device),
        band=_edges_that_cut(band, rows, cols),
        diagonal=spec.diagonal(seqlen_q, seqlen_k),
        plane=b * heads + h,
        attn_mask=mask,
        slopes=None if slopes is None else slopes.unflatten(1, (heads_kv, -1))[..., None, None],
        seed=extras.seed,
        label_i=None if extras.query_labels is None else extras.query_labels[:, None, None, rows, None],
        label_j=None if extras.key_labels is None else extras.key_labels[:, None, None, None, cols],
    )


def sequences(spec, extras):
    """Packed sequences, each as if it were alone: (its rows, its keys, its spec, its extras)."""
    starts_q, starts_k = extras.cu_seqlens_q.tolist(), extras.cu_seqlens_k.tolist()
    for number in range(len(starts_q) - 1):
        rows, cols = slice(*starts_q[number : number + 2]), slice(*starts_k[number : number + 2])
        slopes, label_i, label_j = extras.alibi_slopes, extras.query_labels, extras.key_labels
        alone = extras._replace(
            cu_seqlens_q=None,
            cu_seqlens_k=None,
            alibi_slopes=slopes if slopes is None or len(slopes) == 1 else slopes[number : number + 1],
            query_labels=None if label_i is None else label_i[:, rows],
            key_labels=None if label_j is None else label_j[:, cols],
        )
        yield rows, cols, replace(spec, first_batch=number), alone


def grouped(x, key):
    """(B, Hq, S, D) viewed as (B, Hkv, group, S, D)."""
    return x.unflatten(1, (key.shape[1], -1))


def _recomputed(rows, cols, grad_out, query, key, value, lse, delta, spec, extras):
    """One tile of the backward pass: q, k, do, p, ds (before softcap's share) and the tile's pairs."""
    accumulate = accumulation_dtype(query)
    q, do = (grouped(x, key)[..., rows, :].to(accumulate) for x in (query, grad_out))  # (B, Hkv, group, M, D)
    k, v = (_tile(x, cols, accumulate) for x in (key, value))  # (B, Hkv, 1, N, D)
    row_lse, row_delta = (x.unflatten(1, (key.shape[1], -1))[..., rows, None] for x in (lse, delta))
    row_lse = row_lse.masked_fill(row_lse == -torch.inf, torch.inf)  # rows that saw nothing: p = exp(s − inf) = 0
    pairs = pairs_of(rows, cols, query, key, spec, extras)
    p = torch.exp(shape_scores(spec.scale * q @ k.mT, spec, pairs) - row_lse)  # (B, Hkv, group, M, N)
    dp = drop(do @ v.mT, spec, pairs)
    return q, k, do, p, p * (dp - row_delta), pairs


def _through_softcap(ds, q, k, spec):
    """The derivative of softcap · tanh(score / softcap) is 1 − tanh²."""
    return ds * (1 - torch.tanh(spec.scale / spec.softcap * q @ k.mT) ** 2) if spec.softcap else ds


def _delta(grad_out, out, grad_lse, dtype):
    """rowsum(dO ∘ O), tile by tile so that no float32 copy of the whole output is made; minus the gradient of lse."""
    delta = torch.empty(out.shape[:3], dtype=dtype)
    for rows in _row_tiles(out):
        delta[:, :, rows] = (grad_out[:, :, rows].to(dtype) * out[:, :, rows].to(dtype)).sum(-1)
    return delta if grad_lse is None else delta - grad_lse


def _edges_that_cut(band, rows, cols):
    """The band without an edge that hides nothing in this tile: most tiles need no mask."""
    lowest, highest = band
    if lowest is not None and rows.stop - 1 + lowest <= cols.start:
        lowest = None
    if highest is not None and cols.stop - 1 <= rows.start + highest:
        highest = None
    return lowest, highest


def _row_tiles(query):
    length = query.shape[2]
    return (slice(start, min(start + BLOCK_M, length)) for start in range(0, length, BLOCK_M))


def _key_tiles(rows, query, key, spec, extras):
    """Tiles of the keys that some of these rows may see."""
    begin, end = spec.keys_of_rows(rows.start, rows.stop - 1, query.shape[2], key.shape[2])
    if extras.row_blocks is not None:
        return [slice(cols.start, min(cols.stop, end)) for cols in keys_seen_by(extras.row_blocks, rows, BLOCK_N)]
    return (slice(start, min(start + BLOCK_N, end)) for start in range(begin, end, BLOCK_N))


def _tile(x, cols, dtype):
    return x[:, :, None, cols].to(dtype)
