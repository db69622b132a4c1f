"""Rung 1: attention as the formula says it. The S×S matrix of scores is written down whole; everything else follows from that.

One head: Q (Sq, D), K and V (Sk, D). Source: Vaswani et al., Attention Is All You Need (2017), equation 1.
"""

import numpy as np


def causal_mask(seqlen_q, seqlen_k):
    """True where query row i may see key j: the past and the present."""
    i = np.arange(seqlen_q)[:, None]
    j = np.arange(seqlen_k)[None, :]
    return j <= i


def softmax(scores):
    """Each row becomes positive and sums to 1. Subtracting the maximum changes nothing but keeps exp from overflowing."""
    m = scores.max(axis=-1, keepdims=True)
    p = np.exp(scores - m)
    return p / p.sum(axis=-1, keepdims=True)


def logsumexp(scores):
    """log(sum(exp(row))) without overflow. Softmax is exp(scores − logsumexp)."""
    m = scores.max(axis=-1)
    return m + np.log(np.exp(scores - m[:, None]).sum(axis=-1))


def masked_scores(Q, K, is_causal, scale):
    """How well each query matches each key: (Sq, Sk). Hidden pairs get −inf, which softmax turns into 0."""
    scale = Q.shape[-1] ** -0.5 if scale is None else scale
    scores = scale * Q @ K.T
    return np.where(causal_mask(*scores.shape), scores, -np.inf) if is_causal else scores


def forward(Q, K, V, *, is_causal=False, scale=None):
    """Out = softmax(scale · QKᵀ) V, and the logsumexp of each row of scores."""
    scores = masked_scores(Q, K, is_causal, scale)
    return softmax(scores) @ V, logsumexp(scores)


def backward(dOut, Q, K, V, Out, lse, *, is_causal=False, scale=None):
    """Gradients of sum(dOut ∘ Out), with every S×S matrix in full."""
    scale = Q.shape[-1] ** -0.5 if scale is None else scale
    P = softmax(masked_scores(Q, K, is_causal, scale))
    dV = P.T @ dOut
    dP = dOut @ V.T
    dS = P * (dP - (P * dP).sum(axis=-1, keepdims=True))
    return scale * dS @ K, scale * dS.T @ Q, dV


def forward_through_hbm(Q, K, V, scores, P, Out):
    """The formula of lesson 01 as three GPU kernels: each loads its inputs from HBM and stores its result there.

    All six are arrays of `flashlab.course.memory`, which counts the bytes.
    """
    scores[:] = Q[:] @ K[:].T * Q.shape[-1] ** -0.5
    P[:] = softmax(scores[:])
    Out[:] = P[:] @ V[:]
