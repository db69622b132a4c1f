"""What the kernels of this folder share: a multiprocessor as a workshop.

One warp, the carrier, has the copy engine bring tiles from global to shared memory. Two or three warpgroups, the crafts, multiply them.
In the backward pass one more warp, the sender, has the copy engine take away what they put down.
They meet at barriers alone: a place on a shelf is full, or empty again. (Shah et al. 2024, §3.1, calls them producer and consumers.)
"""

import functools
from typing import Any, NamedTuple

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

CRAFT_ROWS = gl.constexpr(64)  # what one warpgroup multiplies at a time
CRAFTS = gl.constexpr(2)  # in the backward pass
CRAFT_THREADS = gl.constexpr(128)
WARP_THREADS = gl.constexpr(32)  # of the carrier, or the sender
FIRST_BELL = gl.constexpr(8)  # of the GPU's sixteen; Triton itself uses the first few
CARRIER_REGISTERS = gl.constexpr(24)  # of a thread: the fewest there are; what it leaves goes to the crafts
GLUON_TYPES = {torch.float16: gl.float16, torch.bfloat16: gl.bfloat16, torch.float32: gl.float32}


class Band(NamedTuple):
    """Row i sees the keys i + lowest … i + highest; None: no edge on that side, and the compiler never sees it."""

    lowest: Any
    highest: Any
    seqlen_q: Any
    seqlen_k: Any


class Place(NamedTuple):
    """Rows, or keys, of one head from `start` on: what a job is, or a program owns."""

    batch: Any
    head: Any
    start: Any


class Owned(NamedTuple):
    """Tiles that stay for a whole program, one for each craft."""

    tiles: Any  # [CRAFTS, 1, 1, CRAFT_ROWS, columns]
    full: Any  # barrier


class Shelf(NamedTuple):
    """Places for tiles that come and go."""

    tiles: Any  # [PLACES, 1, 1, rows, columns] of those that the copy engine fills
    full: Any  # barriers, [PLACES, 1], at which whoever fills a place arrives; None: who waits for it hears of it otherwise
    empty: Any  # and those who empty it; None: they ring a bell of each place instead, or empty it with another shelf's
    ringers: Any  # so many threads ring that bell, or wait for it


class Walk(NamedTuple):
    """A program's steps: over the tiles of query rows that see its keys, begin … end − 1, each in every head of its group."""

    begin: Any
    end: Any
    group: Any  # how many heads
    down: Any  # from the last tile to the first


def describe(x, tile):
    """A descriptor by which the copy engine brings tiles of a head, (rows, columns), or takes them away."""
    return TensorDescriptor.from_tensor(x, [1, 1, *tile], _layout(*tile, x.dtype))


@functools.cache
def _layout(rows, columns, dtype):
    """How a tile lies in shared memory. Worked out once: it takes longer than all the rest of a descriptor."""
    return gl.NVMMASharedLayout.get_default_for([1, 1, rows, columns], GLUON_TYPES[dtype])


@gluon.jit
def owned_for(described, CRAFTS: gl.constexpr):
    """Room for tiles of a descriptor, one for each craft."""
    full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(full, count=1)
    return Owned(tiles_for(described, CRAFTS), full)


@gluon.jit
def tiles_for(described, PLACES: gl.constexpr):
    """Room for tiles of a descriptor."""
    return gl.allocate_shared_memory(described.dtype, [PLACES] + described.block_type.shape, described.layout)


@gluon.jit
def barriers(PLACES: gl.constexpr, count: gl.constexpr):
    """A barrier for each place, at which `count` arrive.

    Someone has to wait there. The compiler gives away the memory of a barrier that is not used, but for the GPU there still is one. Where
    processes share a GPU, what comes to lie there is damaged: seen with two of them, and not without.
    """
    found = gl.allocate_shared_memory(gl.int64, [PLACES, 1], mbarrier.MBarrierLayout())
    for place in gl.static_range(PLACES):
        mbarrier.init(found.index(place), count=count)
    return found


@gluon.jit
def carry_owned(owned, described, at):
    """The carrier brings what the program owns."""
    CRAFTS: gl.constexpr = owned.tiles.shape[0]
    mbarrier.expect(owned.full, CRAFTS * described.block_type.nbytes)
    for craft in gl.static_range(CRAFTS):
        row = at.start + CRAFT_ROWS * craft
        tma.async_copy_global_to_shared(described, [at.batch, at.head, row, 0], owned.full, owned.tiles.index(craft))


@gluon.jit
def take_owned(owned, craft: gl.constexpr):
    """A craft's own tile as soon as it is there: [CRAFT_ROWS, columns] of shared memory."""
    mbarrier.wait(owned.full, 0)
    return owned.tiles.index(craft).reshape([CRAFT_ROWS, owned.tiles.shape[4]])


@gluon.jit
def place_of(shelf, n):
    """(place, parity of the round) of tile n of a walk: tiles take places in turn, round after round."""
    PLACES: gl.constexpr = shelf.empty.shape[0] if shelf.full is None else shelf.full.shape[0]
    n = gl.to_tensor(n).to(gl.uint32)  # signed, a remainder takes a few instructions more
    return (n % PLACES).to(gl.int32), (n // PLACES & 1).to(gl.int32)


@gluon.jit
def wait_for_room(shelf, n):
    """Whoever fills the place of tile n of a walk waits until it is empty: all crafts have given back what lay there."""
    place, parity = place_of(shelf, n)
    if shelf.empty is not None:
        mbarrier.wait(shelf.empty.index(place), parity ^ 1)
    else:
        hear(place, shelf.ringers)


@gluon.jit
def carry(shelf, n, described, batch, head, row):
    """The carrier brings tile n of a walk, as soon as there is room: the rows from `row` on."""
    wait_for_room(shelf, n)
    bring(shelf, n, described, batch, head, row)


@gluon.jit
def bring(shelf, n, described, batch, head, row):
    """There is room, and the copy engine is told to bring the tile."""
    place, _ = place_of(shelf, n)
    mbarrier.expect(shelf.full.index(place), described.block_type.nbytes)
    tma.async_copy_global_to_shared(described, [batch, head, row, 0], shelf.full.index(place), shelf.tiles.index(place))


@gluon.jit
def take(shelf, n):
    """Tile n of a walk, as soon as it is there: [rows, columns] of shared memory."""
    place, parity = place_of(shelf, n)
    mbarrier.wait(shelf.full.index(place), parity)
    return look_at(shelf, n)


@gluon.jit
def look_at(shelf, n):
    """Tile n of a walk, which has been taken."""
    ROWS: gl.constexpr = shelf.tiles.shape[3]
    place, _ = place_of(shelf, n)
    return shelf.tiles.index(place).reshape([ROWS, shelf.tiles.shape[4]])


@gluon.jit
def give_back(shelf, n):
    """A craft needs tile n no more."""
    place, _ = place_of(shelf, n)
    if shelf.empty is not None:
        mbarrier.arrive(shelf.empty.index(place), count=1)
    else:
        ring(place, shelf.ringers)


@gluon.jit
def give_back_all(shelf):
    """A craft rings for all places before the first tile comes: a new barrier counts as one that all have given back, a bell does not."""
    PLACES: gl.constexpr = shelf.full.shape[0]
    if shelf.empty is None:
        for place in gl.static_range(PLACES):
            ring(place, shelf.ringers)


@gluon.jit
def ring(bell, ringers):
    """Ring a bell, one of a few barriers that the GPU has beside those in shared memory, and go on.

    Before a craft arrives at one of those, Triton makes its warps wait for each other.
    """
    at_bell("bar.arrive $1, $2; // $0", bell, ringers)


@gluon.jit
def hear(bell, ringers):
    """Wait until all have rung it. Who waits is one of the `ringers`, all their threads together."""
    at_bell("bar.sync $1, $2; // $0", bell, ringers)


@gluon.jit
def at_bell(what: gl.constexpr, bell, ringers):
    """An instruction at a bell, on which so many threads meet."""
    bell, ringers = FIRST_BELL + gl.to_tensor(bell), gl.to_tensor(ringers)
    gl.inline_asm_elementwise(what, "=r,r,r", [bell, ringers], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def pass_over(shelf, begin, end):
    """A craft gives back tiles begin … end − 1 of a walk untouched.

    It waits for each all the same: given back too early, a tile would count for the one before it in its place, which others still read.
    """
    for n in range(begin, end):
        take(shelf, n)
        give_back(shelf, n)


@gluon.jit
def put_away(described, tile, owned, craft: gl.constexpr, at):
    """Store a craft's result [CRAFT_ROWS, columns], by way of where its own tile lay. The copy engine leaves out rows past the end."""
    place = owned.tiles.index(craft)
    place.reshape([CRAFT_ROWS, owned.tiles.shape[4]]).store(tile.to(place.dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(described, [at.batch, at.head, at.start + CRAFT_ROWS * craft, 0], place)


@gluon.jit
def tiles_in_sight(start, length, lowest, highest, OWN: gl.constexpr, OTHER: gl.constexpr):
    """(begin, full_begin, full_end, end), in tiles of OTHER: what OWN positions from `start` on meet; those between the fulls hide nothing.

    Position x meets x + lowest … x + highest, below `length`. There is at least one tile, if of hidden pairs.
    """
    begin, full_begin = 0, 0
    end, full_end = length, length // OTHER
    if highest is not None:
        end = gl.minimum(end, start + OWN + highest)
        full_end = gl.minimum(full_end, gl.maximum(0, start + highest + 1) // OTHER)
    if lowest is not None:
        begin = gl.minimum(gl.maximum(0, start + lowest), length - 1) // OTHER
        full_begin = gl.cdiv(gl.maximum(0, start + OWN - 1 + lowest), OTHER)
    end = gl.maximum(begin + 1, gl.cdiv(gl.maximum(0, end), OTHER))
    full_begin = gl.minimum(gl.maximum(full_begin, begin), end)
    return begin, full_begin, gl.minimum(gl.maximum(full_end, full_begin), end), end


@gluon.jit
def steps_of(walk):
    """How many there are."""
    return walk.group * (walk.end - walk.begin)


@gluon.jit
def met_at(n, walk):
    """(head of the group, tile) of step n."""
    n, group = gl.to_tensor(n).to(gl.uint32), gl.to_tensor(walk.group).to(gl.uint32)  # signed, a remainder takes a few instructions more
    passed = (n // group).to(gl.int32)
    tile = walk.end - 1 - passed if walk.down else walk.begin + passed
    return (n % group).to(gl.int32), tile


@gluon.jit
def sees(i, j, band):
    """Whether row i sees key j."""
    seen = j < band.seqlen_k
    if band.lowest is not None:
        seen = seen & (j >= i + band.lowest)
    if band.highest is not None:
        seen = seen & (j <= i + band.highest)
    return seen
