"""Backward pass on Hopper: two numbers of each row, dK and dV, dQ. Every output has one owner, so every run gives the same bits.

Who does not ask for that gets dK, dV and dQ by one kernel.
"""

import torch
import triton
import triton.language as tl

from flashlab.kernels.hopper.dkdv import dkdv_kernel
from flashlab.kernels.hopper.dq import dq_kernel
from flashlab.kernels.hopper.fused import fused_kernel
from flashlab.kernels.hopper.workshop import CRAFT_ROWS, CRAFTS, Band, describe
from flashlab.kernels.launch import Launch, planned
from flashlab.kernels.tile import head_of, load_lse, load_row, load_tile, store_tile, view
from flashlab.spec import NO_EXTRAS

OWN = CRAFT_ROWS.value  # keys or rows of a craft
OWNED = OWN * CRAFTS.value  # and of a program
WALKED = 64  # query rows, or keys, of a tile
DKDV = dict(PLACES=2, REGISTERS=240)
DQ = dict(PLACES=3, REGISTERS=240)
WALKED_FUSED = {64: 128, 128: 64}  # query rows of a tile by head dim
FUSED = dict(PLACES=2, REGISTERS=240)
DQ_PART = (64, 64)  # of a tile of dq: what one craft computes of it
BLOCK_M = 64
ALIGNED = 4  # numbers of float32: the copy engine wants rows that begin at multiples of 16 bytes


@triton.jit
def rows_kernel(Out, GradOut, Lse, GradLse, Delta, Rows, Sum, seqlen_q, heads, VALUE_DIM: tl.constexpr, BLOCK_M: tl.constexpr):
    """Two numbers of each row as the other kernels want them: lse in base 2, and delta = rowsum(dO ∘ O) minus the gradient of lse.

    Rows past the end, and rows that saw no key, get an lse of +inf: exp2(s − inf) = 0. Sum, if there is one, becomes 0.
    """
    tiles = tl.cdiv(seqlen_q, BLOCK_M)
    program = tl.program_id(0)
    batch, head, start_m = program // tiles // heads, program // tiles % heads, program % tiles * BLOCK_M
    out = load_tile(head_of(Out, batch, head, 0), start_m, seqlen_q, VALUE_DIM, BLOCK_M, VALUE_DIM, True)  # [BLOCK_M, VALUE_DIM]
    do = load_tile(head_of(GradOut, batch, head, 0), start_m, seqlen_q, VALUE_DIM, BLOCK_M, VALUE_DIM, True)  # [BLOCK_M, VALUE_DIM]
    delta = tl.sum(out.to(tl.float32) * do.to(tl.float32), axis=1)  # [BLOCK_M]
    if GradLse is not None:
        delta -= load_row(head_of(GradLse, batch, head, 0), start_m, seqlen_q, 0.0, BLOCK_M, True)
    lse = load_lse(head_of(Lse, batch, head, 0), start_m, seqlen_q, BLOCK_M, True, True)  # [BLOCK_M]
    i = start_m + tl.arange(0, BLOCK_M)
    rows, padded = head_of(Rows, batch, head, 0).pointer + i, Rows.strides[2]
    tl.store(rows, lse, mask=i < padded)
    tl.store(rows + padded, delta, mask=i < padded)
    tl.store(head_of(Delta, batch, head, 0).pointer + i, delta, mask=i < seqlen_q)
    if Sum is not None:
        zeros = tl.zeros([BLOCK_M, VALUE_DIM], tl.float32)
        store_tile(head_of(Sum, batch, head, 0), start_m, seqlen_q, zeros, VALUE_DIM, BLOCK_M, VALUE_DIM)


def backward(grad_out, query, key, value, out, lse, spec, grad_lse=None, extras=NO_EXTRAS):
    """(grad_query, grad_key, grad_value, delta) for grad_out (B, Hq, Sq, D) and grad_lse (B, Hq, Sq), of calls that `serves`."""
    grad_query, grad_key, grad_value, delta = (torch.empty_like(x) for x in (query, key, value, lse))
    rows = _rows(lse)
    to_rows, to_dkdv, to_dq = planned(plan, (query, key, value, grad_out, out, lse, grad_lse), spec, extras)
    to_rows(out, grad_out, lse, grad_lse, delta, rows, None)
    to_dkdv(query, key, value, grad_out, rows, grad_key, grad_value)
    to_dq(query, key, value, grad_out, rows, grad_query)
    return grad_query, grad_key, grad_value, delta


def backward_in_any_order(grad_out, query, key, value, out, lse, spec, grad_lse=None, extras=NO_EXTRAS):
    """The same, by fewer operations; grad_query differs in its last bits from run to run. It takes query's size in float32 beside."""
    grad_query, grad_key, grad_value, delta = (torch.empty_like(x) for x in (query, key, value, lse))
    rows, grad_sum = _rows(lse), torch.empty_like(query, dtype=torch.float32)
    to_rows, to_all = planned(plan_fused, (query, key, value, grad_out, out, lse, grad_lse), spec, extras)
    to_rows(out, grad_out, lse, grad_lse, delta, rows, grad_sum)
    to_all(query, key, value, grad_out, rows, grad_sum, grad_key, grad_value)
    return torch.mul(grad_sum, spec.scale, out=grad_query), grad_key, grad_value, delta


def _rows(lse):
    """Room for the two numbers of each row: (B, Hq, 2, Sq), float32, padded so that the copy engine can bring them."""
    batch, heads, seqlen_q = lse.shape
    return lse.new_empty(batch, heads, 2, -(-seqlen_q // ALIGNED) * ALIGNED)


def plan(query, key, value, grad_out, out, lse, grad_lse, spec, extras, tiles):
    """The three Launches of `backward`; see `launch.planned`."""
    (batch, heads, seqlen_q, head_dim), (_, heads_kv, seqlen_k, _) = query.shape, key.shape
    band, mirrored = _bands(spec, seqlen_q, seqlen_k)
    group = dict(GROUP=heads // heads_kv, num_warps=4)
    own, walked, numbers = (OWN, head_dim), (WALKED, head_dim), (2, WALKED)
    to_dkdv = Launch(
        dkdv_kernel, triton.cdiv(seqlen_k, OWNED) * batch * heads_kv, (spec.scale, band, mirrored), group | DKDV, lambda x: x,
        {0: walked, 1: own, 2: own, 3: walked, 4: numbers, 5: own, 6: own}, describe,
    )  # fmt: skip
    to_dq = Launch(
        dq_kernel, triton.cdiv(seqlen_q, OWNED) * batch * heads, (spec.scale, band), group | DQ | dict(launch_pdl=True), view,
        {0: own, 1: walked, 2: walked, 3: own, 5: own}, describe,
    )  # fmt: skip
    return _to_rows(query), to_dkdv, to_dq


def plan_fused(query, key, value, grad_out, out, lse, grad_lse, spec, extras, tiles):
    """The two Launches of `backward_in_any_order`."""
    (batch, heads, seqlen_q, head_dim), (_, heads_kv, seqlen_k, _) = query.shape, key.shape
    own, walked, numbers = (OWN, head_dim), (WALKED_FUSED[head_dim], head_dim), (2, WALKED_FUSED[head_dim])
    to_all = Launch(
        fused_kernel, triton.cdiv(seqlen_k, OWNED) * batch * heads_kv, (spec.scale, *_bands(spec, seqlen_q, seqlen_k)),
        dict(GROUP=heads // heads_kv, **FUSED, num_warps=4), lambda x: x,
        {0: walked, 1: own, 2: own, 3: walked, 4: numbers, 5: DQ_PART, 6: own, 7: own}, describe,
    )  # fmt: skip
    return _to_rows(query), to_all


def _to_rows(query):
    batch, heads, seqlen_q, head_dim = query.shape
    constants = dict(VALUE_DIM=head_dim, BLOCK_M=BLOCK_M, num_warps=4)
    return Launch(rows_kernel, triton.cdiv(seqlen_q, BLOCK_M) * batch * heads, (seqlen_q, heads), constants)


def _bands(spec, seqlen_q, seqlen_k):
    """The Band, and its (lowest, highest) seen from the keys."""
    band = Band(*spec.band(seqlen_q, seqlen_k), seqlen_q, seqlen_k)
    return band, tuple(None if edge is None else -edge for edge in (band.highest, band.lowest))
