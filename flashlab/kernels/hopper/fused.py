"""dK, dV and dQ in one kernel on Hopper (Dao 2023, Algorithm 2): a program owns keys and walks over the query rows that see them.

It has ds of its keys, and multiplies it into dQ as well: five products a tile, where two kernels need seven. Every program adds its part of
dQ to what others added, and a sum of float32 depends on their order in its last bits. So they take turns: the first keys first.

The two crafts of a program take turns as well: while one issues its products, the other computes exponentials. (Tile n is what is met at
step n: a tile of rows in one head of the group.)

Scores are transposed here, keys down and queries across: then p and ds come out in registers as the next products want their left factor.
"""

from typing import Any, NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from flashlab.kernels.hopper.sender import Turn, corner_of, put_down, sender
from flashlab.kernels.hopper.shaping import head_of, slope_of
from flashlab.kernels.hopper.workshop import (
    CARRIER_REGISTERS,
    CRAFT_ROWS,
    CRAFT_THREADS,
    CRAFTS,
    WARP_THREADS,
    Place,
    Shelf,
    Walk,
    barriers,
    bring,
    carry_owned,
    give_back,
    give_back_all,
    hear,
    look_at,
    met_at,
    owned_for,
    place_of,
    put_away,
    ring,
    sees,
    steps_of,
    take,
    take_owned,
    tiles_for,
    tiles_in_sight,
    wait_for_room,
)  # fmt: skip
from flashlab.kernels.tile import LN_2, LOG2_E

TURN_BELLS = gl.constexpr(2)  # one of each craft; bells 0 and 1 are those of the queries' places
DS_PLACES = gl.constexpr(2)  # ds of the tile before lies there still when the next is put down


class Shared(NamedTuple):
    """What lies in shared memory."""

    keys: Any  # Owned; at the end dk
    own_values: Any  # Owned; at the end dv
    q_shelf: Any  # crafts ring when they give back
    do_shelf: Any  # and with the queries they give back dO
    rows: Any  # [PLACES, 1, 1, 2, ROWS], beside the queries: lse in base 2 and delta of each row
    ds: Any  # [DS_PLACES, CRAFTS · CRAFT_ROWS, ROWS]: every craft puts down its keys' part, and reads that of all keys
    dq_shelf: Any  # Shelf of [DQ_PLACES · CRAFTS, 1, 1, PART_ROWS, PART_COLUMNS]: every craft puts down its part of a tile of dq, and rings


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
def with_alibi(added, n, walk, j, at, band, slopes, ROWS: gl.constexpr):
    """added, and what ALiBi adds to the scores of keys j at step n: [CRAFT_ROWS]. The rows' own part lies with their lse."""
    member, tile = met_at(n, walk)
    slope = slope_of(slopes, at.batch, at.head * walk.group + member)
    distances = (j - (tile * ROWS + band.highest)).to(gl.float32) * slope
    return distances if added is None else added + distances


@gluon.jit
def probabilities(scores, added, n, walk, rows, j, band, scale, MASKED: gl.constexpr, SCORES: gl.constexpr):
    """p of a tile of scores, from lse: [CRAFT_ROWS, ROWS]."""
    scores = scores * scale
    if added is not None:
        scores += added[:, None]
    p = gl.exp2(scores - row_numbers(rows, n, 0, SCORES)[None, :])
    if MASKED:
        ROWS: gl.constexpr = rows.shape[4]
        _, tile = met_at(n, walk)
        i = tile * ROWS + gl.arange(0, ROWS, gl.SliceLayout(0, SCORES))
        p = gl.where(sees(i[None, :], j[:, None], band), p, 0.0)
    return p


@gluon.jit
def score_gradient(p, dp, n, rows, SCORES: gl.constexpr):
    """ds = p ∘ (dp − delta): [CRAFT_ROWS, ROWS]."""
    return p * (dp - row_numbers(rows, n, 1, SCORES)[None, :])


@gluon.jit
def take_turn(c: gl.constexpr):
    """Craft c waits for its turn: to put down ds of a tile, to read both crafts' of the tile before, and to multiply."""
    hear(TURN_BELLS + c, CRAFTS * CRAFT_THREADS)


@gluon.jit
def pass_turn(c: gl.constexpr):
    """The other craft's turn."""
    ring(TURN_BELLS + (CRAFTS - 1 - c), CRAFTS * CRAFT_THREADS)


@gluon.jit
def share(c: gl.constexpr, ds, n, shared):
    """Craft c puts its part of ds of tile n, [CRAFT_ROWS, ROWS], where the other finds it when it has its turn. A fence must follow."""
    shared.ds.index(n % DS_PLACES).slice(CRAFT_ROWS * c, CRAFT_ROWS).store(ds)


@gluon.jit
def row_gradient(c: gl.constexpr, n, shared):
    """Issue dsᵀ · k of tile n, one product for each craft's keys: craft c's part of dq, [PART_ROWS, PART_COLUMNS]."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    D: gl.constexpr = shared.q_shelf.tiles.shape[4]
    PART_ROWS: gl.constexpr = shared.dq_shelf.tiles.shape[3]
    PART_COLUMNS: gl.constexpr = shared.dq_shelf.tiles.shape[4]
    corner: gl.constexpr = corner_of(c, PART_ROWS, PART_COLUMNS, ROWS)
    dq = gl.zeros([PART_ROWS, PART_COLUMNS], gl.float32, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PART_COLUMNS, 16]))
    for craft in gl.static_range(CRAFTS):
        ds = shared.ds.index(n % DS_PLACES).slice(CRAFT_ROWS * craft, CRAFT_ROWS).permute((1, 0))  # [ROWS, CRAFT_ROWS]
        keys = shared.keys.tiles.index(craft).reshape([CRAFT_ROWS, D]).slice(corner[1], PART_COLUMNS, dim=1)  # [CRAFT_ROWS, PART_COLUMNS]
        dq = warpgroup_mma(ds.slice(corner[0], PART_ROWS), keys, dq, use_acc=craft > 0, is_async=True)
    return dq


@gluon.jit
def meet(
    n, walk, scores, dp, do, dv, shared, j, at, band, scale, added, slopes,
    MASKED: gl.constexpr, SCORES: gl.constexpr, P: gl.constexpr,
):  # fmt: skip
    """(ds, dv): tile n, whose products are on their way, is met. exp2 runs beside v · dOᵀ, and ds is computed beside p · dO."""
    if slopes is not None:
        added = with_alibi(added, n, walk, j, at, band, slopes, do.shape[0])
    scores = warpgroup_mma_wait(1, deps=(scores,))
    p = probabilities(scores, added, n, walk, shared.rows, j, band, scale, MASKED, SCORES)
    dv = warpgroup_mma(gl.convert_layout(p.to(do.dtype), P), do, dv, is_async=True)  # [CRAFT_ROWS, D]
    dp = warpgroup_mma_wait(1, deps=(dp,))
    ds = score_gradient(p, dp, n, shared.rows, SCORES).to(do.dtype)
    return ds, warpgroup_mma_wait(0, deps=(dv,))


@gluon.jit
def step(
    c: gl.constexpr, n, walk, ds, dk, dv, k, v, shared, j, at, band, scale, added, slopes,
    MASKED: gl.constexpr, FIRST: gl.constexpr, SCORES: gl.constexpr, P: gl.constexpr,
):  # fmt: skip
    """In its turn a craft adds tile n − 1 to dk, puts down dq of tile n − 2, and issues products of tile n. Then it meets that."""
    take_turn(c)
    share(c, ds, n - 1, shared)  # first: the registers of a product's left factor are not to be touched before it is done
    dk = warpgroup_mma(gl.convert_layout(ds, P), look_at(shared.q_shelf, n - 1), dk, is_async=True)  # [CRAFT_ROWS, D]
    fence_async_shared()
    if FIRST:
        dk = warpgroup_mma_wait(0, deps=(dk,))
    else:
        dq = row_gradient(c, n - 2, shared)
        dk = warpgroup_mma_wait(CRAFTS, deps=(dk,))  # but for dq's products, one for each craft's keys
    give_back(shared.q_shelf, n - 1)
    scores = products(k, take(shared.q_shelf, n), SCORES)
    if not FIRST:
        dq = warpgroup_mma_wait(1, deps=(dq,))
        put_down(c, dq, n - 2, shared)
    do = take(shared.do_shelf, n)  # [ROWS, D]
    dp = products(v, do, SCORES)
    pass_turn(c)
    ds, dv = meet(n, walk, scores, dp, do, dv, shared, j, at, band, scale, added, slopes, MASKED, SCORES, P)
    return ds, dk, dv


@gluon.jit
def craft(c: gl.constexpr, shared, GradK, GradV, at, walk, edges, band, scale, shaping):
    """Craft c owns CRAFT_ROWS keys and walks over the tiles that see any of the program's. Between the edges nothing is hidden."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    D: gl.constexpr = shared.q_shelf.tiles.shape[4]
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    P: gl.constexpr = gl.DotOperandLayout(0, ACC, 2)  # registers
    last = steps_of(walk) - 1

    j = at.start + CRAFT_ROWS * c + gl.arange(0, CRAFT_ROWS, gl.SliceLayout(1, SCORES))
    added = None
    if shaping.mask is not None:
        added = gl.load(head_of(shaping.mask, at.batch, at.head * walk.group) + j) * scale
    dk, dv = gl.zeros([CRAFT_ROWS, D], gl.float32, ACC), gl.zeros([CRAFT_ROWS, D], gl.float32, ACC)
    give_back_all(shared.q_shelf)
    if c == 1:
        pass_turn(c)  # craft 0 is first
    k, v = take_owned(shared.keys, c), take_owned(shared.own_values, c)  # [CRAFT_ROWS, D]
    scores = products(k, take(shared.q_shelf, 0), SCORES)
    do = take(shared.do_shelf, 0)
    dp = products(v, do, SCORES)
    ds, dv = meet(0, walk, scores, dp, do, dv, shared, j, at, band, scale, added, shaping.slopes, True, SCORES, P)
    if last > 0:
        ds, dk, dv = step(c, 1, walk, ds, dk, dv, k, v, shared, j, at, band, scale, added, shaping.slopes, True, True, SCORES, P)
    if not walk.down or band.lowest is not None:  # else no mask can reach these
        for n in range(2, edges[0]):
            ds, dk, dv = step(c, n, walk, ds, dk, dv, k, v, shared, j, at, band, scale, added, shaping.slopes, True, False, SCORES, P)
    for n in range(gl.maximum(2, edges[0]), edges[1]):
        ds, dk, dv = step(c, n, walk, ds, dk, dv, k, v, shared, j, at, band, scale, added, shaping.slopes, False, False, SCORES, P)
    if walk.down or band.lowest is not None:
        for n in range(gl.maximum(2, edges[1]), last + 1):
            ds, dk, dv = step(c, n, walk, ds, dk, dv, k, v, shared, j, at, band, scale, added, shaping.slopes, True, False, SCORES, P)
    take_turn(c)
    share(c, ds, last, shared)
    fence_async_shared()
    dk = warpgroup_mma(gl.convert_layout(ds, P), look_at(shared.q_shelf, last), dk)
    give_back(shared.q_shelf, last)
    if last > 0:
        put_down(c, warpgroup_mma_wait(0, deps=(row_gradient(c, last - 1, shared),)), last - 1, shared)
    pass_turn(c)
    take_turn(c)  # once more: now the other's ds of the last tile is there, too
    put_down(c, warpgroup_mma_wait(0, deps=(row_gradient(c, last, shared),)), last, shared)
    pass_turn(c)
    take_turn(c)  # all warps have read the keys, those of the other craft and those of this one: dk goes where they lie
    if c == 0:
        pass_turn(c)
    put_away(GradK, dk * (scale * LN_2), shared.keys, c, at)  # scale is that of base 2
    put_away(GradV, dv, shared.own_values, c, at)
    tma.store_wait(0)


@gluon.jit
def carrier(shared, Q, K, V, GradOut, Rows, at, walk):
    """The keys and values once, then at every step a tile of queries with its row numbers, and of dO."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    carry_owned(shared.keys, K, at)
    carry_owned(shared.own_values, V, at)
    for n in range(steps_of(walk)):
        wait_for_room(shared.q_shelf, n)
        member, tile = met_at(n, walk)
        head, row = at.head * walk.group + member, tile * ROWS
        place, _ = place_of(shared.q_shelf, n)
        full = shared.q_shelf.full.index(place)
        mbarrier.expect(full, Q.block_type.nbytes + Rows.block_type.nbytes)
        tma.async_copy_global_to_shared(Q, [at.batch, head, row, 0], full, shared.q_shelf.tiles.index(place))
        tma.async_copy_global_to_shared(Rows, [at.batch, head, 0, row], full, shared.rows.index(place))
        bring(shared.do_shelf, n, GradOut, at.batch, head, row)
    for n in range(steps_of(walk), steps_of(walk) + shared.q_shelf.full.shape[0]):  # crafts ring to the end: it waits until they have
        wait_for_room(shared.q_shelf, n)


@gluon.jit
def owned_keys(K, TOGETHER):
    """The Place of a program. Heads go TOGETHER: then few programs of one head start at once, and wait for each other.

    The first keys first: under a causal mask the most rows see them. And who waits for others has a number after theirs, as it must: a GPU
    starts programs in the order of their numbers.
    """
    heads, tiles = K.shape[1], gl.cdiv(K.shape[2], CRAFT_ROWS * CRAFTS)
    program = gl.program_id(0)
    first = program // (tiles * TOGETHER) * TOGETHER
    together = gl.minimum(TOGETHER, K.shape[0] * heads - first)
    within = program - first * tiles
    plane = first + within % together
    return Place(plane // heads, plane % heads, within // together * (CRAFT_ROWS * CRAFTS))


@gluon.jit
def rows_in_sight(start, band, mirrored, ROWS: gl.constexpr):
    """`tiles_in_sight` of the keys from `start` on. Rows past the end need no mask: the copy engine brings zeros, which add nothing."""
    return tiles_in_sight(start, gl.cdiv(band.seqlen_q, ROWS) * ROWS, mirrored[0], mirrored[1], CRAFT_ROWS * CRAFTS, ROWS)


@gluon.jit
def walk_of(start, band, mirrored, GROUP: gl.constexpr, DOWN: gl.constexpr, ROWS: gl.constexpr):
    """(Walk, edges, Turn) of the owner of the keys from `start` on. Steps edges[0] … edges[1] − 1 need no mask."""
    OWNED: gl.constexpr = CRAFT_ROWS * CRAFTS
    begin, full_begin, full_end, end = rows_in_sight(start, band, mirrored, ROWS)
    # A key past the end has scores of 0, whose exponentials may be infinite, and dQ would add up infinity times 0: all tiles are masked.
    past_the_end = start + OWNED > band.seqlen_k
    full_begin, full_end = gl.where(past_the_end, end, full_begin), gl.where(past_the_end, end, full_end)
    edges = (end - full_end, end - full_begin) if DOWN else (full_begin - begin, full_end - begin)
    edges = GROUP * edges[0], GROUP * edges[1]
    begin_before, _, _, end_before = rows_in_sight(start - OWNED, band, mirrored, ROWS)
    turn = Turn(start // OWNED, begin_before, end_before)
    return Walk(begin, end, GROUP, DOWN), edges, turn


@gluon.jit(do_not_specialize=["scale", "band", "mirrored", "TOGETHER"])  # every length would be compiled anew
def fused_kernel(
    Q, K, V, GradOut, Rows, GradQ, Turns, GradK, GradV, scale, band, mirrored, shaping, TOGETHER,
    GROUP: gl.constexpr, PLACES: gl.constexpr, DQ_PLACES: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    """One program owns CRAFT_ROWS · CRAFTS keys of one head. mirrored: (lowest, highest) of the band, seen from the keys.

    Turns: for each tile of dq the number of the program whose turn it is, at first 0; None: they add as they come by.
    """
    gl.static_assert(PLACES == TURN_BELLS and DQ_PLACES <= 4, "bells are numbered for two places; with one, crafts would wait for ever")
    ROWS: gl.constexpr = Q.block_type.shape[2]
    at = owned_keys(K, TOGETHER)
    walk, edges, turn = walk_of(at.start, band, mirrored, GROUP, Turns is not None, ROWS)
    shared = Shared(
        owned_for(K, CRAFTS), owned_for(V, CRAFTS),
        Shelf(tiles_for(Q, PLACES), barriers(PLACES, 1), None, CRAFTS * CRAFT_THREADS + WARP_THREADS),
        Shelf(tiles_for(GradOut, PLACES), barriers(PLACES, 1), None, None),
        gl.allocate_shared_memory(gl.float32, [PLACES] + Rows.block_type.shape, Rows.layout),
        gl.allocate_shared_memory(K.dtype, [DS_PLACES, CRAFTS * CRAFT_ROWS, ROWS], gl.NVMMASharedLayout(128, 16, rank=2)),
        Shelf(tiles_for(GradQ, DQ_PLACES * CRAFTS), None, barriers(DQ_PLACES, 1), None),
    )  # fmt: skip
    scale *= LOG2_E
    gl.warp_specialize(
        [
            (craft, (0, shared, GradK, GradV, at, walk, edges, band, scale, shaping)),
            (craft, (1, shared, GradK, GradV, at, walk, edges, band, scale, shaping)),
            (carrier, (shared, Q, K, V, GradOut, Rows, at, walk)),
            (sender, (shared, GradQ, Turns, at, walk, turn)),
        ],
        [4, 1, 1], [REGISTERS, CARRIER_REGISTERS, CARRIER_REGISTERS],
    )  # fmt: skip
