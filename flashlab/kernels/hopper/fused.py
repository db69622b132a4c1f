"""dK, dV and dQ in one kernel on Hopper (Dao 2023, Algorithm 2): a program owns keys and walks over the query rows that see them.

It has ds of its keys, and multiplies it into dQ as well: five products a tile, where two kernels need seven. Every program adds its part of
dQ to what others added, and a sum of float32 depends on their order in its last bits. So they take turns: the last keys first.

Scores are transposed here, keys down and queries across: then p and ds come out in registers as the next products want their left factor.
"""

from typing import Any, NamedTuple

from triton import constexpr_function
from triton._C.libtriton import ir
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language._core import builtin
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from flashlab.kernels.hopper.workshop import (
    CARRIER_REGISTERS,
    CRAFT_ROWS,
    CRAFTS,
    Place,
    Shelf,
    barriers,
    carry,
    carry_owned,
    give_back,
    owned_for,
    place_of,
    put_away,
    sees,
    shelf_for,
    take,
    take_owned,
    tiles_in_sight,
    wait_for_room,
)  # fmt: skip
from flashlab.kernels.tile import LN_2, LOG2_E

DS_PLACES = gl.constexpr(2)  # ds of the tile before lies there still when the next is put down


class Shared(NamedTuple):
    """What lies in shared memory."""

    keys: Any  # Owned; at the end dk
    own_values: Any  # Owned; at the end dv
    q_shelf: Any
    do_shelf: Any
    rows: Any  # [PLACES, 1, 1, 2, ROWS], beside the queries: lse in base 2 and delta of each row
    ds_shelf: Any  # Shelf of [DS_PLACES, CRAFTS · CRAFT_ROWS, ROWS]: every craft puts down its keys' part, and reads that of all keys
    dq_shelf: Any  # Shelf of [DQ_PLACES · CRAFTS, 1, 1, PART_ROWS, PART_COLUMNS]: every craft puts down its part of a tile of dq


class Turn(NamedTuple):
    """When a program adds to a tile of dq: after the one of the keys behind its own, if that meets the tile, walking over begin … end − 1.

    That is enough. Where keys begin later, so do the rows that see them, and end: the programs that meet a tile are neighbours.
    """

    number: Any  # of this program, counted from the last keys
    begin: Any
    end: Any


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
def share(c: gl.constexpr, ds, n, shelf):
    """Craft c puts its part of ds of tile n, [CRAFT_ROWS, ROWS], where all crafts find it."""
    place, _ = place_of(shelf, n)
    wait_for_room(shelf, n)
    shelf.tiles.index(place).slice(CRAFT_ROWS * c, CRAFT_ROWS).store(ds)
    fence_async_shared()
    mbarrier.arrive(shelf.full.index(place), count=1)


@constexpr_function
def corner_of(c, part_rows, part_columns, rows):
    """(row, column) where craft c's part of a tile of dq begins: crafts share the rows of a tile, or its columns."""
    return (c * part_rows, 0) if part_rows < rows else (0, c * part_columns)


@gluon.jit
def row_gradient(c: gl.constexpr, n, shared):
    """Issue dsᵀ · k of tile n, one product for each craft's keys: craft c's part of dq, [PART_ROWS, PART_COLUMNS]."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    D: gl.constexpr = shared.q_shelf.tiles.shape[4]
    PART_ROWS: gl.constexpr = shared.dq_shelf.tiles.shape[3]
    PART_COLUMNS: gl.constexpr = shared.dq_shelf.tiles.shape[4]
    corner: gl.constexpr = corner_of(c, PART_ROWS, PART_COLUMNS, ROWS)
    place, parity = place_of(shared.ds_shelf, n)
    mbarrier.wait(shared.ds_shelf.full.index(place), parity)
    dq = gl.zeros([PART_ROWS, PART_COLUMNS], gl.float32, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PART_COLUMNS, 16]))
    for craft in gl.static_range(CRAFTS):
        ds = shared.ds_shelf.tiles.index(place).slice(CRAFT_ROWS * craft, CRAFT_ROWS).permute((1, 0))  # [ROWS, CRAFT_ROWS]
        keys = shared.keys.tiles.index(craft).reshape([CRAFT_ROWS, D]).slice(corner[1], PART_COLUMNS, dim=1)  # [CRAFT_ROWS, PART_COLUMNS]
        dq = warpgroup_mma(ds.slice(corner[0], PART_ROWS), keys, dq, use_acc=craft > 0, is_async=True)
    return dq


@gluon.jit
def put_down(c: gl.constexpr, dq, n, shared):
    """Craft c puts its part of dq of tile n where the sender finds it."""
    place, _ = place_of(shared.dq_shelf, n)
    part = shared.dq_shelf.tiles.index(CRAFTS * place + c)  # [1, 1, PART_ROWS, PART_COLUMNS]
    give_back(shared.ds_shelf, n)
    wait_for_room(shared.dq_shelf, n)
    part.reshape([part.shape[2], part.shape[3]]).store(dq)
    fence_async_shared()
    mbarrier.arrive(shared.dq_shelf.full.index(place), count=1)


@gluon.jit
def step(
    c: gl.constexpr, n, tile, last, scores, dk, dv, k, v, shared, j, band, scale,
    MASKED: gl.constexpr, FIRST: gl.constexpr, SCORES: gl.constexpr, P: gl.constexpr,
):  # fmt: skip
    """Add what tile n gives to dk and dv, and put down dq of the tile before: by now the other crafts have most likely shared its ds.

    The scores of tile n are there; those of the next are computed while dq is put down. exp2 runs beside v · dOᵀ, and ds beside p · dO.
    """
    do = take(shared.do_shelf, n)  # [ROWS, D]
    dp = products(v, do, SCORES)
    p = probabilities(scores, n, tile, shared.rows, j, band, scale, MASKED, SCORES)
    dv = warpgroup_mma(gl.convert_layout(p.to(k.dtype), P), do, dv, is_async=True)  # [CRAFT_ROWS, D]
    dp = warpgroup_mma_wait(1, deps=(dp,))
    ds = score_gradient(p, dp, n, shared.rows, SCORES).to(k.dtype)
    share(c, ds, n, shared.ds_shelf)
    dk = warpgroup_mma(gl.convert_layout(ds, P), take(shared.q_shelf, n), dk, is_async=True)  # [CRAFT_ROWS, D]
    if FIRST:
        dv, dk = warpgroup_mma_wait(0, deps=(dv, dk))
    else:
        dq = row_gradient(c, n - 1, shared)
        dv, dk = warpgroup_mma_wait(CRAFTS, deps=(dv, dk))  # but for dq's products, one for each craft's keys
    give_back(shared.q_shelf, n)
    give_back(shared.do_shelf, n)
    scores = products(k, take(shared.q_shelf, gl.minimum(n + 1, last)), SCORES)  # after the last tile: once more its own, unused
    if not FIRST:
        dq = warpgroup_mma_wait(1, deps=(dq,))
        put_down(c, dq, n - 1, shared)
    return warpgroup_mma_wait(0, deps=(scores,)), dk, dv


@gluon.jit
def craft(c: gl.constexpr, shared, GradK, GradV, at, bounds, band, scale, GROUP: gl.constexpr):
    """Craft c owns CRAFT_ROWS keys and walks up the tiles that see any of the program's, once for each head of the group."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    D: gl.constexpr = shared.q_shelf.tiles.shape[4]
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    P: gl.constexpr = gl.DotOperandLayout(0, ACC, 2)  # registers
    begin, full_begin, full_end, end = bounds
    last = GROUP * (end - begin) - 1

    j = at.start + CRAFT_ROWS * c + gl.arange(0, CRAFT_ROWS, gl.SliceLayout(1, SCORES))
    dk, dv = gl.zeros([CRAFT_ROWS, D], gl.float32, ACC), gl.zeros([CRAFT_ROWS, D], gl.float32, ACC)
    k, v = take_owned(shared.keys, c), take_owned(shared.own_values, c)  # [CRAFT_ROWS, D]
    scores = warpgroup_mma_wait(0, deps=(products(k, take(shared.q_shelf, 0), SCORES),))
    scores, dk, dv = step(c, 0, begin, last, scores, dk, dv, k, v, shared, j, band, scale, True, True, SCORES, P)
    start = begin + 1
    for member in range(GROUP):
        before = member * (end - begin) - begin  # tiles are counted over the whole group
        for t in range(start, full_begin):
            scores, dk, dv = step(c, t + before, t, last, scores, dk, dv, k, v, shared, j, band, scale, True, False, SCORES, P)
        for t in range(gl.maximum(start, full_begin), full_end):
            scores, dk, dv = step(c, t + before, t, last, scores, dk, dv, k, v, shared, j, band, scale, False, False, SCORES, P)
        if band.lowest is not None:
            for t in range(gl.maximum(start, full_end), end):
                scores, dk, dv = step(c, t + before, t, last, scores, dk, dv, k, v, shared, j, band, scale, True, False, SCORES, P)
        start = begin
    dq = warpgroup_mma_wait(0, deps=(row_gradient(c, last, shared),))
    put_down(c, dq, last, shared)
    wait_for_room(shared.ds_shelf, last + DS_PLACES)  # all have given back the last ds: they have read the keys, which lie where dk goes
    put_away(GradK, dk * (scale * LN_2), shared.keys, c, at)  # scale is that of base 2
    put_away(GradV, dv, shared.own_values, c, at)
    tma.store_wait(0)


@gluon.jit
def carrier(shared, Q, K, V, GradOut, Rows, at, begin, end, GROUP: gl.constexpr):
    """The keys and values once, then every tile of queries with its row numbers, and of dO, of each head of the group."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    carry_owned(shared.keys, K, at)
    carry_owned(shared.own_values, V, at)
    for n in range(GROUP * (end - begin)):
        head, tile = at.head * GROUP + n // (end - begin), begin + n % (end - begin)
        place, _ = place_of(shared.q_shelf, n)
        full = shared.q_shelf.full.index(place)
        wait_for_room(shared.q_shelf, n)
        mbarrier.expect(full, Q.block_type.nbytes + Rows.block_type.nbytes)
        tma.async_copy_global_to_shared(Q, [at.batch, head, tile * ROWS, 0], full, shared.q_shelf.tiles.index(place))
        tma.async_copy_global_to_shared(Rows, [at.batch, head, 0, tile * ROWS], full, shared.rows.index(place))
        carry(shared.do_shelf, n, GradOut, at.batch, head, tile * ROWS)


@gluon.jit
def sender(shared, GradQ, Turns, at, begin, end, turn, GROUP: gl.constexpr):
    """Every tile of dq goes out, once all crafts have put down their parts; with Turns, when it is this program's turn."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    tiles, last = gl.cdiv(GradQ.shape[2], ROWS), GROUP * (end - begin) - 1
    if Turns is not None:
        turns = Turns + (at.batch * GradQ.shape[1] + at.head * GROUP) * tiles
        seen = whose_turn(turns + begin)
    for n in range(last + 1):
        member, tile = n // (end - begin), begin + n % (end - begin)
        place, parity = place_of(shared.dq_shelf, n)
        mbarrier.wait(shared.dq_shelf.full.index(place), parity)
        if Turns is not None:
            mine = gl.where((turn.begin <= tile) & (tile < turn.end), turn.number, 0)
            while seen < mine:
                seen = whose_turn(turns + member * tiles + tile)
            see_what_others_added()
        for c in gl.static_range(CRAFTS):
            send(c, place, tile, at.head * GROUP + member, shared, GradQ, at)
        if Turns is not None:  # of the next tile, while this one is on its way
            following = gl.minimum(n + 1, last)
            seen = whose_turn(turns + following // (end - begin) * tiles + begin + following % (end - begin))
        tma.store_wait(0)  # it has been read, so there is room; added it is later
        mbarrier.arrive(shared.dq_shelf.empty.index(place), count=1)
        if Turns is not None:
            wait_until_added()
            gl.atomic_xchg(turns + member * tiles + tile, turn.number + 1, sem="release", scope="gpu")


@gluon.jit
def send(c: gl.constexpr, place, tile, head, shared, GradQ, at):
    """Craft c's part of a tile of dq goes out, and is added there."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    corner: gl.constexpr = corner_of(c, GradQ.block_type.shape[2], GradQ.block_type.shape[3], ROWS)
    add_to_global(GradQ, [at.batch, head, tile * ROWS + corner[0], corner[1]], shared.dq_shelf.tiles.index(CRAFTS * place + c))


@builtin
def add_to_global(described, coord, tile, _semantic=None):
    """The copy engine adds a tile of shared memory to what lies in global memory. (Gluon has no name for it before Triton 3.8.)"""
    coord = _semantic._convert_to_ir_values(coord, require_i64=False)
    _semantic.builder.create_async_tma_reduce(ir.DESCRIPTOR_REDUCE_KIND.ADD, described.handle, coord, tile.handle)


@gluon.jit
def whose_turn(turn):
    """The number of the program whose turn it is at a tile; what those before it added is there."""
    return gl.atomic_add(turn, 0, sem="acquire", scope="gpu")


@gluon.jit
def see_what_others_added():
    """What a thread has seen in global memory comes before what the copy engine does there from now on."""
    gl.inline_asm_elementwise("fence.proxy.async.global; // $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def wait_until_added():
    """What the copy engine adds is there, not only read; all threads of the sender's warp know it, since one of them told the engine."""
    ALL_HERE: gl.constexpr = "cp.async.bulk.wait_group 0; bar.warp.sync 0xffffffff; // $0"
    gl.inline_asm_elementwise(ALL_HERE, "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def owned_keys(K, TOGETHER, LAST_FIRST: gl.constexpr):
    """The Place of a program. Heads go TOGETHER, so that their rows stay in the L2 cache.

    The first keys first: under a causal mask the most rows see them. But who waits for others must have a number after theirs, since a GPU
    starts programs in the order of their numbers.
    """
    heads, tiles = K.shape[1], gl.cdiv(K.shape[2], CRAFT_ROWS * CRAFTS)
    program = gl.program_id(0)
    first = program // (tiles * TOGETHER) * TOGETHER
    together = gl.minimum(TOGETHER, K.shape[0] * heads - first)
    within = program - first * tiles
    plane, tile = first + within % together, within // together
    if LAST_FIRST:
        tile = tiles - 1 - tile
    return Place(plane // heads, plane % heads, tile * (CRAFT_ROWS * CRAFTS))


@gluon.jit
def rows_in_sight(start, band, mirrored, ROWS: gl.constexpr):
    """`tiles_in_sight` of the keys from `start` on. Rows past the end need no mask: the copy engine brings zeros, which add nothing."""
    return tiles_in_sight(start, gl.cdiv(band.seqlen_q, ROWS) * ROWS, mirrored[0], mirrored[1], CRAFT_ROWS * CRAFTS, ROWS)


@gluon.jit(do_not_specialize=["scale", "band", "mirrored", "TOGETHER"])  # every length would be compiled anew
def fused_kernel(
    Q, K, V, GradOut, Rows, GradQ, Turns, GradK, GradV, scale, band, mirrored, TOGETHER,
    GROUP: gl.constexpr, PLACES: gl.constexpr, DQ_PLACES: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    """One program owns CRAFT_ROWS · CRAFTS keys of one head. mirrored: (lowest, highest) of the band, seen from the keys.

    Turns: for each tile of dq the number of the program whose turn it is, at first 0; None: they add as they come by.
    """
    OWNED: gl.constexpr = CRAFT_ROWS * CRAFTS
    ROWS: gl.constexpr = Q.block_type.shape[2]
    at = owned_keys(K, TOGETHER, Turns is not None)
    begin, full_begin, full_end, end = rows_in_sight(at.start, band, mirrored, ROWS)
    begin_behind, _, _, end_behind = rows_in_sight(at.start + OWNED, band, mirrored, ROWS)
    turn = Turn(gl.cdiv(K.shape[2], OWNED) - 1 - at.start // OWNED, begin_behind, end_behind)
    # A key past the end has scores of 0, whose exponentials may be infinite, and dQ would add up infinity times 0: all tiles are masked.
    past_the_end = at.start + OWNED > band.seqlen_k
    bounds = begin, gl.where(past_the_end, end, full_begin), gl.where(past_the_end, end, full_end), end
    shared = Shared(
        owned_for(K, CRAFTS), owned_for(V, CRAFTS), shelf_for(Q, PLACES, CRAFTS), shelf_for(GradOut, PLACES, CRAFTS),
        gl.allocate_shared_memory(gl.float32, [PLACES] + Rows.block_type.shape, Rows.layout),
        ds_shelf_for(K.dtype, ROWS), dq_shelf_for(GradQ, DQ_PLACES),
    )  # fmt: skip
    scale *= LOG2_E
    gl.warp_specialize(
        [
            (craft, (0, shared, GradK, GradV, at, bounds, band, scale, GROUP)),
            (craft, (1, shared, GradK, GradV, at, bounds, band, scale, GROUP)),
            (carrier, (shared, Q, K, V, GradOut, Rows, at, begin, end, GROUP)),
            (sender, (shared, GradQ, Turns, at, begin, end, turn, GROUP)),
        ],
        [4, 1, 1], [REGISTERS, CARRIER_REGISTERS, CARRIER_REGISTERS],
    )  # fmt: skip


@gluon.jit
def ds_shelf_for(dtype: gl.constexpr, ROWS: gl.constexpr):
    """An empty shelf which crafts fill themselves, all of them each place."""
    tiles = gl.allocate_shared_memory(dtype, [DS_PLACES, CRAFTS * CRAFT_ROWS, ROWS], gl.NVMMASharedLayout(128, 16, rank=2))
    return Shelf(tiles, barriers(DS_PLACES, CRAFTS), barriers(DS_PLACES, CRAFTS), 0)


@gluon.jit
def dq_shelf_for(GradQ, PLACES: gl.constexpr):
    """An empty shelf which crafts fill, all of them each place, and the sender empties."""
    tiles = gl.allocate_shared_memory(gl.float32, [PLACES * CRAFTS] + GradQ.block_type.shape, GradQ.layout)
    return Shelf(tiles, barriers(PLACES, CRAFTS), barriers(PLACES, 1), 0)
