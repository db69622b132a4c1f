"""What is added to scores on their way to softmax, where a call has such a feature: ALiBi, and a mask that is alike for all rows.

And sinks, which take their part when a row has seen all of its keys. (Softmax does not notice what is added to a whole row. So of ALiBi
the rows' own part is left out of the scores: distances are counted from one row of a tile, and lse makes up for the others.)
"""

from typing import Any, NamedTuple

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from flashlab.kernels.hopper import padded_keys
from flashlab.kernels.tile import LOG2_E, broadcast_view


class Shaping(NamedTuple):
    """The features of a call. None: it has none of the kind, and the compiler never sees it."""

    slopes: Any = None  # View of (batch, heads), under a causal mask
    mask: Any = None  # View of (batch, heads, keys), float32: what is added to products of queries and keys before they are scaled
    sinks: Any = None  # (heads,)


class Added(NamedTuple):
    """What is added to the products of one head, unscaled. None: nothing of the kind. (In Triton 3.6 no function can return a None.)"""

    slope: Any  # for each key that one stands further to the right
    origin: Any  # the key at which that is 0
    mask: Any  # a pointer to the first key's


def shaping_of(extras, scale):
    """The Shaping of a call that `hopper.serves`."""
    mask = None if extras.attn_mask is None else broadcast_view(_added_to_products(extras.attn_mask, scale))
    return Shaping(broadcast_view(extras.alibi_slopes), mask, extras.sinks)


def _added_to_products(mask, scale):
    """What a mask that is alike for all rows adds to each key's products: (B or 1, Hq or 1, padded Sk), float32; −inf past the end."""
    mask = mask[:, :, 0]
    added = torch.full((*mask.shape[:2], padded_keys(mask.shape[2])), -torch.inf, dtype=torch.float32, device=mask.device)
    inside = added[..., : mask.shape[2]]
    inside.masked_fill_(mask, 0.0) if mask.dtype == torch.bool else inside.copy_(mask).div_(scale)
    return added


@gluon.jit
def head_of(view, batch, head):
    """A pointer to one head of a View that broadcasts."""
    return view.pointer + batch.to(gl.int64) * view.strides[0] + head.to(gl.int64) * view.strides[1]


@gluon.jit
def slope_of(slopes, batch, head):
    """A head's slope, in base 2."""
    return gl.load(head_of(slopes, batch, head)) * LOG2_E


@gluon.jit
def see_sink(m, l, head, sinks):
    """(m, l, rescale): a row's softmax with its head's sink, a key whose value is 0. acc is to be multiplied by rescale."""
    sink = gl.load(sinks + head).to(gl.float32) * LOG2_E
    rescale = gl.where(sink > m, gl.exp2(m - sink), 1.0)
    return gl.maximum(m, sink), l * rescale + gl.where(sink > m, 1.0, gl.exp2(sink - m)), rescale
