"""dK and dV on Hopper (Dao 2023, Algorithm 2): a program owns keys and walks over the query rows that see them.

Scores are transposed here, keys down and queries across: then p and ds come out in registers as the next products want their left factor.
"""

from typing import Any, NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from flashlab.kernels.hopper.workshop import (
    CARRIER_REGISTERS,
    CRAFT_ROWS,
    CRAFTS,
    Place,
    carry,
    carry_owned,
    give_back,
    let_next_kernel_start,
    owned_for,
    pass_over,
    put_away,
    sees,
    shelf_for,
    take,
    take_owned,
    tiles_in_sight,
    wait_for_room,
)  # fmt: skip
from flashlab.kernels.tile import LN_2, LOG2_E


class Shared(NamedTuple):
    """What lies in shared memory."""

    keys: Any  # Owned; at the end dk
    own_values: Any  # Owned; at the end dv
    q_shelf: Any
    do_shelf: Any
    rows: Any  # [PLACES, 1, 1, 2, ROWS], beside the queries: lse in base 2 and delta of each row


@gluon.jit
def row_numbers(rows, n, which: gl.constexpr, SCORES: gl.constexpr):
    """lse (0) or delta (1) of the rows of tile n: [ROWS], across the columns of transposed scores."""
    ROWS: gl.constexpr = rows.shape[4]
    two = rows.index(n % rows.shape[0]).reshape([2 * ROWS])
    return two.slice(which * ROWS, ROWS).load(gl.SliceLayout(0, SCORES))


@gluon.jit
def products(own, walked, SCORES: gl.constexpr):
    """Issue own · walkedᵀ: [CRAFT_ROWS, ROWS]."""
    ROWS: gl.constexpr = walked.shape[0]
    zeros = gl.zeros([CRAFT_ROWS, ROWS], gl.float32, SCORES)
    return warpgroup_mma(own, walked.permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def probabilities(scores, n, tile, rows, j, band, scale, MASKED: gl.constexpr, SCORES: gl.constexpr):
    """p of a tile of scores, from lse: [CRAFT_ROWS, ROWS]."""
    p = gl.exp2(scores * scale - row_numbers(rows, n, 0, SCORES)[None, :])
    if MASKED:
        ROWS: gl.constexpr = rows.shape[4]
        i = tile * ROWS + gl.arange(0, ROWS, gl.SliceLayout(0, SCORES))
        p = gl.where(sees(i[None, :], j[:, None], band), p, 0.0)
    return p


@gluon.jit
def score_gradient(p, dp, n, rows, SCORES: gl.constexpr):
    """ds = p ∘ (dp − delta): [CRAFT_ROWS, ROWS]."""
    return p * (dp - row_numbers(rows, n, 1, SCORES)[None, :])


@gluon.jit
def step(n, tile, dk, dv, k, v, shared, j, band, scale, MASKED: gl.constexpr, SCORES: gl.constexpr, P: gl.constexpr):
    """Add what tile n gives. exp2 runs beside v · dOᵀ, and ds beside p · dO."""
    q = take(shared.q_shelf, n)  # [ROWS, D]
    scores = products(k, q, SCORES)
    do = take(shared.do_shelf, n)  # [ROWS, D]
    dp = products(v, do, SCORES)
    scores = warpgroup_mma_wait(1, deps=(scores,))
    p = probabilities(scores, n, tile, shared.rows, j, band, scale, MASKED, SCORES)
    dv = warpgroup_mma(gl.convert_layout(p.to(k.dtype), P), do, dv, is_async=True)  # [CRAFT_ROWS, D]
    dp = warpgroup_mma_wait(1, deps=(dp,))
    ds = score_gradient(p, dp, n, shared.rows, SCORES)
    dk = warpgroup_mma(gl.convert_layout(ds.to(k.dtype), P), q, dk, is_async=True)  # [CRAFT_ROWS, D]
    dv, dk = warpgroup_mma_wait(0, deps=(dv, dk))
    give_back(shared.q_shelf, n)
    give_back(shared.do_shelf, n)
    return dk, dv


@gluon.jit
def craft(c: gl.constexpr, shared, GradK, GradV, at, begin, end, band, mirrored, scale, GROUP: gl.constexpr):
    """Craft c owns CRAFT_ROWS keys and walks up the tiles begin … end − 1, once for each head of the group. Only its own count."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    D: gl.constexpr = shared.q_shelf.tiles.shape[4]
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    P: gl.constexpr = gl.DotOperandLayout(0, ACC, 2)  # registers
    start = at.start + CRAFT_ROWS * c
    my_begin, full_begin, full_end, my_end = rows_in_sight(start, band, mirrored, CRAFT_ROWS, ROWS)

    j = start + gl.arange(0, CRAFT_ROWS, gl.SliceLayout(1, SCORES))
    dk, dv = gl.zeros([CRAFT_ROWS, D], gl.float32, ACC), gl.zeros([CRAFT_ROWS, D], gl.float32, ACC)
    k, v = take_owned(shared.keys, c), take_owned(shared.own_values, c)  # [CRAFT_ROWS, D]
    for member in range(GROUP):
        before = member * (end - begin) - begin  # tiles are counted over the whole group
        pass_over(shared.q_shelf, begin + before, my_begin + before)
        pass_over(shared.do_shelf, begin + before, my_begin + before)
        for t in range(my_begin, full_begin):
            dk, dv = step(t + before, t, dk, dv, k, v, shared, j, band, scale, True, SCORES, P)
        for t in range(full_begin, full_end):
            dk, dv = step(t + before, t, dk, dv, k, v, shared, j, band, scale, False, SCORES, P)
        if band.lowest is not None:
            for t in range(full_end, my_end):
                dk, dv = step(t + before, t, dk, dv, k, v, shared, j, band, scale, True, SCORES, P)
        pass_over(shared.q_shelf, my_end + before, end + before)
        pass_over(shared.do_shelf, my_end + before, end + before)
    put_away(GradK, dk * (scale * LN_2), shared.keys, c, at)
    put_away(GradV, dv, shared.own_values, c, at)
    tma.store_wait(0)


@gluon.jit
def rows_in_sight(start, band, mirrored, OWN: gl.constexpr, ROWS: gl.constexpr):
    """`tiles_in_sight` of keys. Rows past the end need no mask: their p is 0. Nor do keys past it, which the copy engine leaves out."""
    return tiles_in_sight(start, gl.cdiv(band.seqlen_q, ROWS) * ROWS, mirrored[0], mirrored[1], OWN, ROWS)


@gluon.jit
def carrier(shared, Q, K, V, GradOut, Rows, at, begin, end, GROUP: gl.constexpr):
    """The keys and values once, then every tile of queries with its row numbers, and of dO, of each head of the group."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    carry_owned(shared.keys, K, at)
    carry_owned(shared.own_values, V, at)
    for member in range(GROUP):
        head = at.head * GROUP + member
        for t in range(begin, end):
            n = member * (end - begin) + t - begin
            place = n % shared.q_shelf.tiles.shape[0]
            full = shared.q_shelf.full.index(place)
            wait_for_room(shared.q_shelf, n)
            mbarrier.expect(full, Q.block_type.nbytes + Rows.block_type.nbytes)
            tma.async_copy_global_to_shared(Q, [at.batch, head, t * ROWS, 0], full, shared.q_shelf.tiles.index(place))
            tma.async_copy_global_to_shared(Rows, [at.batch, head, 0, t * ROWS], full, shared.rows.index(place))
            carry(shared.do_shelf, n, GradOut, at.batch, head, t * ROWS)


@gluon.jit(do_not_specialize=["scale", "band", "mirrored"])  # every length would be compiled anew
def dkdv_kernel(
    Q, K, V, GradOut, Rows, GradK, GradV, scale, band, mirrored,
    GROUP: gl.constexpr, PLACES: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    """One program owns CRAFT_ROWS · CRAFTS keys of one head. mirrored: (lowest, highest) of the band, seen from the keys."""
    let_next_kernel_start()
    tiles, heads_kv = gl.cdiv(K.shape[2], CRAFT_ROWS * CRAFTS), K.shape[1]
    program = gl.program_id(0)  # the first keys first: under a causal mask the most rows see them
    plane = program // tiles
    at = Place(plane // heads_kv, plane % heads_kv, program % tiles * CRAFT_ROWS * CRAFTS)
    begin, full_begin, full_end, end = rows_in_sight(at.start, band, mirrored, CRAFT_ROWS * CRAFTS, Q.block_type.shape[2])
    rows = gl.allocate_shared_memory(gl.float32, [PLACES] + Rows.block_type.shape, Rows.layout)
    shared = Shared(
        owned_for(K, CRAFTS), owned_for(V, CRAFTS), shelf_for(Q, PLACES, CRAFTS), shelf_for(GradOut, PLACES, CRAFTS), rows
    )  # fmt: skip
    scale *= LOG2_E
    gl.warp_specialize(
        [
            (craft, (0, shared, GradK, GradV, at, begin, end, band, mirrored, scale, GROUP)),
            (craft, (1, shared, GradK, GradV, at, begin, end, band, mirrored, scale, GROUP)),
            (carrier, (shared, Q, K, V, GradOut, Rows, at, begin, end, GROUP)),
        ],
        [4, 1], [REGISTERS, CARRIER_REGISTERS],
    )  # fmt: skip
