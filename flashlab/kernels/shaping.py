"""What happens to a score between q · k and softmax. Each helper is the identity where its feature is off.

Scores are in base 2: the factor log2(e) is folded into what multiplies them anyway.
"""

import functools
import types
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from flashlab import formulas as plain_formulas
from flashlab.kernels.tile import LOG2_E, broadcast_view
from flashlab.kernels.walk import highest_key, lowest_key, sequence
from flashlab.spec import UNLIMITED


class Features(NamedTuple):
    """What hides or shapes scores beyond `scale`. None: off, and the compiler never sees it."""

    may_hide: Any = None  # 1 where a pair may be hidden in any tile: by an attn_mask, or by a user's −inf
    left: Any = None  # a row sees keys from its diagonal − left on
    right: Any = None  # … to its diagonal + right
    softcap: Any = None
    slopes: Any = None  # View (batch, head)
    bias: Any = None  # View (batch, head, row, column): added
    allowed: Any = None  # the same of bytes: 0 hides
    one_row: Any = None  # 1 where the mask has one row for all, or one key for all
    one_key: Any = None
    sinks: Any = None
    seed: Any = None
    threshold: Any = None
    zero: Any = None  # 0.0, kept from the compiler, which would select among packed 16-bit halves if it knew: three instructions for one
    query_labels: Any = None  # View (batch, position)
    key_labels: Any = None


class Place(NamedTuple):
    """Where a program is: its head, the lengths of its sequence, and where that begins in a packed tensor."""

    batch: Any
    head: Any
    seqlen_q: Any
    seqlen_k: Any
    first_q: Any
    first_k: Any
    diagonal: Any  # the key that lies on the diagonal of row 0
    seed: Any  # where dropout's random numbers begin for this head


def _as_kernels_see_it(module):
    """The functions of a module as jit functions that call each other. The interpreter asks each for the name `tl`."""
    scope = {"__name__": module.__name__, "tl": tl}
    for name, function in vars(module).items():
        if isinstance(function, types.FunctionType):
            scope[name] = triton.jit(types.FunctionType(function.__code__, scope, name))
    return types.SimpleNamespace(**scope)


formulas = _as_kernels_see_it(plain_formulas)
alibi, plane_seed, row_bits, key_bits, pair_is_kept = (
    formulas.alibi, formulas.plane_seed, formulas.row_bits, formulas.key_bits, formulas.kept
)  # fmt: skip


def features_of(spec, extras):
    """The Features of a call."""
    mask = extras.attn_mask
    is_bool = mask is not None and mask.dtype == torch.bool
    left, right = spec.edges
    return Features(
        may_hide=1 if mask is not None or spec.bias_mod else None,
        left=None if left == UNLIMITED else left,
        right=None if right == UNLIMITED else right,
        softcap=spec.softcap or None,
        slopes=broadcast_view(extras.alibi_slopes),
        bias=None if is_bool else broadcast_view(mask),
        allowed=broadcast_view(mask.view(torch.uint8)) if is_bool else None,
        one_row=1 if mask is not None and mask.shape[2] == 1 else None,
        one_key=1 if mask is not None and mask.shape[3] == 1 else None,
        sinks=extras.sinks,
        seed=extras.seed,
        threshold=plain_formulas.threshold(spec.dropout_p) if spec.dropout_p else None,
        zero=0.0 if spec.dropout_p else None,
        query_labels=broadcast_view(extras.query_labels),
        key_labels=broadcast_view(extras.key_labels),
    )


@functools.cache
def as_jit(mod):
    """A user's function of positions as the kernels inline it."""
    if mod is None or hasattr(mod, "fn"):
        return mod
    if mod.__name__ == "<lambda>":
        raise ValueError("mask_mod or bias_mod is a lambda, whose source Triton cannot read: write it as a function, with `def`.")
    scope = {**mod.__globals__, "tl": tl}
    return triton.jit(types.FunctionType(mod.__code__, scope, mod.__name__, mod.__defaults__, mod.__closure__))


@triton.jit
def tanh(x, FAST: tl.constexpr):
    if FAST:
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        by_exponential = 1.0 - 2.0 / (tl.exp2(x * (2.0 * LOG2_E)) + 1.0)
        x2 = x * x  # near 0 that difference loses digits: the first terms of the series
        series = x * (1.0 + x2 * (-1.0 / 3.0 + x2 * (2.0 / 15.0 + x2 * (-17.0 / 315.0 + x2 * (62.0 / 2835.0)))))
        return tl.where(x2 < 0.04, series, by_exponential)


@triton.jit
def capped_scores(dot, scale, features, FAST_TANH: tl.constexpr):
    """scale · q · k, or with softcap c the bounded c · tanh(scale · q · k / c), in base 2."""
    if features.softcap is None:
        return dot * (scale * LOG2_E)
    else:
        return tanh(dot * (scale / features.softcap), FAST_TANH) * (features.softcap * LOG2_E)


@triton.jit
def through_softcap(p, capped, features):
    """p times the derivative of the cap, tanh' = 1 − tanh²: what turns the gradient of a capped score into that of the score."""
    if features.softcap is None:
        return p
    else:
        t = capped * (1.0 / (features.softcap * LOG2_E))
        return p * (1.0 - t * t)


@triton.jit
def true_or_false(allowed):
    """Of other numbers Triton would take the lowest bit."""
    if isinstance(allowed, tl.tensor):  # and not a constant
        tl.static_assert(allowed.dtype == tl.int1, "mask_mod gives a number: end it with a comparison, as in `x != 0`")
    return allowed


@triton.jit
def shape_scores(scores, i, j, at, features, MASKED: tl.constexpr, MASK_MOD: tl.constexpr, BIAS_MOD: tl.constexpr):
    """Add what is to be added; −inf where row i does not see key j. Only MASKED tiles ask for edges and for mask_mod.

    i and j broadcast against the tile: rows down and keys across, or the other way round.
    """
    if features.slopes is not None:
        slope = tl.load(features.slopes.pointer + at.batch * features.slopes.strides[0] + at.head * features.slopes.strides[1])
        scores += alibi(slope * LOG2_E, (i + at.diagonal).to(tl.float32), j.to(tl.float32))
    if BIAS_MOD is not None:
        added = BIAS_MOD(at.batch, at.head, i, j) * LOG2_E
        scores += tl.where(j < at.seqlen_k, added, 0.0) if MASKED else added  # past the end a user's formula may give anything
    if features.bias is not None:
        scores += load_pairs(features.bias, i, j, at, features, 0.0).to(tl.float32) * LOG2_E
    if features.allowed is not None:
        scores = tl.where(load_pairs(features.allowed, i, j, at, features, 0) != 0, scores, -float("inf"))
    if MASKED:
        scores += tl.where(j < at.seqlen_k, 0.0, -float("inf"))  # keys past the end: an addition is cheaper than a selection a pair
        seen = True
        if features.left is not None:
            seen &= j >= i + lowest_key(at, features)
        if features.right is not None:
            seen &= j <= i + highest_key(at, features)
        if MASK_MOD is not None:
            if features.query_labels is None:
                seen &= true_or_false(MASK_MOD(at.batch, at.head, i, j))
            else:
                label_i = load_labels(features.query_labels, i, at.batch, at.first_q, at.seqlen_q)
                label_j = load_labels(features.key_labels, j, at.batch, at.first_k, at.seqlen_k)
                seen &= true_or_false(MASK_MOD(at.batch, at.head, i, j, label_i, label_j))
        scores = tl.where(seen, scores, -float("inf"))
    return scores


@triton.jit
def head_seed(features, batch, head, heads):
    """Where dropout's random numbers begin for this head."""
    if features.seed is None:
        return 0
    else:
        return plane_seed(tl.load(features.seed), batch * heads + head)


@triton.jit
def place_of(batch, head, shape, packing, features, BOTTOM_RIGHT: tl.constexpr):
    """The Place of a program that works on this head."""
    first_q, seqlen_q = sequence(packing.starts_q, batch, shape.seqlen_q)
    first_k, seqlen_k = sequence(packing.starts_k, batch, shape.seqlen_k)
    diagonal = seqlen_k - seqlen_q if BOTTOM_RIGHT else 0
    seed = head_seed(features, batch, head, shape.heads)
    return Place(batch, head, seqlen_q, seqlen_k, first_q, first_k, diagonal, seed)


@triton.jit
def random_rows(i, at, features):
    """The random numbers of a tile's rows; a kernel that owns the rows computes them once."""
    if features.seed is None:
        return 0, 0
    else:
        return row_bits(at.seed, i)


@triton.jit
def random_keys(j, at, features):
    if features.seed is None:
        return 0
    else:
        return key_bits(at.seed, j)


@triton.jit
def dropped(x, rows, keys, features):
    """x where dropout keeps the pair, 0 elsewhere. The factor 1 / (1 − p) is applied once, to the sum."""
    if features.seed is None:
        return x
    else:
        return tl.where(pair_is_kept(rows, keys, features.threshold), x, features.zero)


@triton.jit
def load_pairs(tensor, i, j, at, features, other):
    """A tile of a tensor of pairs. Where it is the same for all rows, or for all keys, one row or one column is loaded."""
    pointers = tensor.pointer + tl.cast(at.batch, tl.int64) * tensor.strides[0] + tl.cast(at.head, tl.int64) * tensor.strides[1]
    if features.one_row is not None:
        if features.one_key is not None:
            return tl.load(pointers)
        else:
            return tl.load(pointers + j.to(tl.int64) * tensor.strides[3], mask=j < at.seqlen_k, other=other)
    else:
        pointers = pointers + i.to(tl.int64) * tensor.strides[2]
        if features.one_key is not None:
            return tl.load(pointers, mask=i < at.seqlen_q, other=other)
        else:
            return tl.load(pointers + j.to(tl.int64) * tensor.strides[3], mask=(i < at.seqlen_q) & (j < at.seqlen_k), other=other)


@triton.jit
def load_labels(labels, positions, batch, first, seqlen):
    row = labels.pointer + batch * labels.strides[0] + first * labels.strides[1]
    return tl.load(row + positions * labels.strides[1], mask=positions < seqlen, other=0)
