"""Backward pass on Hopper: two numbers of each row, then dK, dV and dQ by one kernel.

By default programs add to dQ in turns, and every run gives the same bits; with `deterministic=False` as they come by.
"""

import torch
import triton
import triton.language as tl

from flashlab.kernels.hopper.fused import fused_kernel
from flashlab.kernels.hopper.shaping import shaping_of
from flashlab.kernels.hopper.workshop import CRAFT_ROWS, CRAFTS, Band, describe
from flashlab.kernels.launch import Launch, planned
from flashlab.kernels.tile import LOG2_E, head_of, load_lse, load_row, load_tile, store_tile
from flashlab.spec import NO_EXTRAS

OWN = CRAFT_ROWS.value  # keys of a craft
OWNED = OWN * CRAFTS.value  # and of a program
CONFIG = dict(PLACES=2, DQ_PLACES=2, REGISTERS=240)  # places for queries and as many for dO, for dQ, and registers of the crafts' threads
WALKED = {64: 128, 128: 64}  # query rows of a tile by head dim
DQ_PART = (64, 64)  # of a tile of dq: what one craft computes of it
HEADS_TOGETHER = {64: 32, 128: 16}  # query heads: many, so that few programs wait for each other; and not so many that each reads alone
BLOCK_M = 64  # WALKED or half of it: there is a turn for each tile of either
ALIGNED = 4  # numbers of float32: the copy engine wants what it brings to begin at multiples of 16 bytes


@triton.jit
def rows_kernel(
    Out, GradOut, Lse, GradLse, Delta, Rows, Sum, Turns, seqlen_q, heads, slopes,
    VALUE_DIM: tl.constexpr, WALKED: tl.constexpr, WHOLE_TILES: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Two numbers of each row as the other kernel wants them: lse in base 2, and delta = rowsum(dO ∘ O) minus the gradient of lse.

    Rows past the end, and rows that saw no key, get an lse of +inf: exp2(s − inf) = 0. Sum becomes 0, and Turns if there are any.

    WHOLE_TILES: there are rows past the end to the end of the last tile of WALKED. Where nothing is added to scores, zeros of the copy
    engine do instead: exp2(0) · 0. With a high bias that would be infinity times 0.
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
    if slopes is not None:  # a row's part of ALiBi, from the first of the tile on that the other kernel meets it in
        slope = tl.load(slopes.pointer + batch.to(tl.int64) * slopes.strides[0] + head.to(tl.int64) * slopes.strides[1])
        lse += (i % WALKED).to(tl.float32) * (slope * LOG2_E)
    if WHOLE_TILES:
        beyond = (i + BLOCK_M < padded) & (i >= (tiles - 1) * BLOCK_M)
        tl.store(rows + BLOCK_M, float("inf"), mask=beyond)
        tl.store(rows + padded + BLOCK_M, 0.0, mask=beyond)
    tl.store(rows, lse, mask=i < padded)
    tl.store(rows + padded, delta, mask=i < padded)
    tl.store(head_of(Delta, batch, head, 0).pointer + i, delta, mask=i < seqlen_q)
    zeros = tl.zeros([BLOCK_M, VALUE_DIM], tl.float32)
    store_tile(head_of(Sum, batch, head, 0), start_m, seqlen_q, zeros, VALUE_DIM, BLOCK_M, VALUE_DIM)
    if Turns is not None:
        tl.store(Turns.pointer + program, 0)


def backward(grad_out, query, key, value, out, lse, spec, grad_lse=None, extras=NO_EXTRAS):
    """(grad_query, grad_key, grad_value, delta) for grad_out (B, Hq, Sq, D) and grad_lse (B, Hq, Sq), of calls that `serves`.

    It takes query's size in float32 beside, where dQ is summed.
    """
    grad_query, grad_key, grad_value, delta = (torch.empty_like(x) for x in (query, key, value, lse))
    batch, heads, seqlen_q = lse.shape
    padding = WALKED[query.shape[3]] if _adds_to_scores(extras) else ALIGNED
    rows = lse.new_empty(batch, heads, 2, triton.cdiv(seqlen_q, padding) * padding)
    grad_sum = torch.empty_like(query, dtype=torch.float32)
    turns = lse.new_empty(batch * heads * triton.cdiv(seqlen_q, BLOCK_M), dtype=torch.int32) if spec.deterministic else None
    to_rows, to_all = planned(plan, (query, key, value, grad_out, out, lse, grad_lse), spec, extras)
    to_rows(out, grad_out, lse, grad_lse, delta, rows, grad_sum, turns)
    to_all(query, key, value, grad_out, rows, grad_sum, turns, grad_key, grad_value)
    return torch.mul(grad_sum, spec.scale, out=grad_query), grad_key, grad_value, delta


def _adds_to_scores(extras):
    return extras.alibi_slopes is not None or extras.attn_mask is not None


def plan(query, key, value, grad_out, out, lse, grad_lse, spec, extras, tiles):
    """The two Launches of `backward`; see `launch.planned`."""
    (batch, heads, seqlen_q, head_dim), (_, heads_kv, seqlen_k, _) = query.shape, key.shape
    band, group = Band(*spec.band(seqlen_q, seqlen_k), seqlen_q, seqlen_k), heads // heads_kv
    mirrored = tuple(None if edge is None else -edge for edge in (band.highest, band.lowest))
    together, shaping = max(1, HEADS_TOGETHER[head_dim] // group), shaping_of(extras, spec.scale)
    to_rows = Launch(
        rows_kernel, triton.cdiv(seqlen_q, BLOCK_M) * batch * heads, (seqlen_q, heads, shaping.slopes),
        dict(VALUE_DIM=head_dim, WALKED=WALKED[head_dim], WHOLE_TILES=_adds_to_scores(extras), BLOCK_M=BLOCK_M, num_warps=4),
    )  # fmt: skip
    own, walked, numbers = (OWN, head_dim), (WALKED[head_dim], head_dim), (2, WALKED[head_dim])
    to_all = Launch(
        fused_kernel, triton.cdiv(seqlen_k, OWNED) * batch * heads_kv, (spec.scale, band, mirrored, shaping, together),
        dict(GROUP=group, **CONFIG, num_warps=4), lambda x: x,
        {0: walked, 1: own, 2: own, 3: walked, 4: numbers, 5: DQ_PART, 7: own, 8: own}, describe,
    )  # fmt: skip
    return to_rows, to_all
