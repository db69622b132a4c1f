"""Attention in NumPy, right in several ways and wrong in many: what a guard of exercise 14 is shown, without its source.

Each takes float32 arrays Q (Sq, D), K and V (Sk, D) and whether it is causal (row i sees the keys 0 … i), and returns Out (Sq, D). With
gradients: Q, K, V, dO and is_causal, and returns dQ, dK, dV.
"""

import functools

import numpy as np

from flashlab.course.steps import naive

BLOCK = 16  # keys of a tile


# ---------------------------------------------------------------------------------------------------------------- right ones


def plain(Q, K, V, is_causal):
    """The formula of lesson 01, in the dtype that it is given."""
    return naive.forward(Q, K, V, is_causal=is_causal)[0]


def tiled(Q, K, V, is_causal, order=1, base_2=False):
    """Tile by tile, forwards or backwards; with exp, or with exp2."""
    exp, factor = (np.exp2, np.float32(np.log2(np.e))) if base_2 else (np.exp, np.float32(1))
    m, l, acc = np.full(len(Q), -np.inf, np.float32), np.zeros(len(Q), np.float32), np.zeros((len(Q), V.shape[1]), np.float32)
    for first in list(range(0, len(K), BLOCK))[::order]:
        scores = _scores(Q, K[first : first + BLOCK], is_causal, first) * factor
        m_new = np.maximum(m, scores.max(1))
        pivot = np.where(np.isinf(m_new), np.float32(0), m_new)
        p, rescale = exp(scores - pivot[:, None]), exp(m - pivot)
        l, acc, m = l * rescale + p.sum(1), acc * rescale[:, None] + p @ V[first : first + BLOCK], m_new
    return acc / l[:, None]


def in_float64(Q, K, V, is_causal):
    return plain(*(x.astype(np.float64) for x in (Q, K, V)), is_causal).astype(np.float32)


def in_two_parts(Q, K, V, is_causal):
    """Two halves of the keys, joined by their lse."""
    half = max(1, len(K) // 2)
    parts = []
    for first, keys in ((0, slice(0, half)), (half, slice(half, len(K)))):
        if keys.start == keys.stop:
            continue
        scores = _scores(Q, K[keys], is_causal, first)
        m = scores.max(1)
        p = np.exp(scores - np.where(np.isinf(m), 0, m)[:, None])
        l = p.sum(1)
        with np.errstate(divide="ignore"):
            parts.append((p @ V[keys] / np.where(l == 0, 1, l)[:, None], np.where(np.isinf(m), -np.inf, m + np.log(l))))
    largest = np.max([lse for _, lse in parts], axis=0)
    weights = [np.exp(lse - largest)[:, None] for _, lse in parts]
    out = sum(weight * out for weight, (out, _) in zip(weights, parts, strict=True)) / sum(weights)
    return out.astype(np.float32)


RIGHT = {
    "the formula itself, in float32": plain,
    "tile by tile": tiled,
    "tile by tile, from the last to the first": functools.partial(tiled, order=-1),
    "tile by tile, with exp2": functools.partial(tiled, base_2=True),
    "two halves of the keys, joined": in_two_parts,
    "in float64, rounded at the end": in_float64,
}


# ---------------------------------------------------------------------------------------------------------------- wrong ones


def _no_last_tile(Q, K, V, is_causal):
    keys = len(K) // BLOCK * BLOCK or len(K)
    return plain(Q, K[:keys], V[:keys], is_causal)


def _wrong_scale(Q, K, V, is_causal):
    """Right where D is a power of two."""
    D = Q.shape[1]
    padded = 1 << (D - 1).bit_length()
    return plain(Q * np.float32((D / padded) ** 0.5), K, V, is_causal)


def _bottom_right(Q, K, V, is_causal):
    p, _ = _probabilities(Q, K, is_causal, shift=max(0, len(K) - len(Q)))
    return p @ V


def _sees_one_more(Q, K, V, is_causal):
    p, _ = _probabilities(Q, K, is_causal, shift=1)
    return p @ V


def _full(Q, K, V, is_causal):
    return plain(Q, K, V, False)


def _always_causal(Q, K, V, is_causal):
    return plain(Q, K, V, True)


def _no_maximum(Q, K, V, is_causal):
    p = np.exp(_scores(Q, K, is_causal))
    return p @ V / p.sum(1, keepdims=True)


def _not_rescaled(Q, K, V, is_causal):
    """acc is rescaled by too little where the maximum rises by more than 4: nobody sees it while scores lie near each other."""
    m, l, acc = np.full(len(Q), -np.inf, np.float32), np.zeros(len(Q), np.float32), np.zeros((len(Q), V.shape[1]), np.float32)
    for first in range(0, len(K), BLOCK):
        scores = _scores(Q, K[first : first + BLOCK], is_causal, first)
        m_new = np.maximum(m, scores.max(1))
        p, rescale = np.exp(scores - m_new[:, None]), np.exp(m - m_new)
        l = l * rescale + p.sum(1)
        acc = acc * np.where(rescale > np.exp(-4), rescale, np.minimum(1, rescale * 8))[:, None] + p @ V[first : first + BLOCK]
        m = m_new
    return acc / l[:, None]


def _half_sums(Q, K, V, is_causal):
    p, _ = _probabilities(Q, K, is_causal)
    return (p.astype(np.float16) @ V.astype(np.float16)).astype(np.float32)


def _rounded_scale(Q, K, V, is_causal):
    return plain(Q * np.float32(1.0002), K, V, is_causal)


def _nan_row(Q, K, V, is_causal):
    out = plain(Q, K, V, is_causal)
    if len(Q) > 1:
        out[-1, 0] = np.nan
    return out


def _spoils(Q, K, V, is_causal):
    Q *= np.float32(Q.shape[1] ** -0.5)
    p, _ = _probabilities(Q * np.float32(Q.shape[1] ** 0.5), K, is_causal)
    return p @ V


def _spoils_keys(Q, K, V, is_causal):
    out = plain(Q, K, V, is_causal)
    K[-1] = 0
    return out


def _swapped_rows(Q, K, V, is_causal):
    return plain(Q, K, V, is_causal)[::-1]


def _one_number(Q, K, V, is_causal):
    out = plain(Q, K, V, is_causal)
    if out.size > 500:  # where a mean hides it
        out[len(out) // 2, -1] += np.float32(1e-3)
    return out


def _no_keys_no_rows(Q, K, V, is_causal):
    """Causal rows behind the last key, which see all of them, are left at 0."""
    out = plain(Q, K, V, is_causal)
    if is_causal:
        out[len(K) :] = 0
    return out


def _keys_for_values(Q, K, V, is_causal):
    return plain(Q, K, K, is_causal)


def _overflows_when_causal(Q, K, V, is_causal):
    return _no_maximum(Q, K, V, is_causal) if is_causal else plain(Q, K, V, is_causal)


def _another_shape(Q, K, V, is_causal):
    return plain(Q, K, V, is_causal)[None]


def _a_little_less(Q, K, V, is_causal):
    return plain(Q, K, V, is_causal) - np.float32(1e-3)


def _raises(Q, K, V, is_causal):
    if len(K) % BLOCK:
        raise ValueError("the number of keys is no multiple of 16")
    return plain(Q, K, V, is_causal)


def _one_row(Q, K, V, is_causal):
    return np.zeros((1, V.shape[1]), np.float32) if len(Q) == 1 else plain(Q, K, V, is_causal)


def _first_64(Q, K, V, is_causal):
    return plain(Q, K[:64], V[:64], is_causal)


WRONG = {
    "it sees the future, though it was asked not to": _full,
    "it hides the future, though it was not asked to": _always_causal,
    "every row sees one key too many when causal": _sees_one_more,
    "the last tile of keys is left out, unless it is full": _no_last_tile,
    "causal starts at the bottom right where there are more keys than queries": _bottom_right,
    "the scale is wrong where D is no power of two": _wrong_scale,
    "no maximum is subtracted, and large scores overflow": _no_maximum,
    "the sum is wrong where the maximum rises by much from tile to tile": _not_rescaled,
    "keys past the 64th are not seen": _first_64,
    "a single number of the output is NaN": _nan_row,
    "a single query gives 0": _one_row,
    "it sums in float16": _half_sums,
    "the scale is 0.02 % too large": _rounded_scale,
    "all of it is too small by 0.001": _a_little_less,
    "a single number is off by 0.001": _one_number,
    "causal rows past the last key are 0, where there are more queries than keys": _no_keys_no_rows,
    "it weighs K, not V": _keys_for_values,
    "large scores overflow, when causal": _overflows_when_causal,
    "the output has an axis too many": _another_shape,
    "the rows come out in the wrong order": _swapped_rows,
    "it raises an error where no tile divides the number of keys": _raises,
    "it changes Q, which belongs to the caller": _spoils,
    "it changes K, which belongs to the caller": _spoils_keys,
}


# ----------------------------------------------------------------------------------------------------------------- gradients


def gradients(Q, K, V, dO, is_causal):
    """dQ, dK, dV by the formulas of lesson 05, in the dtype that it is given."""
    return naive.backward(dO, Q, K, V, None, None, is_causal=is_causal)


def _gradients(Q, K, V, dO, is_causal, p_of=None, delta_of=None, scale_q=True, scale_k=True):
    p, scale = _probabilities(Q, K, is_causal if p_of is None else p_of(is_causal))
    dP = dO @ V.T
    delta = (dO * (p @ V)).sum(1, keepdims=True) if delta_of is None else delta_of(p, dO, V)
    dS = p * (dP - delta)
    dQ, dK = dS @ K * (scale if scale_q else 1), dS.T @ Q * (scale if scale_k else 1)
    return tuple(x.astype(Q.dtype) for x in (dQ, dK, p.T @ dO))


def _gradients_by_tiles(Q, K, V, dO, is_causal):
    p, scale = _probabilities(Q, K, is_causal)
    delta = (dO * (p @ V)).sum(1)
    dQ, dK, dV = (np.zeros_like(x) for x in (Q, K, V))
    for first in range(0, len(K), BLOCK):
        tile = slice(first, first + BLOCK)
        dS = p[:, tile] * (dO @ V[tile].T - delta[:, None])
        dQ += dS @ K[tile] * scale
        dK[tile], dV[tile] = dS.T @ Q * scale, p[:, tile].T @ dO
    return dQ, dK, dV


def _gradients_in_float64(Q, K, V, dO, is_causal):
    return tuple(x.astype(np.float32) for x in gradients(*(x.astype(np.float64) for x in (Q, K, V, dO)), is_causal))


def _lost_rows(Q, K, V, dO, is_causal):
    """The last tile of rows does not reach dK and dV, unless it is full."""
    dQ, _, _ = gradients(Q, K, V, dO, is_causal)
    rows = len(Q) // BLOCK * BLOCK or len(Q)
    return dQ, *gradients(Q[:rows], K, V, dO[:rows], is_causal)[1:]


def _half_gradients(Q, K, V, dO, is_causal):
    p, scale = _probabilities(Q, K, is_causal)
    dS = p * (dO @ V.T - (dO * (p @ V)).sum(1, keepdims=True))
    dQ, dK = (dS.astype(np.float16) @ K.astype(np.float16), dS.T.astype(np.float16) @ Q.astype(np.float16))
    return dQ.astype(np.float32) * scale, dK.astype(np.float32) * scale, p.T @ dO


def _swapped(Q, K, V, dO, is_causal):
    dQ, dK, dV = gradients(Q, K, V, dO, is_causal)
    return (dQ, dV, dK) if dK.shape == dV.shape else (dQ, dK, dV)


def _small_dQ(Q, K, V, dO, is_causal):
    dQ, dK, dV = gradients(Q, K, V, dO, is_causal)
    return dQ - np.float32(3e-4), dK, dV


def _shifted_dK(Q, K, V, dO, is_causal):
    dQ, dK, dV = gradients(Q, K, V, dO, is_causal)
    return dQ, dK + np.float32(3e-4), dV


def _nearly_dK(Q, K, V, dO, is_causal):
    dQ, dK, dV = gradients(Q, K, V, dO, is_causal)
    return dQ, dK * np.float32(1.001), dV


def _one_number_of_dV(Q, K, V, dO, is_causal):
    dQ, dK, dV = gradients(Q, K, V, dO, is_causal)
    if dV.size > 500:  # where a mean hides it
        dV[len(dV) // 2, -1] += np.float32(1e-3)
    return dQ, dK, dV


def _bottom_right_gradients(Q, K, V, dO, is_causal):
    p, scale = _probabilities(Q, K, is_causal, shift=max(0, len(K) - len(Q)))
    dS = p * (dO @ V.T - (dO * (p @ V)).sum(1, keepdims=True))
    return dS @ K * scale, dS.T @ Q * scale, p.T @ dO


def _wrong_scale_gradients(Q, K, V, dO, is_causal):
    """Right where D is a power of two."""
    D = Q.shape[1]
    shrunk = np.float32((D / (1 << (D - 1).bit_length())) ** 0.5)
    dQ, dK, dV = gradients(Q * shrunk, K, V, dO, is_causal)
    return dQ * shrunk, dK, dV


def _spoils_dO(Q, K, V, dO, is_causal):
    found = gradients(Q, K, V, dO, is_causal)
    dO *= 2
    return found


def _large_dV(Q, K, V, dO, is_causal):
    dQ, dK, dV = gradients(Q, K, V, dO, is_causal)
    return dQ, dK, dV * np.float32(1.01)


def _nan_gradient(Q, K, V, dO, is_causal):
    dQ, dK, dV = gradients(Q, K, V, dO, is_causal)
    dV[0, 0] = np.nan
    return dQ, dK, dV


RIGHT_GRADIENTS = {
    "the formulas themselves, in float32": gradients,
    "tile by tile": _gradients_by_tiles,
    "in float64, rounded at the end": _gradients_in_float64,
}
WRONG_GRADIENTS = {
    "delta is missing": functools.partial(_gradients, delta_of=lambda p, dO, V: 0),
    "delta is right only where all of dO is 1": functools.partial(_gradients, delta_of=lambda p, dO, V: (p @ V).sum(1, keepdims=True)),
    "delta is right only where each row of dO is constant": functools.partial(
        _gradients, delta_of=lambda p, dO, V: dO.mean(1, keepdims=True) * (p @ V).sum(1, keepdims=True)
    ),
    "the mask is there on the way back, though not on the way forth": functools.partial(_gradients, p_of=lambda is_causal: True),
    "all of dQ is too small by 0.0003": _small_dQ,
    "all of dK is too large by 0.0003": _shifted_dK,
    "dK is 0.1 % too large": _nearly_dK,
    "it changes dO, which belongs to the caller": _spoils_dO,
    "a single number of dV is off by 0.001": _one_number_of_dV,
    "causal starts at the bottom right where there are more keys than queries": _bottom_right_gradients,
    "the scale is wrong where D is no power of two": _wrong_scale_gradients,
    "dK is not scaled": functools.partial(_gradients, scale_k=False),
    "dQ is not scaled": functools.partial(_gradients, scale_q=False),
    "the mask is forgotten on the way back": functools.partial(_gradients, p_of=lambda is_causal: False),
    "the last tile of rows does not reach dK and dV, unless it is full": _lost_rows,
    "dK and dV are swapped": _swapped,
    "dV is 1 % too large": _large_dV,
    "a single number of dV is NaN": _nan_gradient,
    "it sums in float16": _half_gradients,
}


# ------------------------------------------------------------------------------------------------------------------- formulas


def _scores(Q, K, is_causal, first=0, shift=0):
    scores = Q @ K.T * Q.dtype.type(Q.shape[1] ** -0.5)
    if is_causal:
        hidden = first + np.arange(len(K))[None, :] > np.arange(len(Q))[:, None] + shift
        scores = np.where(hidden, Q.dtype.type(-np.inf), scores)
    return scores


def _probabilities(Q, K, is_causal, shift=0):
    scores = _scores(Q, K, is_causal, shift=shift)
    p = np.exp(scores - scores.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True), Q.dtype.type(Q.shape[1] ** -0.5)
