"""FlashAttention in plain torch, tile by tile: the CPU path.

The S×S matrix never exists. Extra memory is one tile of scores a head, so it grows as O(S·D) and not as O(S²).
Grouped heads stay grouped: tensors are viewed as (B, Hkv, group, S, D), and key and value broadcast over the group.
"""

import torch

from flashlab.spec import Spec

BLOCK_M = 128  # rows of Q in a tile
BLOCK_N = 256  # rows of K and V in a tile


def forward(query, key, value, spec: Spec):
    """Attention of query (B, Hq, Sq, D) over key, value (B, Hkv, Sk, D).

    Returns out (B, Hq, Sq, D) in query's dtype and lse (B, Hq, Sq), float32 (float64 for float64 inputs).

    Source: Dao, FlashAttention-2 (2023), Algorithm 1.
    """
    accumulate = _accumulation_dtype(query)
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=accumulate)
    grouped_query, grouped_out = _grouped(query, key), _grouped(out, key)
    grouped_lse = lse.unflatten(1, (key.shape[1], -1))

    for rows in _tiles(query.shape[2], BLOCK_M):
        q = grouped_query[..., rows, :].to(accumulate)  # (B, Hkv, group, M, D)
        m = q.new_full(q.shape[:-1], -torch.inf)  # (B, Hkv, group, M)
        l = torch.zeros_like(m)
        acc = torch.zeros_like(q)
        for cols in _tiles(spec.keys_end(rows.stop - 1, key.shape[2]), BLOCK_N):
            k, v = (_tile(x, cols, accumulate) for x in (key, value))  # (B, Hkv, 1, N, D)
            scores = _scores(q, k, rows, cols, spec)  # (B, Hkv, group, M, N)
            m_new = torch.maximum(m, scores.amax(-1))
            pivot = m_new.masked_fill(m_new == -torch.inf, 0.0)  # a row that has seen no key yet
            p = torch.exp(scores - pivot[..., None])
            rescale = torch.exp(m - pivot)
            l = l * rescale + p.sum(-1)
            acc = acc * rescale[..., None] + p @ v
            m = m_new
        grouped_out[..., rows, :] = acc / l.masked_fill(l == 0, 1.0)[..., None]
        grouped_lse[..., rows] = m + torch.log(l)  # −inf where no key was seen
    return out, lse


def backward(grad_out, query, key, value, out, lse, spec: Spec, grad_lse=None):
    """Gradients (grad_query, grad_key, grad_value), recomputing each tile of probabilities from lse.

    Source: Dao, FlashAttention-2 (2023), Algorithm 2.
    """
    accumulate = _accumulation_dtype(query)
    grad_query = torch.empty_like(query)
    grad_key, grad_value = (torch.zeros(x.shape, dtype=accumulate) for x in (key, value))
    delta = _delta(grad_out, out, grad_lse, accumulate)
    grouped_query, grouped_grad_query, grouped_grad_out = (_grouped(x, key) for x in (query, grad_query, grad_out))
    grouped_lse, grouped_delta = (x.unflatten(1, (key.shape[1], -1))[..., None] for x in (lse, delta))

    for rows in _tiles(query.shape[2], BLOCK_M):
        q, do = (x[..., rows, :].to(accumulate) for x in (grouped_query, grouped_grad_out))  # (B, Hkv, group, M, D)
        row_lse = grouped_lse[..., rows, :]
        row_lse = row_lse.masked_fill(row_lse == -torch.inf, torch.inf)  # rows that saw nothing: p = exp(s − inf) = 0
        dq = torch.zeros_like(q)
        for cols in _tiles(spec.keys_end(rows.stop - 1, key.shape[2]), BLOCK_N):
            k, v = (_tile(x, cols, accumulate) for x in (key, value))  # (B, Hkv, 1, N, D)
            p = torch.exp(_scores(q, k, rows, cols, spec) - row_lse)  # (B, Hkv, group, M, N)
            dp = do @ v.mT
            ds = p * (dp - grouped_delta[..., rows, :])
            dq += ds @ k
            grad_value[:, :, cols] += (p.mT @ do).sum(2)
            grad_key[:, :, cols] += (ds.mT @ q).sum(2)
        grouped_grad_query[..., rows, :] = spec.scale * dq
    return grad_query, (spec.scale * grad_key).to(key.dtype), grad_value.to(value.dtype)


def _delta(grad_out, out, grad_lse, dtype):
    """rowsum(dO ∘ O), tile by tile so that no float32 copy of the whole output is made; minus the gradient of lse."""
    delta = torch.empty(out.shape[:3], dtype=dtype)
    for rows in _tiles(out.shape[2], BLOCK_M):
        delta[:, :, rows] = (grad_out[:, :, rows].to(dtype) * out[:, :, rows].to(dtype)).sum(-1)
    return delta if grad_lse is None else delta - grad_lse


def _scores(q, k, rows, cols, spec):
    """One tile of scores, −inf where the row does not see the key."""
    scores = spec.scale * q @ k.mT
    if spec.sees_all(rows.start, cols.stop - 1):
        return scores
    i = torch.arange(rows.start, rows.stop)[:, None]
    j = torch.arange(cols.start, cols.stop)[None, :]
    return scores.masked_fill_(~spec.visible(i, j), -torch.inf)


def _accumulation_dtype(x):
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _grouped(x, key):
    """(B, Hq, S, D) viewed as (B, Hkv, group, S, D)."""
    return x.unflatten(1, (key.shape[1], -1))


def _tile(x, cols, dtype):
    return x[:, :, None, cols].to(dtype)


def _tiles(length, block):
    return (slice(start, min(start + block, length)) for start in range(0, length, block))
