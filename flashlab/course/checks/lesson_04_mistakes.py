"""The right answers of exercise 04, and the mistakes people make in them, as variants of the right ones."""

import numpy as np

from flashlab.course.checks.task import Mistake
from flashlab.course.steps import naive
from flashlab.course.steps.online import finish, start, update
from flashlab.course.steps.tiled import tiles

# ------------------------------------------------------------------------------------------------------------ what is right


def rows_that_fit(sram_bytes, D, BLOCK_N, itemsize):
    """The most rows R with itemsize · (q and acc, k and v, the scores, m and l) ≤ sram_bytes; 0 if not even one fits."""
    return _rows_variant()(sram_bytes, D, BLOCK_N, itemsize)


# ------------------------------------------------------------------------------------------------- the mistakes people make


def _slices(begins, ends):
    return lambda length, block: [slice(n, ends(n, length, block)) for n in begins(length, block)]


def _walk_variant(
    scaled=True, kept=True, divided=True, rescaled=True, cut=tiles, whole=False, again=False, same_values=False, turned=True, dropped=False,
    own_scale=False, first_alone=False,
):  # fmt: skip
    def wrong(q, K, V, scale, BLOCK_N):
        state = start(len(q), V.shape[1])
        everything = (K[:], V[:]) if whole else None
        for cols in cut(K.shape[0], BLOCK_N):
            k, v = (x[cols] for x in everything) if whole else (K[cols], V[slice(0, cols.stop - cols.start) if same_values else cols])
            if again:
                k = K[cols]
            scores = (q.shape[1] ** -0.5 if own_scale else scale if scaled else 1.0) * q @ (k.T if turned else k)
            if dropped:
                update(*state, scores, v)
            elif rescaled:
                state = update(*(state if kept else start(len(q), V.shape[1])), scores, v)
                if first_alone:
                    break
            else:
                p = np.exp(scores - scores.max(axis=1)[:, None])
                state = np.maximum(state[0], scores.max(axis=1)), state[1] + p.sum(axis=1), state[2] + p @ v
        return finish(*state)[0] if divided else state[2]

    return wrong


def _softmax_of_each_tile(q, K, V, scale, BLOCK_N):
    """Each tile's own softmax, summed."""
    return sum(naive.softmax(scale * q @ K[cols].T) @ V[cols] for cols in tiles(K.shape[0], BLOCK_N))


def _all_scores_first(q, K, V, scale, BLOCK_N):
    """A row of scores, put together from tiles."""
    columns = tiles(K.shape[0], BLOCK_N)
    p = naive.softmax(np.concatenate([scale * q @ K[cols].T for cols in columns], axis=1))
    return sum(p[:, cols] @ V[cols] for cols in columns)


def _forward_variant(
    keys_outside=False, q_again=False, whole_keys=False, rows=tiles, through_hbm=False, columns=tiles,
    scale_of=lambda D, BLOCK_M: D**-0.5, kept_keys=False, whole_q=False, kept_rows=False, one_state=False, key_block=lambda M, N: N,
    row_block=lambda M, N: M,
):  # fmt: skip
    def wrong(Q, K, V, Out, BLOCK_M, BLOCK_N):
        scale = scale_of(Q.shape[1], BLOCK_M)
        BLOCK_M, BLOCK_N = row_block(BLOCK_M, BLOCK_N), key_block(BLOCK_M, BLOCK_N)
        all_q, parts, state = Q[:] if whole_q else None, [], start(BLOCK_M, V.shape[1])
        if kept_keys:
            K, V = K[:], V[:]
        if keys_outside:
            return _keys_outside(Q, K, V, Out, BLOCK_M, BLOCK_N)
        for at in rows(Q.shape[0], BLOCK_M):
            q = all_q[at] if whole_q else Q[at]
            state = tuple(x[: len(q)] for x in state) if one_state else start(len(q), V.shape[1])
            everything = (K[:], V[:]) if whole_keys else None
            for cols in columns(K.shape[0], BLOCK_N):
                if q_again:
                    q = Q[at]
                k, v = (x[cols] for x in everything) if whole_keys else (K[cols], V[cols])
                state = update(*state, scale * q @ k.T, v)
                if through_hbm:
                    Out[at] = finish(*state)[0]
            if kept_rows:
                parts.append(finish(*state)[0])
            else:
                Out[at] = finish(*state)[0]
        if kept_rows:
            Out[:] = np.concatenate(parts)

    return wrong


def _keys_outside(Q, K, V, Out, BLOCK_M, BLOCK_N):
    """The loops the other way round: every tile of K visits every tile of Q, whose state lies in a list."""
    states = [start(at.stop - at.start, V.shape[1]) for at in tiles(Q.shape[0], BLOCK_M)]
    for cols in tiles(K.shape[0], BLOCK_N):
        k, v = K[cols], V[cols]
        for n, at in enumerate(tiles(Q.shape[0], BLOCK_M)):
            states[n] = update(*states[n], Q.shape[1] ** -0.5 * Q[at] @ k.T, v)
    for n, at in enumerate(tiles(Q.shape[0], BLOCK_M)):
        Out[at] = finish(*states[n])[0]


def _whole_row(Q, K, V, Out, BLOCK_M, BLOCK_N):
    for at in tiles(Q.shape[0], BLOCK_M):
        Out[at] = _all_scores_first(Q[at], K, V, Q.shape[1] ** -0.5, BLOCK_N)


def _rows_variant(rows=2, keys=2, keys_a_row=0, scores=True, sums=2, sized=True, up=0):
    def count(sram_bytes, D, BLOCK_N, itemsize):
        room = sram_bytes // (itemsize if sized else 1) - keys * BLOCK_N * D
        return max(0, room // (rows * D + keys_a_row * BLOCK_N * D + (BLOCK_N if scores else 0) + sums) + up)

    return count


def _floor(length, block):
    return [slice(n * block, (n + 1) * block) for n in range(length // block)]


TILES_MISTAKES = (
    Mistake("the rest is lost", "only whole tiles are there: the last one may be shorter.", 1, _floor),
    Mistake(
        "past the end",
        "the last slice ends past the length: min(begin + block, length).",
        2,
        _slices(lambda length, block: range(0, length, block), lambda n, length, block: n + block),
    ),
    Mistake(
        "an empty last tile",
        "there is an empty slice where the length is a multiple of the tile: range ends *before* length.",
        1,
        _slices(lambda length, block: range(0, length + 1, block), lambda n, length, block: min(n + block, length)),
    ),
    Mistake(
        "one apart",
        "a slice ends one too early: its stop is not part of it, so it is the next one's start.",
        2,
        _slices(lambda length, block: range(0, length, block), lambda n, length, block: min(n + block, length) - 1),
    ),
    Mistake(
        "a step of one",
        "a slice begins at every position: step by block.",
        1,
        _slices(lambda length, block: range(length), lambda n, length, block: min(n + block, length)),
    ),
)
WALK_MISTAKES = (
    Mistake("no scale", "the scores are not scaled.", 1, _walk_variant(scaled=False)),
    Mistake("own scale", "the scale is given: use it as it is, not D ** -0.5.", 1, _walk_variant(own_scale=True)),
    Mistake("the first tile alone", "only the first tile of keys is visited: return after the loop.", 1, _walk_variant(first_alone=True)),
    Mistake("the state starts anew", "each tile starts with an empty state, so only the last one counts.", 1, _walk_variant(kept=False)),
    Mistake("not divided", "acc is not divided by l at the end.", 1, _walk_variant(divided=False)),
    Mistake(
        "no rescale",
        "each tile is measured against its own maximum: what was summed before needs exp(m − m_new).",
        1,
        _walk_variant(rescaled=False),
    ),
    Mistake("the rest is lost", "the keys of the last, shorter tile are not visited.", 1, _walk_variant(cut=_floor)),
    Mistake(
        "always the first values",
        "every tile of K meets the first tile of V: both take the same slice.",
        1,
        _walk_variant(same_values=True),
    ),
    Mistake(
        "the whole of K at once",
        "all of K and V lies in SRAM at once: let a tile go before you read the next.",
        2,
        _walk_variant(whole=True),
    ),
    Mistake("not transposed", "k is (keys, D): the scores are q @ k.T.", 1, _walk_variant(turned=False)),
    Mistake("the new state is dropped", "update returns the new state: state = update(*state, scores, v).", 1, _walk_variant(dropped=True)),
    Mistake(
        "a softmax of each tile",
        "each tile has a softmax of its own, so each counts as if it were all: one (m, l, acc) lives through the walk.",
        1,
        _softmax_of_each_tile,
    ),
    Mistake(
        "all scores first",
        "the scores of all tiles are collected, and lie in SRAM at once: fold each tile into (m, l, acc) and let it go.",
        2,
        _all_scores_first,
    ),
    Mistake("loaded twice", "a tile of K is read from HBM twice: give what you read a name.", 2, _walk_variant(again=True)),
)
FORWARD_MISTAKES = (
    Mistake(
        "keys outside",
        "the loop over keys is outside, so Q is read again for every tile of keys: rows outside, keys inside.",
        2,
        _forward_variant(keys_outside=True),
    ),
    Mistake(
        "Q again and again",
        "the tile of Q is read again for every tile of keys: read it once, before the walk.",
        2,
        _forward_variant(q_again=True),
    ),
    Mistake("the whole of K at once", "K and V were loaded whole: they do not fit an SRAM.", 1, _forward_variant(whole_keys=True)),
    Mistake(
        "a whole row of scores", "all scores of a row lie in SRAM at once: fold each tile into (m, l, acc) and let it go.", 1, _whole_row
    ),
    Mistake(
        "K and V once for all",
        "K and V were read once, before the loop, and kept: they do not fit an SRAM. Each tile of rows reads them anew.",
        1,
        _forward_variant(kept_keys=True),
    ),
    Mistake("no scale", "the scores are not scaled: by D ** -0.5.", 1, _forward_variant(scale_of=lambda D, BLOCK_M: 1.0)),
    Mistake("scale 1/D", "the scale is the root of that: D ** -0.5.", 1, _forward_variant(scale_of=lambda D, BLOCK_M: 1 / D)),
    Mistake("scale √D", "the scores are to be divided by the root of D.", 1, _forward_variant(scale_of=lambda D, BLOCK_M: D**0.5)),
    Mistake(
        "scale of BLOCK_M",
        "the scale comes from the head dim, Q.shape[1], not from the rows of a tile.",
        1,
        _forward_variant(scale_of=lambda D, BLOCK_M: BLOCK_M**-0.5),
    ),
    *(
        Mistake(
            "all rows at once",
            "all of Q, or all rows of Out, lie in SRAM at once: read Q[rows] in the loop, and write Out[rows] when their walk is over.",
            2,
            wrong,
        )
        for wrong in (_forward_variant(whole_q=True), _forward_variant(kept_rows=True))
    ),
    Mistake(
        "one state for all",
        "each tile of rows needs a fresh state: start inside of the loop over rows.",
        1,
        _forward_variant(one_state=True),
    ),
    Mistake("keys by BLOCK_M", "keys come in tiles of BLOCK_N, not of BLOCK_M.", 1, _forward_variant(key_block=lambda M, N: M)),
    Mistake(
        "tiles swapped",
        "rows are cut by BLOCK_M and keys by BLOCK_N: swapped.",
        1,
        _forward_variant(key_block=lambda M, N: M, row_block=lambda M, N: N),
    ),
    Mistake("the last rows are lost", "the rows of the last, shorter tile are never written.", 1, _forward_variant(rows=_floor)),
    Mistake("the last keys are lost", "the keys of the last, shorter tile are not visited.", 1, _forward_variant(columns=_floor)),
    Mistake(
        "Out in every step",
        "Out is written after every tile of keys: write once, when the walk is over.",
        2,
        _forward_variant(through_hbm=True),
    ),
)
ROWS_MISTAKES = (
    Mistake("no acc", "acc lies in SRAM beside q, as large as it.", 1, _rows_variant(rows=1)),
    Mistake("no V", "a tile of V lies beside the tile of K.", 1, _rows_variant(keys=1)),
    Mistake("no K and V", "the tiles of K and V are missing: 2 · BLOCK_N · D numbers.", 1, _rows_variant(keys=0)),
    Mistake("no scores", "the scores of the tile are missing: R × BLOCK_N numbers.", 1, _rows_variant(scores=False)),
    Mistake("no m and l", "m and l are missing: a number each for every row.", 1, _rows_variant(sums=0)),
    Mistake("m and l once", "m and l are two numbers for every row, not one.", 1, _rows_variant(sums=1)),
    Mistake(
        "K and V for each row", "the tiles of K and V are there once, however many rows there are.", 1, _rows_variant(keys=0, keys_a_row=2)
    ),
    Mistake("numbers, not bytes", "the SRAM is counted in bytes: a number takes itemsize of them.", 2, _rows_variant(sized=False)),
    Mistake("rounded up", "the last row does not fit: round down.", 2, _rows_variant(up=1)),
)
