"""dQ on Hopper (Dao 2023, Algorithm 2): a program owns query rows and walks over the keys that they see, as the forward kernel does."""

from typing import Any, NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma, warpgroup_mma, warpgroup_mma_wait

from flashlab.kernels.hopper.workshop import (
    CARRIER_REGISTERS,
    CRAFT_ROWS,
    CRAFTS,
    Place,
    carry,
    carry_owned,
    give_back,
    owned_for,
    pass_over,
    put_away,
    sees,
    shelf_for,
    take,
    take_owned,
    tiles_in_sight,
    wait_for_kernel_before,
)  # fmt: skip
from flashlab.kernels.tile import LN_2, LOG2_E


class Shared(NamedTuple):
    """What lies in shared memory."""

    queries: Any  # Owned; at the end dq
    own_do: Any  # Owned
    k_shelf: Any
    v_shelf: Any


@gluon.jit
def step(n, tile, dq, q, do, lse, delta, shared, i, band, scale, MASKED: gl.constexpr, SCORES: gl.constexpr, P: gl.constexpr):
    """Add what tile n of the keys gives. exp2 runs beside dO · vᵀ."""
    KEYS: gl.constexpr = shared.k_shelf.tiles.shape[3]
    zeros = gl.zeros([CRAFT_ROWS, KEYS], gl.float32, SCORES)
    k = take(shared.k_shelf, n)  # [KEYS, D]
    scores = warpgroup_mma(q, k.permute((1, 0)), zeros, use_acc=False, is_async=True)
    v = take(shared.v_shelf, n)  # [KEYS, D]
    dp = warpgroup_mma(do, v.permute((1, 0)), zeros, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(1, deps=(scores,))  # [CRAFT_ROWS, KEYS]
    p = gl.exp2(scores * scale - lse[:, None])
    if MASKED:
        j = tile * KEYS + gl.arange(0, KEYS, gl.SliceLayout(0, SCORES))
        p = gl.where(sees(i[:, None], j[None, :], band), p, 0.0)
    dp = warpgroup_mma_wait(0, deps=(dp,))  # [CRAFT_ROWS, KEYS]
    give_back(shared.v_shelf, n)
    ds = p * (dp - delta[:, None])
    dq = warpgroup_mma(gl.convert_layout(ds.to(q.dtype), P), k, dq)  # [CRAFT_ROWS, D]
    give_back(shared.k_shelf, n)
    return dq


@gluon.jit
def craft(c: gl.constexpr, shared, Rows, GradQ, at, begin, end, band, scale):
    """Craft c owns CRAFT_ROWS rows, and walks down the tiles end − 1 … begin, which both crafts get. Only its own count."""
    KEYS: gl.constexpr = shared.k_shelf.tiles.shape[3]
    D: gl.constexpr = shared.k_shelf.tiles.shape[4]
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    P: gl.constexpr = gl.DotOperandLayout(0, ACC, 2)  # registers
    start = at.start + CRAFT_ROWS * c
    my_begin, full_begin, full_end, my_end = tiles_in_sight(start, band.seqlen_k, band.lowest, band.highest, CRAFT_ROWS, KEYS)
    pass_over(shared.k_shelf, 0, end - my_end)
    pass_over(shared.v_shelf, 0, end - my_end)

    i = start + gl.arange(0, CRAFT_ROWS, gl.SliceLayout(1, SCORES))
    numbers = Rows.pointer + at.batch.to(gl.int64) * Rows.strides[0] + at.head.to(gl.int64) * Rows.strides[1] + i
    lse = gl.load(numbers, mask=i < band.seqlen_q, other=float("inf"))  # base 2: [CRAFT_ROWS]
    delta = gl.load(numbers + Rows.strides[2], mask=i < band.seqlen_q, other=0.0)  # [CRAFT_ROWS]
    dq = gl.zeros([CRAFT_ROWS, D], gl.float32, ACC)
    q, do = take_owned(shared.queries, c), take_owned(shared.own_do, c)  # [CRAFT_ROWS, D]
    for n in range(end - my_end, end - full_end):
        dq = step(n, end - 1 - n, dq, q, do, lse, delta, shared, i, band, scale, True, SCORES, P)
    for n in range(end - full_end, end - full_begin):
        dq = step(n, end - 1 - n, dq, q, do, lse, delta, shared, i, band, scale, False, SCORES, P)
    if band.lowest is not None:
        for n in range(end - full_begin, end - my_begin):
            dq = step(n, end - 1 - n, dq, q, do, lse, delta, shared, i, band, scale, True, SCORES, P)
    pass_over(shared.k_shelf, end - my_begin, end - begin)
    pass_over(shared.v_shelf, end - my_begin, end - begin)
    put_away(GradQ, dq * (scale * LN_2), shared.queries, c, at)
    tma.store_wait(0)


@gluon.jit
def carrier(shared, Q, K, V, GradOut, at, head_kv, begin, end):
    """The rows of Q and dO once, then every tile of keys and values."""
    KEYS: gl.constexpr = shared.k_shelf.tiles.shape[3]
    carry_owned(shared.queries, Q, at)
    carry_owned(shared.own_do, GradOut, at)
    for n in range(end - begin):
        carry(shared.k_shelf, n, K, at.batch, head_kv, (end - 1 - n) * KEYS)
        carry(shared.v_shelf, n, V, at.batch, head_kv, (end - 1 - n) * KEYS)
    wait_for_kernel_before()  # of dK and dV


@gluon.jit(do_not_specialize=["scale", "band"])  # every length would be compiled anew
def dq_kernel(Q, K, V, GradOut, Rows, GradQ, scale, band, GROUP: gl.constexpr, PLACES: gl.constexpr, REGISTERS: gl.constexpr):
    """One program owns CRAFT_ROWS · CRAFTS query rows of one head."""
    tiles, heads = gl.cdiv(Q.shape[2], CRAFT_ROWS * CRAFTS), Q.shape[1]
    program = gl.num_programs(0) - 1 - gl.program_id(0)  # the last rows first: under a causal mask they see the most keys
    plane = program // tiles
    at = Place(plane // heads, plane % heads, program % tiles * CRAFT_ROWS * CRAFTS)
    sight = tiles_in_sight(at.start, band.seqlen_k, band.lowest, band.highest, CRAFT_ROWS * CRAFTS, K.block_type.shape[2])
    begin, end = sight[0], sight[3]
    shared = Shared(owned_for(Q, CRAFTS), owned_for(GradOut, CRAFTS), shelf_for(K, PLACES, CRAFTS), shelf_for(V, PLACES, CRAFTS))
    scale *= LOG2_E
    gl.warp_specialize(
        [
            (craft, (0, shared, Rows, GradQ, at, begin, end, band, scale)),
            (craft, (1, shared, Rows, GradQ, at, begin, end, band, scale)),
            (carrier, (shared, Q, K, V, GradOut, at, at.head // GROUP, begin, end)),
        ],
        [4, 1], [REGISTERS, CARRIER_REGISTERS],
    )  # fmt: skip
