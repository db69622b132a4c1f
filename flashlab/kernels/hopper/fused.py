"""dK, dV and dQ in one kernel on Hopper (Dao 2023, Algorithm 2): the program that has ds of its keys multiplies it into dQ as well.

Five products a tile, where two kernels need seven. But every program adds its part of dQ to what others have added, in the order in which
they come by, and a sum of float32 depends on that order in its last bits: `deterministic=False` alone takes this kernel.
"""

from typing import Any, NamedTuple

from triton import constexpr_function
from triton._C.libtriton import ir
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language._core import builtin
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from flashlab.kernels.hopper.dkdv import carrier, probabilities, products, rows_in_sight, score_gradient
from flashlab.kernels.hopper.workshop import (
    CARRIER_REGISTERS,
    CRAFT_ROWS,
    CRAFTS,
    Place,
    Shelf,
    give_back,
    owned_for,
    place_of,
    put_away,
    shelf_for,
    take,
    take_owned,
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
    dq: Any  # [CRAFTS, 1, 1, PART_ROWS, PART_COLUMNS]: each craft's part of a tile of dq, on its way out


class Walk(NamedTuple):
    """The tiles begin … end − 1, once for each head of the group: `tiles` in all."""

    begin: Any
    end: Any
    tiles: Any


@builtin
def add_to_global(described, coord, tile, _semantic=None):
    """The copy engine adds a tile of shared memory to what lies in global memory. (Gluon has no name for it before Triton 3.8.)"""
    coord = _semantic._convert_to_ir_values(coord, require_i64=False)
    _semantic.builder.create_async_tma_reduce(ir.DESCRIPTOR_REDUCE_KIND.ADD, described.handle, coord, tile.handle)


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
def row_gradient(c: gl.constexpr, n, shared, GradQ):
    """Issue dsᵀ · k of tile n, one product for each craft's keys: craft c's part of dq, [PART_ROWS, PART_COLUMNS]."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    D: gl.constexpr = shared.q_shelf.tiles.shape[4]
    PART_ROWS: gl.constexpr = GradQ.block_type.shape[2]
    PART_COLUMNS: gl.constexpr = GradQ.block_type.shape[3]
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
def send(c: gl.constexpr, dq, n, tile, head, shared, GradQ, at):
    """Craft c's part of dq of tile n goes out, and is added there."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    PART_ROWS: gl.constexpr = GradQ.block_type.shape[2]
    PART_COLUMNS: gl.constexpr = GradQ.block_type.shape[3]
    corner: gl.constexpr = corner_of(c, PART_ROWS, PART_COLUMNS, ROWS)
    give_back(shared.ds_shelf, n)
    place = shared.dq.index(c)
    tma.store_wait(0)  # the part before has left
    place.reshape([PART_ROWS, PART_COLUMNS]).store(dq)
    fence_async_shared()
    add_to_global(GradQ, [at.batch, head, tile * ROWS + corner[0], corner[1]], place)


@gluon.jit
def step(
    c: gl.constexpr, n, tile, head, scores, dk, dv, k, v, shared, GradQ, at, walk, j, band, scale,
    MASKED: gl.constexpr, FIRST: gl.constexpr, SCORES: gl.constexpr, P: gl.constexpr,
):  # fmt: skip
    """Add what tile n gives to dk and dv, and send dq of the tile before: by now the other crafts have most likely shared its ds.

    The scores of tile n are there; those of the next are computed while dq goes out. exp2 runs beside v · dOᵀ, and ds beside p · dO.
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
        dq = row_gradient(c, n - 1, shared, GradQ)
        dv, dk = warpgroup_mma_wait(CRAFTS, deps=(dv, dk))
    give_back(shared.q_shelf, n)
    give_back(shared.do_shelf, n)
    scores = products(k, take(shared.q_shelf, gl.minimum(n + 1, walk.tiles - 1)), SCORES)  # after the last tile: once more its own, unused
    if not FIRST:
        dq = warpgroup_mma_wait(1, deps=(dq,))
        next_head = tile == walk.begin
        send(c, dq, n - 1, gl.where(next_head, walk.end, tile) - 1, gl.where(next_head, head - 1, head), shared, GradQ, at)
    return warpgroup_mma_wait(0, deps=(scores,)), dk, dv


@gluon.jit
def craft(c: gl.constexpr, shared, GradQ, GradK, GradV, at, bounds, band, scale, GROUP: gl.constexpr):
    """Craft c owns CRAFT_ROWS keys and walks up the tiles that see any of the program's, once for each head of the group."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    D: gl.constexpr = shared.q_shelf.tiles.shape[4]
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    P: gl.constexpr = gl.DotOperandLayout(0, ACC, 2)  # registers
    begin, full_begin, full_end, end = bounds
    walk = Walk(begin, end, GROUP * (end - begin))

    j = at.start + CRAFT_ROWS * c + gl.arange(0, CRAFT_ROWS, gl.SliceLayout(1, SCORES))
    dk, dv = gl.zeros([CRAFT_ROWS, D], gl.float32, ACC), gl.zeros([CRAFT_ROWS, D], gl.float32, ACC)
    k, v = take_owned(shared.keys, c), take_owned(shared.own_values, c)  # [CRAFT_ROWS, D]
    scores = warpgroup_mma_wait(0, deps=(products(k, take(shared.q_shelf, 0), SCORES),))
    head = at.head * GROUP
    scores, dk, dv = step(
        c, 0, begin, head, scores, dk, dv, k, v, shared, GradQ, at, walk, j, band, scale, True, True, SCORES, P
    )  # fmt: skip
    start = begin + 1
    for member in range(GROUP):
        head = at.head * GROUP + member
        before = member * (end - begin) - begin  # tiles are counted over the whole group
        for t in range(start, full_begin):
            scores, dk, dv = step(
                c, t + before, t, head, scores, dk, dv, k, v, shared, GradQ, at, walk, j, band, scale, True, False, SCORES, P
            )  # fmt: skip
        for t in range(gl.maximum(start, full_begin), full_end):
            scores, dk, dv = step(
                c, t + before, t, head, scores, dk, dv, k, v, shared, GradQ, at, walk, j, band, scale, False, False, SCORES, P
            )  # fmt: skip
        if band.lowest is not None:
            for t in range(gl.maximum(start, full_end), end):
                scores, dk, dv = step(
                    c, t + before, t, head, scores, dk, dv, k, v, shared, GradQ, at, walk, j, band, scale, True, False, SCORES, P
                )  # fmt: skip
        start = begin
    dq = warpgroup_mma_wait(0, deps=(row_gradient(c, walk.tiles - 1, shared, GradQ),))
    send(c, dq, walk.tiles - 1, end - 1, head, shared, GradQ, at)
    wait_for_room(shared.ds_shelf, walk.tiles - 1 + DS_PLACES)  # the other crafts have read the keys, which lie where dk goes
    put_away(GradK, dk * (scale * LN_2), shared.keys, c, at)
    put_away(GradV, dv, shared.own_values, c, at)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["scale", "band", "mirrored"])  # every length would be compiled anew
def fused_kernel(
    Q, K, V, GradOut, Rows, GradQ, GradK, GradV, scale, band, mirrored,
    GROUP: gl.constexpr, PLACES: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    """One program owns CRAFT_ROWS · CRAFTS keys of one head. mirrored: (lowest, highest) of the band, seen from the keys."""
    ROWS: gl.constexpr = Q.block_type.shape[2]
    tiles, heads_kv = gl.cdiv(K.shape[2], CRAFT_ROWS * CRAFTS), K.shape[1]
    program = gl.program_id(0)  # the first keys first: under a causal mask the most rows see them
    plane = program // tiles
    at = Place(plane // heads_kv, plane % heads_kv, program % tiles * CRAFT_ROWS * CRAFTS)
    begin, full_begin, full_end, end = rows_in_sight(at.start, band, mirrored, CRAFT_ROWS * CRAFTS, ROWS)
    # A key past the end has scores of 0, whose exponentials may be infinite, and dQ would add up infinity times 0: all tiles are masked.
    past_the_end = at.start + CRAFT_ROWS * CRAFTS > band.seqlen_k
    bounds = begin, gl.where(past_the_end, end, full_begin), gl.where(past_the_end, end, full_end), end
    shared = Shared(
        owned_for(K, CRAFTS), owned_for(V, CRAFTS), shelf_for(Q, PLACES, CRAFTS), shelf_for(GradOut, PLACES, CRAFTS),
        gl.allocate_shared_memory(gl.float32, [PLACES] + Rows.block_type.shape, Rows.layout),
        ds_shelf_for(K.dtype, ROWS),
        gl.allocate_shared_memory(gl.float32, [CRAFTS] + GradQ.block_type.shape, GradQ.layout),
    )  # fmt: skip
    scale *= LOG2_E
    gl.warp_specialize(
        [
            (craft, (0, shared, GradQ, GradK, GradV, at, bounds, band, scale, GROUP)),
            (craft, (1, shared, GradQ, GradK, GradV, at, bounds, band, scale, GROUP)),
            (carrier, (shared, Q, K, V, GradOut, Rows, at, begin, end, GROUP)),
        ],
        [4, 1], [REGISTERS, CARRIER_REGISTERS],
    )  # fmt: skip


@gluon.jit
def ds_shelf_for(dtype: gl.constexpr, ROWS: gl.constexpr):
    """An empty shelf which crafts fill themselves, all of them each place."""
    tiles = gl.allocate_shared_memory(dtype, [DS_PLACES, CRAFTS * CRAFT_ROWS, ROWS], gl.NVMMASharedLayout(128, 16, rank=2))
    full = gl.allocate_shared_memory(gl.int64, [DS_PLACES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [DS_PLACES, 1], mbarrier.MBarrierLayout())
    for place in gl.static_range(DS_PLACES):
        mbarrier.init(full.index(place), count=CRAFTS)
        mbarrier.init(empty.index(place), count=CRAFTS)
    return Shelf(tiles, full, empty)
