"""How dQ is summed: crafts put down parts of its tiles, and the sender, one warp, has the copy engine add them to what others added.

In turns, so that every run gives the same bits: for each tile of dQ a number in global memory says whose turn it is.
"""

from typing import Any, NamedTuple

from triton import constexpr_function
from triton._C.libtriton import ir
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language._core import builtin
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from flashlab.kernels.hopper.workshop import (
    CRAFT_THREADS,
    CRAFTS,
    WARP_THREADS,
    hear,
    met_at,
    place_of,
    ring,
    steps_of,
    wait_for_room,
)  # fmt: skip

DQ_BELLS = gl.constexpr(4)  # one of each place


class Turn(NamedTuple):
    """When a program adds to a tile of dq: after the one of the keys before its own, if that meets the tile.

    That is enough. Where keys begin later, so do the rows that see them, and end: the programs that meet a tile are neighbours.
    """

    number: Any  # of this program, counted from the first keys
    begin_before: Any  # the one before meets the tiles begin_before … end_before − 1
    end_before: Any


@constexpr_function
def corner_of(c, part_rows, part_columns, rows):
    """(row, column) where craft c's part of a tile of dq begins: crafts share the rows of a tile, or its columns."""
    return (c * part_rows, 0) if part_rows < rows else (0, c * part_columns)


@gluon.jit
def put_down(c: gl.constexpr, dq, n, shared):
    """Craft c puts its part of dq of tile n where the sender finds it."""
    place, _ = place_of(shared.dq_shelf, n)
    part = shared.dq_shelf.tiles.index(CRAFTS * place + c)  # [1, 1, PART_ROWS, PART_COLUMNS]
    wait_for_room(shared.dq_shelf, n)
    part.reshape([part.shape[2], part.shape[3]]).store(dq)
    fence_async_shared()
    ring(DQ_BELLS + place, CRAFTS * CRAFT_THREADS + WARP_THREADS)


@gluon.jit
def sender(shared, GradQ, Turns, at, walk, turn):
    """Every tile of dq goes out, once all crafts have put down their parts; with Turns, when it is this program's turn."""
    ROWS: gl.constexpr = shared.q_shelf.tiles.shape[3]
    tiles, last = gl.cdiv(GradQ.shape[2], ROWS), steps_of(walk) - 1
    if Turns is not None:
        turns = Turns + (at.batch * GradQ.shape[1] + at.head * walk.group) * tiles
        seen = whose_turn(turns, 0, walk, tiles)
    for n in range(last + 1):
        member, tile = met_at(n, walk)
        place, _ = place_of(shared.dq_shelf, n)
        hear(DQ_BELLS + place, CRAFTS * CRAFT_THREADS + WARP_THREADS)
        if Turns is not None:
            awaited = gl.where((turn.begin_before <= tile) & (tile < turn.end_before), turn.number, 0)
            while seen < awaited:
                seen = whose_turn(turns, n, walk, tiles)
            see_what_others_added()
        for c in gl.static_range(CRAFTS):
            send(c, place, tile, at.head * walk.group + member, shared, GradQ, at)
        if Turns is not None:  # of the next tile, while this one is on its way
            seen = whose_turn(turns, gl.minimum(n + 1, last), walk, tiles)
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
def whose_turn(turns, n, walk, tiles):
    """The number of the program whose turn it is at the tile of step n; what those before it added is there."""
    member, tile = met_at(n, walk)
    return gl.atomic_add(turns + member * tiles + tile, 0, sem="acquire", scope="gpu")


@gluon.jit
def see_what_others_added():
    """What a thread has seen in global memory comes before what the copy engine does there from now on."""
    gl.inline_asm_elementwise("fence.proxy.async.global; // $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def wait_until_added():
    """What the copy engine adds is there, not only read; all threads of the sender's warp know it, since one of them told the engine."""
    ALL_HERE: gl.constexpr = "cp.async.bulk.wait_group 0; bar.warp.sync 0xffffffff; // $0"
    gl.inline_asm_elementwise(ALL_HERE, "=r", [], dtype=gl.int32, is_pure=False, pack=1)
