"""Rung 3: queries come in tiles too, so that everything a step touches fits in SRAM. This is FlashAttention, in NumPy.

The kernels take plain arrays, or arrays of `flashlab.course.memory`: then every slice that is read or assigned is counted as
HBM traffic, and a tile that does not fit the SRAM budget raises. Source: Dao, FlashAttention-2 (2023), Algorithms 1 and 2.
"""

import numpy as np

from flashlab.course.steps.online import finish, start, update

BLOCK_M = 32  # rows of Q in a tile
BLOCK_N = 32  # rows of K and V in a tile


def tiles(length, block):
    """Cut 0 … length into slices of `block`; the last may be shorter."""
    return [slice(begin, min(begin + block, length)) for begin in range(0, length, block)]


def hidden(rows, cols, is_causal):
    """True when no row of the tile sees any of its keys: it can be skipped."""
    return is_causal and cols.start > rows.stop - 1


def tile_scores(q, k, rows, cols, is_causal, scale):
    """Scores of one tile: (rows, cols)."""
    scores = scale * q @ k.T
    if is_causal and cols.stop - 1 > rows.start:  # the diagonal crosses this tile
        i = np.arange(rows.start, rows.stop)[:, None]
        j = np.arange(cols.start, cols.stop)[None, :]
        scores[j > i] = -np.inf
    return scores


def attend_tile(q, K, V, rows, is_causal, scale, BLOCK_N):
    """One tile of queries walks over the keys, tile by tile. Returns its rows of Out and lse."""
    state = start(*q.shape, q.dtype)
    for cols in tiles(K.shape[0], BLOCK_N):
        if hidden(rows, cols, is_causal):
            break
        k, v = K[cols], V[cols]  # HBM → SRAM
        state = update(*state, tile_scores(q, k, rows, cols, is_causal, scale), v)
    return finish(*state)


def forward_kernel(Q, K, V, Out, Lse, *, is_causal, scale, BLOCK_M, BLOCK_N):
    """Each tile of queries is read once, and its rows of Out are written once. The scores never leave SRAM."""
    for rows in tiles(Q.shape[0], BLOCK_M):
        Out[rows], Lse[rows] = attend_tile(Q[rows], K, V, rows, is_causal, scale, BLOCK_N)


def dkdv_kernel(dOut, Q, K, V, Lse, Delta, dK, dV, *, is_causal, scale, BLOCK_M, BLOCK_N):
    """Each tile of keys collects its gradients from every tile of queries that sees it."""
    for cols in tiles(K.shape[0], BLOCK_N):
        k, v = K[cols], V[cols]
        dk, dv = np.zeros_like(k), np.zeros_like(v)
        for rows in tiles(Q.shape[0], BLOCK_M):
            if hidden(rows, cols, is_causal):
                continue
            q, do = Q[rows], dOut[rows]
            p = np.exp(tile_scores(q, k, rows, cols, is_causal, scale) - Lse[rows][:, None])
            ds = p * (do @ v.T - Delta[rows][:, None])
            dv += p.T @ do
            dk += scale * ds.T @ q
        dK[cols], dV[cols] = dk, dv


def dq_kernel(dOut, Q, K, V, Lse, Delta, dQ, *, is_causal, scale, BLOCK_M, BLOCK_N):
    """Each tile of queries collects its gradient from every tile of keys that it sees."""
    for rows in tiles(Q.shape[0], BLOCK_M):
        q, do, lse, delta = Q[rows], dOut[rows], Lse[rows], Delta[rows]
        dq = np.zeros_like(q)
        for cols in tiles(K.shape[0], BLOCK_N):
            if hidden(rows, cols, is_causal):
                break
            k, v = K[cols], V[cols]
            p = np.exp(tile_scores(q, k, rows, cols, is_causal, scale) - lse[:, None])
            ds = p * (do @ v.T - delta[:, None])
            dq += scale * ds @ k
        dQ[rows] = dq


def delta_kernel(dOut, Out, Delta, *, BLOCK_M):
    """delta = rowsum(dO ∘ O): all that the softmax's gradient needs to know about the rest of its row."""
    for rows in tiles(Out.shape[0], BLOCK_M):
        Delta[rows] = (dOut[rows] * Out[rows]).sum(axis=-1)


def forward(Q, K, V, *, is_causal=False, scale=None):
    """Out and lse."""
    scale = Q.shape[-1] ** -0.5 if scale is None else scale
    Out, Lse = np.empty_like(Q), np.empty_like(Q[:, 0])
    forward_kernel(Q, K, V, Out, Lse, is_causal=is_causal, scale=scale, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N)
    return Out, Lse


def backward(dOut, Q, K, V, Out, lse, *, is_causal=False, scale=None):
    """Gradients, by three kernels in which every output row has one owner."""
    scale = Q.shape[-1] ** -0.5 if scale is None else scale
    dQ, dK, dV, Delta = np.empty_like(Q), np.empty_like(K), np.empty_like(V), np.empty_like(lse)
    options = dict(is_causal=is_causal, scale=scale, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N)
    delta_kernel(dOut, Out, Delta, BLOCK_M=BLOCK_M)
    dkdv_kernel(dOut, Q, K, V, lse, Delta, dK, dV, **options)
    dq_kernel(dOut, Q, K, V, lse, Delta, dQ, **options)
    return dQ, dK, dV
