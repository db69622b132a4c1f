"""Which tile a program owns, and which tiles it visits. Nothing here computes; a tile that is not visited costs nothing.

A walk is (begin, full_begin, full_end, end): tiles from begin to full_begin and from full_end to end hold some hidden pairs and are masked,
those in between are whole.
"""

import triton
import triton.language as tl

from flashlab import blocks as block_lists

LISTED = tl.constexpr(block_lists.BLOCK)  # positions of a block in a list
OWN_ROWS = tl.constexpr(block_lists.OWN_ROWS)
OWN_KEYS = tl.constexpr(block_lists.OWN_KEYS)


@triton.jit
def owned_tile(program, starts, sequences, heads, seqlen, BLOCK: tl.constexpr, SEQUENCES: tl.constexpr):
    """(batch, head, start): the tile of one sequence that this program owns. Packed sequences that are shorter get tiles past their end.

    A packed sequence b owns the slots starts[b] // BLOCK + b and on, up to those of b + 1: always enough for its length, and no longest
    length need be known.
    """
    if starts is None:
        tiles = tl.cdiv(seqlen, BLOCK)
        return program // tiles // heads, program // tiles % heads, program % tiles * BLOCK
    else:
        slots = tl.num_programs(0) // heads
        slot = program % slots
        numbers = tl.arange(0, SEQUENCES)
        first_slots = tl.load(starts + numbers, mask=numbers < sequences, other=0) // BLOCK + numbers
        batch = tl.sum(((first_slots <= slot) & (numbers < sequences)).to(tl.int32)) - 1
        first_slot = tl.load(starts + batch) // BLOCK + batch
        return batch, program // slots, (slot - first_slot) * BLOCK


@triton.jit
def sequence(starts, batch, seqlen):
    """(first row, length) of a sequence in its tensor."""
    if starts is None:
        return 0, seqlen
    else:
        first = tl.load(starts + batch)
        return first, tl.load(starts + batch + 1) - first


@triton.jit
def lowest_key(at, features):
    """Row i sees no key before i + lowest_key; only asked where the window has a left edge."""
    return at.diagonal - features.left


@triton.jit
def highest_key(at, features):
    """Row i sees no key after i + highest_key; only asked where there is a right edge, as under a causal mask."""
    return at.diagonal + features.right


@triton.jit
def walk(
    start, length, lowest, highest,
    HAS_LOWEST: tl.constexpr, HAS_HIGHEST: tl.constexpr, HAS_MOD: tl.constexpr, TAIL_FIRST: tl.constexpr,
    OWN: tl.constexpr, OTHER: tl.constexpr,
):  # fmt: skip
    """The tiles of OTHER positions that meet OWN positions from `start` on: position x meets x + lowest … x + highest, below `length`.

    A masked stretch that is walked before the whole one has at least one tile, if of hidden pairs: where its loop may be skipped, ptxas
    waits for every single product of every loop. It is begin … full_begin, or with TAIL_FIRST full_end … end.
    """
    begin, full_begin = 0, 0
    full_end, end = (tl.maximum(0, length - 1) if TAIL_FIRST else length) // OTHER * OTHER, length
    if HAS_HIGHEST:
        end = tl.maximum(0, tl.minimum(end, start + OWN + highest))
        full_end = tl.minimum(full_end, tl.maximum(0, start + highest + 1) // OTHER * OTHER)
    if HAS_LOWEST:
        begin = tl.maximum(0, start + lowest) // OTHER * OTHER
        full_begin = tl.cdiv(tl.maximum(0, start + OWN - 1 + lowest), OTHER) * OTHER
        full_begin = tl.maximum(begin + OTHER, tl.minimum(full_begin, tl.cdiv(end, OTHER) * OTHER))
        tl.assume(full_begin > begin)
    full_end = tl.maximum(full_begin, full_end)
    if TAIL_FIRST:
        end = tl.maximum(end, full_end + 1)
        tl.assume(end > full_end)
    if HAS_MOD:  # any pair may be hidden
        full_begin, full_end = end, end
    return begin, full_begin, full_end, end


@triton.jit
def exists(stretch, HAS_LOWEST: tl.constexpr, MASK_MOD: tl.constexpr):
    """Whether the stretch 0 (begin … full_begin), 1 or 2 (full_end … end) of a walk can hold a tile at all: known to the compiler."""
    if MASK_MOD is not None:  # every tile is masked, or partial ones come first in a list
        return stretch != 2
    else:
        return stretch != 0 or HAS_LOWEST


@triton.jit
def walk_of_rows(blocks, start_m, at, features, MASK_MOD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The keys that BLOCK_M rows visit. blocks: the `list_of` these rows, or None."""
    if blocks is not None:
        return walk_of_list(blocks)
    else:
        lowest, highest = 0, 0
        if features.left is not None:
            lowest = lowest_key(at, features)
        if features.right is not None:
            highest = highest_key(at, features)
        return walk(
            start_m, at.seqlen_k, lowest, highest,
            features.left is not None, features.right is not None, MASK_MOD is not None, False, BLOCK_M, BLOCK_N,
        )  # fmt: skip


@triton.jit
def walk_of_keys(blocks, start_n, at, features, MASK_MOD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The rows that visit BLOCK_N keys: the same band, seen from the other side. blocks: the `list_of` these keys, or None."""
    if blocks is not None:
        return walk_of_list(blocks)
    else:
        lowest, highest = 0, 0
        if features.right is not None:
            lowest = -highest_key(at, features)
        if features.left is not None:
            highest = -lowest_key(at, features)
        return walk(
            start_n, at.seqlen_q, lowest, highest,
            features.right is not None, features.left is not None, MASK_MOD is not None, features.right is None, BLOCK_N, BLOCK_M,
        )  # fmt: skip


@triton.jit
def list_of(blocks, start, at, OWN: tl.constexpr):
    """The list of the blocks that rows or keys `start` … of one head visit. OWN of them share a list."""
    return blocks.pointer + at.batch * blocks.strides[0] + at.head * blocks.strides[1] + start // OWN * blocks.strides[2]


@triton.jit
def walk_of_list(blocks):
    """A walk along a list of blocks: partial blocks first, then full ones."""
    seen = tl.load(blocks + 1) * LISTED
    return 0, tl.load(blocks) * LISTED, seen, seen


@triton.jit
def position(blocks, place, MULTIPLE: tl.constexpr):
    """The first position of the tile at `place` of a walk. Places are positions, or where there is a list, positions along it."""
    if blocks is None:
        return place
    else:
        place = tl.cast(place, tl.int32)
        block = tl.load(blocks + 2 + place // LISTED)
        return tl.multiple_of(block * LISTED + place % LISTED, MULTIPLE)
