"""Backward pass on Hopper: two numbers of each row, dK and dV, dQ. Every output has one owner, so every run gives the same bits."""

import torch
import triton
import triton.language as tl

from flashlab.kernels.hopper.dkdv import dkdv_kernel
from flashlab.kernels.hopper.dq import dq_kernel
from flashlab.kernels.hopper.workshop import CRAFT_ROWS, CRAFTS, Band, describe
from flashlab.kernels.launch import Launch, planned
from flashlab.kernels.tile import head_of, load_lse, load_row, load_tile, view
from flashlab.spec import NO_EXTRAS

OWN = CRAFT_ROWS.value  # keys or rows of a craft
OWNED = OWN * CRAFTS.value  # and of a program
WALKED = 64  # query rows, or keys, of a tile
DKDV = dict(PLACES=2, REGISTERS=240)
DQ = dict(PLACES=3, REGISTERS=240)
BLOCK_M = 64
ALIGNED = 4  # numbers of float32: the copy engine wants rows that begin at multiples of 16 bytes


@triton.jit
def rows_kernel(Out, GradOut, Lse, GradLse, Delta, Rows, seqlen_q, heads, VALUE_DIM: tl.constexpr, BLOCK_M: tl.constexpr):
    """Two numbers of each row as the other kernels want them: lse in base 2, and delta = rowsum(dO ∘ O) minus the gradient of lse.

    Rows past the end, and rows that saw no key, get an lse of +inf: exp2(s − inf) = 0.
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


def backward(grad_out, query, key, value, out, lse, spec, grad_lse=None, extras=NO_EXTRAS):
    """(grad_query, grad_key, grad_value, delta) for grad_out (B, Hq, Sq, D) and grad_lse (B, Hq, Sq), of calls that `serves`."""
    grad_query, grad_key, grad_value, delta = (torch.empty_like(x) for x in (query, key, value, lse))
    batch, heads, seqlen_q = lse.shape
    rows = lse.new_empty(batch, heads, 2, -(-seqlen_q // ALIGNED) * ALIGNED)
    to_rows, to_dkdv, to_dq = planned(plan, (query, key, value, grad_out, out, lse, grad_lse), spec, extras)
    to_rows(out, grad_out, lse, grad_lse, delta, rows)
    to_dkdv(query, key, value, grad_out, rows, grad_key, grad_value)
    to_dq(query, key, value, grad_out, rows, grad_query)
    return grad_query, grad_key, grad_value, delta


def plan(query, key, value, grad_out, out, lse, grad_lse, spec, extras, tiles):
    """The three Launches of a backward pass; see `launch.planned`."""
    (batch, heads, seqlen_q, head_dim), (_, heads_kv, seqlen_k, _) = query.shape, key.shape
    constants = dict(VALUE_DIM=head_dim, BLOCK_M=BLOCK_M, num_warps=4)
    to_rows = Launch(rows_kernel, triton.cdiv(seqlen_q, BLOCK_M) * batch * heads, (seqlen_q, heads), constants)

    band = Band(*spec.band(seqlen_q, seqlen_k), seqlen_q, seqlen_k)
    mirrored = tuple(None if edge is None else -edge for edge in (band.highest, band.lowest))
    group = heads // heads_kv
    to_dkdv = Launch(
        dkdv_kernel, triton.cdiv(seqlen_k, OWNED) * batch * heads_kv, (spec.scale, band, mirrored),
        dict(GROUP=group, **DKDV, num_warps=4), lambda x: x,
        {0: WALKED, 1: OWN, 2: OWN, 3: WALKED, 4: WALKED, 5: OWN, 6: OWN}, describe,
    )  # fmt: skip
    to_dq = Launch(
        dq_kernel, triton.cdiv(seqlen_q, OWNED) * batch * heads, (spec.scale, band),
        dict(GROUP=group, **DQ, num_warps=4), view, {0: OWN, 1: WALKED, 2: WALKED, 3: OWN, 5: OWN}, describe,
    )  # fmt: skip
    return to_rows, to_dkdv, to_dq
