"""What is right in exercise 10, and the mistakes people make in it."""

from flashlab.course.checks.task import Mistake

# ------------------------------------------------------------------------------------------------------------ what is right


def shared_bytes(BLOCK_M, BLOCK_N, D, num_stages, itemsize):
    """A tile of Q, and num_stages buffers of a tile of K and one of V."""
    return itemsize * (BLOCK_M * D + num_stages * 2 * BLOCK_N * D)


def choose_tiles(candidates, sram_bytes, D, num_stages):
    """Of those that fit, the one with the most rows of Q, and of several such the one that takes the least; None if none fits."""
    fitting = [tile for tile in candidates if shared_bytes(*tile, D, num_stages, 2) <= sram_bytes]
    return min(fitting, key=lambda tile: (-tile[0], shared_bytes(*tile, D, num_stages, 2)), default=None)


def causal_tiles(seqlen, BLOCK_M, BLOCK_N):
    """(tiles that hold a visible pair, those of them that hold a hidden one too)."""
    visited = partial = 0
    for first in range(0, seqlen, BLOCK_M):
        last = min(first + BLOCK_M, seqlen) - 1
        seen, full = -(-(last + 1) // BLOCK_N), (first + 1) // BLOCK_N
        visited, partial = visited + seen, partial + seen - full
    return visited, partial


def bytes_moved(seqlen, D, BLOCK_M, BLOCK_N, is_causal):
    """Q and Out once in 16 bits, lse once in 32, and K and V as often as tiles of them are visited."""
    return _bytes_variant()(seqlen, D, BLOCK_M, BLOCK_N, is_causal)


# ---------------------------------------------------------------------------------------------------- the mistakes people make


def _shared_variant(queries=1, matrices=2, staged_queries=False, stages=True, itemsize=None):
    def wrong(BLOCK_M, BLOCK_N, D, num_stages, itemsize_given):
        buffers = num_stages if stages else 1
        size = itemsize_given if itemsize is None else itemsize
        return size * (queries * BLOCK_M * D * (num_stages if staged_queries else 1) + buffers * matrices * BLOCK_N * D)

    return wrong


def _choose_variant(fits=lambda size, budget: size <= budget, key=None, first=False):
    def wrong(candidates, sram_bytes, D, num_stages):
        size = lambda tile: shared_bytes(*tile, D, num_stages, 2)  # noqa: E731
        fitting = [tile for tile in candidates if fits(size(tile), sram_bytes)]
        if first:
            return fitting[0] if fitting else None
        return min(fitting, key=lambda tile: key(tile, size(tile)) if key else (-tile[0], size(tile)), default=None)

    return wrong


def _stops_early(candidates, *rest):
    too_large = [n for n, tile in enumerate(candidates) if shared_bytes(*tile, *rest[1:], 2) > rest[0]]
    return choose_tiles(candidates[: min(too_large, default=None)], *rest)


def _tiles_variant(seen=lambda last, N: -(-(last + 1) // N), full=lambda first, N: (first + 1) // N, clipped=True):
    def wrong(seqlen, BLOCK_M, BLOCK_N):
        visited = partial = 0
        for first in range(0, seqlen, BLOCK_M):
            last = (min(first + BLOCK_M, seqlen) if clipped else first + BLOCK_M) - 1
            count = seen(last, BLOCK_N)
            visited, partial = visited + count, partial + count - full(first, BLOCK_N)
        return visited, partial

    return wrong


def _all_tiles(seqlen, BLOCK_M, BLOCK_N):
    rows, cols = -(-seqlen // BLOCK_M), -(-seqlen // BLOCK_N)
    return rows * cols, rows * cols - (causal_tiles(seqlen, BLOCK_M, BLOCK_N)[0] - causal_tiles(seqlen, BLOCK_M, BLOCK_N)[1])


def _full_for_the_last_row(seqlen, BLOCK_M, BLOCK_N):
    ends = [min(first + BLOCK_M, seqlen) for first in range(0, seqlen, BLOCK_M)]
    return causal_tiles(seqlen, BLOCK_M, BLOCK_N)[0], sum(end % BLOCK_N > 0 for end in ends)


def _seen_by_the_first_row(seqlen, BLOCK_M, BLOCK_N):
    firsts = range(0, seqlen, BLOCK_M)
    visited = sum(first // BLOCK_N + 1 for first in firsts)
    return visited, visited - sum((first + 1) // BLOCK_N for first in firsts)


def _no_key_past_the_end(seqlen, BLOCK_M, BLOCK_N):
    visited, partial = causal_tiles(seqlen, BLOCK_M, BLOCK_N)
    return visited, partial - (seqlen % BLOCK_M == 1 and seqlen % BLOCK_N > 0)


def _one_partial_each(seqlen, BLOCK_M, BLOCK_N):
    return causal_tiles(seqlen, BLOCK_M, BLOCK_N)[0], -(-seqlen // BLOCK_M)


def _bytes_to(end_of):
    """The bytes where a causal walk goes to the key that `end_of(first, last, seqlen, BLOCK_N)` says."""

    def wrong(seqlen, D, BLOCK_M, BLOCK_N, is_causal):
        firsts = range(0, seqlen, BLOCK_M)
        keys = sum(end_of(first, min(first + BLOCK_M, seqlen) - 1, seqlen, BLOCK_N) if is_causal else seqlen for first in firsts)
        return 2 * (2 * seqlen * D + 2 * keys * D) + 4 * seqlen

    return wrong


def _bytes_variant(reread=True, skips=True, matrices=2, lse=4, whole_tiles=False, rounded=True, rows=2):
    def count(seqlen, D, BLOCK_M, BLOCK_N, is_causal):
        keys = 0
        for first in range(0, seqlen, BLOCK_M):
            end = min(first + BLOCK_M, seqlen) if is_causal and skips else seqlen
            end = -(-end // BLOCK_N) * BLOCK_N if rounded else end
            keys += end if whole_tiles else min(end, seqlen)
        if not reread:
            keys = seqlen
        return 2 * (rows * seqlen * D + matrices * keys * D) + lse * seqlen

    return count


SHARED_MISTAKES = (
    Mistake("no V", "K alone is counted: each buffer holds a tile of K and a tile of V.", 1, _shared_variant(matrices=1)),
    Mistake("no Q", "the tile of Q is missing: it stays in shared memory for the whole walk.", 1, _shared_variant(queries=0)),
    Mistake(
        "Q in every buffer",
        "Q is counted once for each buffer: it is loaded once, before the walk.",
        2,
        _shared_variant(staged_queries=True),
    ),
    Mistake("one buffer", "num_stages is not used: each stage has buffers of its own.", 2, _shared_variant(stages=False)),
    Mistake(
        "always float16",
        "itemsize is not used: float16 takes 2 bytes, float32 takes 4.",
        1,
        lambda M, N, D, stages, itemsize: shared_bytes(M, N, D, stages, 2),
    ),
    Mistake(
        "rows and keys swapped",
        "BLOCK_M are the rows of Q, which has one place. BLOCK_N are the rows of K and of V, which have the buffers.",
        2,
        lambda M, N, *rest: shared_bytes(N, M, *rest),
    ),
    Mistake("acc too", "acc is counted: it lies in registers. Here only tiles of Q, K and V are asked for.", 1, _shared_variant(queries=2)),
    Mistake(
        "scores too",
        "the scores are counted: they lie in registers. Here only tiles of Q, K and V are asked for.",
        1,
        lambda M, N, D, stages, itemsize: shared_bytes(M, N, D, stages, itemsize) + M * N * itemsize,
    ),
    Mistake("numbers, not bytes", "numbers are counted, not bytes: a float16 takes 2.", 1, _shared_variant(itemsize=1)),
)
CHOOSE_MISTAKES = (
    Mistake("one that does not fit", "the budget is not asked, and what does not fit cannot run.", 1, _choose_variant(lambda *_: True)),
    Mistake("must be smaller", "what fits to the byte fits: compare with <=.", 1, _choose_variant(lambda size, budget: size < budget)),
    Mistake(
        "KiB of 1000 bytes",
        "the budget is in bytes, and a KiB has 1024: it was made smaller on the way.",
        1,
        _choose_variant(lambda size, budget: size <= budget * 1000 // 1024),
    ),
    Mistake(
        "the most keys",
        "the widest tile was chosen: K and V are read once for every tile of *queries*, so rows decide.",
        2,
        _choose_variant(key=lambda tile, size: (-tile[1], size)),
    ),
    Mistake(
        "the largest",
        "of several with as many rows, the one with the most keys was chosen: more keys in a tile take room and save no byte.",
        2,
        _choose_variant(key=lambda tile, size: (-tile[0], -size)),
    ),
    Mistake(
        "the most pairs",
        "BLOCK_M × BLOCK_N was made large: only the rows save bytes.",
        2,
        _choose_variant(key=lambda tile, size: -tile[0] * tile[1]),
    ),
    Mistake(
        "no second question",
        "of several with as many rows the first was taken: take the one that needs the least memory.",
        2,
        _choose_variant(key=lambda tile, size: -tile[0]),
    ),
    Mistake(
        "the last of several",
        "of several with as many rows the last was taken: take the one that needs the least memory.",
        2,
        lambda candidates, *rest: _choose_variant(key=lambda tile, size: -tile[0])(candidates[::-1], *rest),
    ),
    Mistake(
        "one buffer",
        "one buffer was counted for K and V: there are num_stages of them.",
        1,
        lambda candidates, sram_bytes, D, num_stages: choose_tiles(
            [tile for tile in candidates if shared_bytes(*tile, D, 1, 2) <= sram_bytes], 10**9, D, 1
        ),
    ),
    Mistake(
        "no Q",
        "the tile of Q was not counted: it needs room too.",
        1,
        lambda candidates, sram_bytes, D, num_stages: choose_tiles(
            [tile for tile in candidates if shared_bytes(0, tile[1], D, num_stages, 2) <= sram_bytes], 10**9, D, 1
        ),
    ),
    Mistake("stops too early", "it stops at the first candidate that does not fit: those behind it may.", 2, _stops_early),
    Mistake(
        "the least memory",
        "the smallest tile was chosen: first compare rows, and memory only where rows are equal.",
        2,
        _choose_variant(key=lambda tile, size: size),
    ),
    Mistake(
        "the most bytes",
        "the tile that fills the memory best was chosen: only the rows save bytes.",
        2,
        _choose_variant(key=lambda tile, size: -size),
    ),
    Mistake(
        "in float32", "4 bytes were counted for a number: float16 takes 2.", 1, _choose_variant(lambda size, budget: 2 * size <= budget)
    ),
    Mistake(
        "never None",
        "nothing fits, and a candidate came back all the same: return None.",
        1,
        lambda candidates, *rest: choose_tiles(candidates, *rest) or candidates[0],
    ),
    Mistake("the first that fits", "the first candidate that fits was taken: look at all of them.", 2, _choose_variant(first=True)),
)
TILE_MISTAKES = (
    Mistake("the other order", "(visited, partial) was asked for, in this order.", 1, lambda *call: causal_tiles(*call)[::-1]),
    Mistake("blind to itself", "row `first` sees first + 1 keys, itself included.", 2, _tiles_variant(full=lambda first, N: first // N)),
    Mistake("nothing is skipped", "all tiles are counted: those right of the diagonal are never visited.", 1, _all_tiles),
    Mistake("one partial tile a row", "each row of tiles was given one partial tile: true for square tiles alone.", 2, _one_partial_each),
    Mistake(
        "no last tile", "rounded down: a tile that is seen in part is visited too.", 1, _tiles_variant(seen=lambda last, N: (last + 1) // N)
    ),
    Mistake(
        "rows that do not exist", "the last tile of rows ends with the sequence: rows past it are none.", 1, _tiles_variant(clipped=False)
    ),
    Mistake(
        "judged by the last row",
        "a tile is full when its *first* row sees all of it: that row sees the fewest keys.",
        2,
        _tiles_variant(full=lambda first, N: 0 if first == 0 else -(-(first + 1) // N)),
    ),
    Mistake(
        "full for the last row",
        "a tile is full when its *first* row sees all of it too, and not only its last: that row sees the fewest keys.",
        2,
        _full_for_the_last_row,
    ),
    Mistake(
        "visited by the first row",
        "visited tiles were counted by the first row: the last row sees the most keys.",
        1,
        _seen_by_the_first_row,
    ),
    Mistake(
        "squares alone",
        "this is the lesson's formula for square tiles: here rows and keys have tiles of their own.",
        1,
        lambda S, M, N: (-(-S // M) * (-(-S // M) + 1) // 2, -(-S // M)),
    ),
    Mistake(
        "the lesson's count",
        "this is the lesson's count for square tiles: the *last* row says how far to go, and a tall tile has several partial ones.",
        1,
        lambda S, M, N: (sum(first // N + 1 for first in range(0, S, M)), -(-S // M)),
    ),
    Mistake(
        "no key past the end",
        "the tile with the end of the keys in it needs the mask as well: keys past the end are hidden.",
        2,
        _no_key_past_the_end,
    ),
    Mistake("a key too few", "rows count from 0: row `last` sees last + 1 keys.", 1, _tiles_variant(seen=lambda last, N: -(-last // N))),
    Mistake(
        "rows and keys swapped",
        "BLOCK_M and BLOCK_N are swapped: BLOCK_M are rows, BLOCK_N are keys.",
        1,
        lambda S, M, N: causal_tiles(S, N, M),
    ),
)
BYTE_MISTAKES = (
    Mistake("K and V once", "K and V are counted once: every tile of rows reads them again.", 1, _bytes_variant(reread=False)),
    Mistake("nothing is skipped", "a causal walk ends at the diagonal: tiles behind it are not loaded.", 2, _bytes_variant(skips=False)),
    Mistake("no V", "K alone is counted: each visit loads a tile of V too.", 1, _bytes_variant(matrices=1)),
    Mistake("no Out", "Out is missing: it is written once, as Q is read once.", 1, _bytes_variant(rows=1)),
    Mistake(
        "half a tile",
        "the walk ends inside of a tile: tiles of K are loaded whole, as far as there are keys.",
        2,
        _bytes_variant(rounded=False),
    ),
    Mistake(
        "a key too few",
        "rows count from 0: the walk of a tile whose last row is `last` goes to key last + 1, and then to the end of that tile.",
        2,
        _bytes_to(lambda first, last, seqlen, N: min(-(-last // N) * N, seqlen)),
    ),
    Mistake(
        "to the first row",
        "the walk was ended by the first row of a tile: its last row sees the most keys.",
        2,
        _bytes_to(lambda first, last, seqlen, N: min(-(-(first + 1) // N) * N, seqlen)),
    ),
    Mistake(
        "before the diagonal",
        "the walk ends before the diagonal: the tiles on it are loaded too.",
        2,
        _bytes_to(lambda first, last, seqlen, N: -(-first // N) * N),
    ),
    Mistake(
        "half",
        "half of all pairs is not half of the tiles: add up what each tile of rows walks, the diagonal included.",
        2,
        _bytes_to(lambda first, last, seqlen, N: seqlen / 2),
    ),
    Mistake(
        "all in float32",
        "4 bytes were counted for every number: Q, K, V and Out are float16, only lse is float32.",
        1,
        lambda seqlen, *rest: 2 * bytes_moved(seqlen, *rest) - 4 * seqlen,
    ),
    Mistake("no lse", "lse is missing: a float32 for each row.", 1, _bytes_variant(lse=0)),
    Mistake("lse in 16 bits", "lse was counted in 16 bits: it is float32, since it is a sum of many terms.", 1, _bytes_variant(lse=2)),
    Mistake(
        "whole tiles at the end",
        "the last tile was counted whole: a masked load does not read past the end of K.",
        2,
        _bytes_variant(whole_tiles=True),
    ),
)
