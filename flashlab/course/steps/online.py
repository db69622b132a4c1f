"""Rung 2: the keys arrive in chunks and softmax is corrected as they come. No row of scores is ever seen whole.

State of a row: m, the largest score so far; l, the sum of exp(score − m); acc, the same sum weighted by the values.
Source: Milakov and Gimelshein, Online normalizer calculation for softmax (2018), Algorithm 3.
"""

import numpy as np

CHUNK = 32


def start(rows, head_dim, dtype=np.float64):
    """The state before any key: nothing is larger than −inf, and all sums are empty."""
    return np.full(rows, -np.inf, dtype), np.zeros(rows, dtype), np.zeros((rows, head_dim), dtype)


def update(m, l, acc, scores, values):
    """Fold a chunk of scores (rows, n) and its values (n, D) into the state (m, l, acc)."""
    m_new = np.maximum(m, scores.max(axis=-1))
    pivot = np.where(m_new == -np.inf, 0.0, m_new)  # a row that has seen no key yet
    rescale = np.exp(m - pivot)  # what was summed against the old maximum, seen from the new one
    p = np.exp(scores - pivot[:, None])
    l = l * rescale + p.sum(axis=-1)
    acc = acc * rescale[:, None] + p @ values
    return m_new, l, acc


def merge(a, b):
    """Join two states that have seen different keys. The order does not matter, nor does the grouping."""
    m_a, l_a, acc_a = a
    m_b, l_b, acc_b = b
    m = np.maximum(m_a, m_b)
    pivot = np.where(m == -np.inf, 0.0, m)
    scale_a, scale_b = np.exp(m_a - pivot), np.exp(m_b - pivot)
    return m, l_a * scale_a + l_b * scale_b, acc_a * scale_a[:, None] + acc_b * scale_b[:, None]


def finish(m, l, acc):
    """Out and lse from the final state: the one division is left to the end."""
    return acc / l[:, None], m + np.log(l)


def chunk_scores(Q, K, begin, is_causal, scale):
    """Scores of every query against one chunk of keys that begins at key number `begin`."""
    scores = scale * Q @ K.T
    if is_causal:
        i = np.arange(Q.shape[0])[:, None]
        j = begin + np.arange(K.shape[0])[None, :]
        scores = np.where(j <= i, scores, -np.inf)
    return scores


def forward(Q, K, V, *, is_causal=False, scale=None):
    """Out and lse in one pass over the keys: at any moment only a (Sq, CHUNK) piece of the scores exists."""
    scale = Q.shape[-1] ** -0.5 if scale is None else scale
    state = start(Q.shape[0], V.shape[-1], Q.dtype)
    for begin in range(0, K.shape[0], CHUNK):
        chunk = slice(begin, begin + CHUNK)
        scores = chunk_scores(Q, K[chunk], begin, is_causal, scale)
        state = update(*state, scores, V[chunk])
    return finish(*state)


def backward(dOut, Q, K, V, Out, lse, *, is_causal=False, scale=None):
    """Gradients in one pass over the keys. Probabilities were never stored: exp(scores − lse) brings each chunk back."""
    scale = Q.shape[-1] ** -0.5 if scale is None else scale
    dQ, dK, dV = np.zeros_like(Q), np.zeros_like(K), np.zeros_like(V)
    delta = (dOut * Out).sum(axis=-1)
    for begin in range(0, K.shape[0], CHUNK):
        chunk = slice(begin, begin + CHUNK)
        scores = chunk_scores(Q, K[chunk], begin, is_causal, scale)
        p = np.exp(scores - lse[:, None])
        ds = p * (dOut @ V[chunk].T - delta[:, None])
        dV[chunk] = p.T @ dOut
        dK[chunk] = scale * ds.T @ Q
        dQ += scale * ds @ K[chunk]
    return dQ, dK, dV
