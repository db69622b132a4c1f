"""Exercise 12, inference: keys split over programs, their parts joined, keys gathered from pages, and the bytes of a cache."""

import numpy as np
import triton

from flashlab.course.checks import compare
from flashlab.course.checks.guarded import Launched, compare_launched, launch, meaning
from flashlab.course.checks.lesson_12_mistakes import COMBINE_MISTAKES, GATHER_MISTAKES, SPLIT_MISTAKES
from flashlab.course.checks.task import Case, Mistake, Task
from flashlab.course.steps import naive

EPSILON = 2.0**-23  # of float32
SCALE = 0.7  # times 1 / sqrt(D): a kernel takes the scale that it is given
BLOCK_M = 16

# ---------------------------------------------------------------------------------------------------------------------- cases


def _floats(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def split_cases(rng):
    sizes = ((16, 32, 1, 64, 32), (16, 64, 2, 16, 16), (4, 64, 4, 16, 16), (16, 20, 1, 16, 16), (16, 56, 2, 16, 16), (16, 50, 3, 16, 16))
    sizes += ((16, 32, 2, 12, 16), (4, 101, 5, 40, 16))
    cases = [_split_case(_told(*size), *_problem(rng, *size[:2], size[3]), size[2], size[4]) for size in sizes]
    Q, K, V = _problem(rng, 16, 64, 16)
    few = _problem(rng, 16, 20, 16)
    rising = np.abs(K) * np.arange(1, 65, dtype=np.float32)[:, None] / 8
    apart = np.where(np.arange(16)[:, None] % 2, 1, -1).astype(np.float32) * (3 + np.abs(Q))
    falling = np.linspace(30, -30, 64, dtype=np.float32)[:, None] * np.abs(K)
    return [
        *cases,
        _split_case("5 keys in 4 splits, of which the last has none", *_problem(rng, 16, 5, 16), 4, 16),
        _split_case("20 keys in 4 splits of 16, of which the last two have none", *few, 4, 16, share=16),
        _split_case("scores that grow from tile to tile", np.abs(Q), rising, V, 2, 16),
        _split_case("scores that fall from tile to tile", np.abs(Q), falling, V, 1, 16),
        _split_case("scores that lie far below 0", -3 - np.abs(Q), 10 + np.abs(K), V, 2, 16),
        _split_case("scores that lie far below 0, splits that end within a tile", -3 - np.abs(Q), 10 + np.abs(K), V, 3, 16),
        _split_case("scores near -20000, splits that end within a tile", -80 - np.abs(Q), np.full_like(K, 90.0), V, 3, 16),
        _split_case("scores that lie far above 0", 3 + np.abs(Q), 10 + np.abs(K), V, 2, 16),
        _split_case("rows of scores far above 0 and far below 0, in turn", apart, 10 + np.abs(K), V, 2, 16),
    ]


def _split_case(text, Q, K, V, splits, BLOCK_N, share=None):
    return Case(text, (Q, K, V, splits, -(-len(K) // splits) if share is None else share, BLOCK_N))


def _told(rows, keys, splits, D, BLOCK_N):
    return f"{rows} rows, {keys} keys in {splits} {'splits' if splits > 1 else 'split'}, head dim {D}, tiles of {BLOCK_N} keys"


def _problem(rng, rows, keys, D):
    return _floats(rng, rows, D), _floats(rng, keys, D), _floats(rng, keys, D)


def combine_cases(rng):
    def case(text, splits, rows, D, around=0.0, spread=1.0, empty=()):
        parts, lse = _floats(rng, splits, rows, D), (around + spread * _floats(rng, splits, rows)).astype(np.float32)
        for split, row in empty:
            parts[split, row], lse[split, row] = 0.0, -np.inf
        return Case(text, (parts, lse))

    zero, apart = case("a split whose lse is exactly 0", 2, 2, 16), case("lse 0 and 200 side by side", 2, 2, 16)
    zero.arguments[1][0] = 0.0
    apart.arguments[1][:] = np.array([[0.0, 200.0], [200.0, 0.0]], np.float32)
    return [
        case("1 row, 2 splits", 2, 1, 16),
        case("1 row in a single split", 1, 1, 16),
        case("4 rows, 2 splits", 2, 4, 16),
        case("4 rows, 8 splits, of very different weight", 8, 4, 16, spread=4.0),
        case("3 splits, where a tile has room for 4", 3, 2, 16),
        case("head dim 12, where a tile has room for 16", 2, 3, 12),
        case("lse around 200", 4, 2, 16, around=200.0),
        case("lse around 200, 3 splits", 3, 2, 16, around=200.0),
        case("lse around -200, 3 splits", 3, 2, 16, around=-200.0),
        case("lse around -20000, 3 splits", 3, 2, 16, around=-20000.0),
        case("a split that has seen no key", 4, 2, 16, empty=((1, 0), (1, 1))),
        case("of the first row only the last split has seen a key", 3, 2, 16, around=-5.0, empty=((0, 0), (1, 0))),
        case("5 splits, 7 rows, head dim 40", 5, 7, 40),
        zero,
        apart,
    ]


def gather_cases(rng):
    def case(keys, page, D, BLOCK_N, spare=2, text=""):
        count = -(-keys // page)
        pool = _floats(rng, (count + spare) * page, D)
        table = rng.permutation(count + spare)[:count].astype(np.int32)
        if (table == np.arange(count)).all():  # in its order nobody would need a table
            table = np.roll(np.arange(count + spare), 1)[:count].astype(np.int32)
        return Case(text or f"{keys} keys in pages of {page}, head dim {D}, tiles of {BLOCK_N}", (pool, table, keys, page, BLOCK_N))

    return [
        case(16, 16, 16, 16),
        case(32, 16, 16, 16),
        case(64, 16, 16, 32),
        case(64, 32, 16, 16),
        case(40, 16, 16, 16),
        case(17, 16, 16, 16, text="17 keys, one of them alone on its page"),
        case(48, 16, 12, 16),
        case(30, 10, 16, 16, text="pages of 10 keys, tiles of 16"),
        case(101, 4, 24, 32),
    ]


def byte_cases(rng):
    lengths = tuple(int(n) for n in rng.integers(1, 3000, 5))
    return [
        Case("one layer, one head, one full page", (1, 1, 64, (16,), 16, 2)),
        Case("one token on a page of 16", (1, 1, 64, (1,), 16, 2)),
        Case("17 tokens", (1, 1, 64, (17,), 16, 2)),
        Case("two sequences", (1, 1, 64, (20, 20), 16, 2)),
        Case("8 heads of keys", (1, 8, 128, (100,), 16, 2)),
        Case("32 layers", (32, 8, 128, (1000,), 16, 2)),
        Case("8 bits", (32, 8, 128, (1000,), 16, 1)),
        Case("a short sequence and a long one", (1, 1, 64, (5, 50), 16, 2)),
        Case("a sequence of no tokens", (2, 2, 64, (0, 5), 16, 2)),
        Case("lengths drawn at random, pages of 256", (80, 8, 128, lengths, 256, 2)),
    ]


# ---------------------------------------------------------------------------------------------------------------------- calls


def _dims(D):
    return dict(D=D, BLOCK_D=max(16, triton.next_power_of_2(D)))


def call_split(kernel, Q, K, V, splits, share, BLOCK_N):
    (rows, D), keys = Q.shape, len(K)
    shapes = [(splits, rows, D), (splits, rows)]
    return launch(kernel, (splits,), (Q, K, V), shapes, rows, keys, share, SCALE * D**-0.5, **_dims(D), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N)


def call_combine(kernel, parts, lse):
    splits, rows, D = parts.shape
    return launch(kernel, (rows,), (parts, lse), [(rows, D)], rows, splits, **_dims(D), BLOCK_S=triton.next_power_of_2(splits))


def call_gather(kernel, pool, table, keys, page, BLOCK_N):
    D = pool.shape[1]
    return launch(kernel, (-(-keys // BLOCK_N),), (pool, table), [(keys, D)], keys, PAGE=page, **_dims(D), BLOCK_N=BLOCK_N)


# ----------------------------------------------------------------------------------------------------------------- comparison


def compare_split(answer: Launched, case):
    Q, K, V, splits, share, _ = case.arguments
    rows, D = Q.shape
    parts, lse = np.zeros((splits, rows, D)), np.full((splits, rows), -np.inf)
    for split in range(splits):
        k, v = (x[split * share : (split + 1) * share].astype(np.float64) for x in (K, V))
        if len(k):
            parts[split], lse[split] = naive.forward(Q.astype(np.float64), k, v, scale=SCALE * D**-0.5)
    largest = np.abs(lse[np.isfinite(lse)]).max()
    axes = {"Parts": ("split", "row", "column"), "Lse": ("split", "row")}
    tolerance = EPSILON * max(16 * D, 32 * largest)
    return compare_launched(answer, ("Parts", "Lse"), (parts, lse), tolerance, (splits * Q.size, K.size, V.size), axes)


def compare_combine(answer: Launched, case):
    parts, lse = (x.astype(np.float64) for x in case.arguments)
    weights = np.exp(lse - lse.max(0))
    want = (parts * weights[:, :, None]).sum(0) / weights.sum(0)[:, None]
    return compare_launched(answer, ("Out",), (want,), 64 * EPSILON, (parts.size, lse.size))


def compare_gather(answer: Launched, case):
    pool, table, keys, page, BLOCK_N = case.arguments
    j = np.arange(keys)
    want = pool[table[j // page] * page + j % page].astype(np.float64)
    return compare_launched(answer, ("Out",), (want,), EPSILON, (want.size, -(-keys // BLOCK_N) * BLOCK_N))


def cache_bytes(layers, heads_kv, head_dim, lengths, page, itemsize):
    """Keys and values of every layer and head, in whole pages."""
    return _bytes_variant()(layers, heads_kv, head_dim, lengths, page, itemsize)


def compare_bytes(answer, case):
    return compare.number(answer, cache_bytes(*case.arguments), " bytes")


def _longest_for_all(layers, heads_kv, head_dim, lengths, page, itemsize):
    return cache_bytes(layers, heads_kv, head_dim, [max(lengths)] * len(lengths), page, itemsize)


def _first_alone(layers, heads_kv, head_dim, lengths, page, itemsize):
    return cache_bytes(layers, heads_kv, head_dim, lengths[:1], page, itemsize)


def _bytes_variant(matrices=2, pages=lambda length, page: -(-length // page) * page, together=False, layers=True, heads=True, size=None):
    def count(layers_given, heads_kv, head_dim, lengths, page, itemsize):
        tokens = pages(sum(lengths), page) if together else sum(pages(length, page) for length in lengths)
        of_token = matrices * (layers_given if layers else 1) * (heads_kv if heads else 1) * head_dim
        return of_token * (itemsize if size is None else size) * tokens

    return count


BYTE_MISTAKES = (
    Mistake("no itemsize", "numbers are counted, not bytes: multiply by itemsize.", 1, _bytes_variant(size=1)),
    Mistake(
        "no head_dim",
        "a key is a row of head_dim numbers: multiply by it.",
        1,
        lambda layers, heads_kv, _, *rest: cache_bytes(layers, heads_kv, 1, *rest),
    ),
    Mistake("no V", "K alone is counted: each token leaves a key and a value.", 1, _bytes_variant(matrices=1)),
    Mistake(
        "no pages",
        "the last page of a sequence is its own, also where it is not full: round each length up to whole pages.",
        2,
        _bytes_variant(pages=lambda length, page: length),
    ),
    Mistake(
        "rounded down",
        "a page that is not full takes its room too: round up.",
        2,
        _bytes_variant(pages=lambda length, page: length // page * page),
    ),
    Mistake(
        "one page more",
        "a length that fills its last page needs no other: round up with −(−length // page).",
        2,
        _bytes_variant(pages=lambda length, page: (length // page + 1) * page),
    ),
    Mistake(
        "pages shared",
        "the lengths were added, then rounded: two sequences share no page, so round each.",
        2,
        _bytes_variant(together=True),
    ),
    Mistake(
        "pages counted, not tokens", "a page has room for `page` tokens.", 2, _bytes_variant(pages=lambda length, page: -(-length // page))
    ),
    Mistake("the longest for all", "each sequence has a length of its own: not the longest for all.", 2, _longest_for_all),
    Mistake(
        "a page for nobody",
        "a sequence of no tokens has no page.",
        2,
        _bytes_variant(pages=lambda length, page: max(1, -(-length // page)) * page),
    ),
    Mistake(
        "equal lengths once",
        "two sequences of one length are two: do not make a set of them.",
        1,
        lambda *a: cache_bytes(*a[:3], set(a[3]), *a[4:]),
    ),
    Mistake("the first sequence alone", "only the first sequence is counted.", 1, _first_alone),
    Mistake("bits, not bytes", "itemsize is in bytes already: nothing is to be multiplied by 8.", 1, lambda *a: 8 * cache_bytes(*a)),
    Mistake("one layer", "every layer keeps keys and values of its own.", 1, _bytes_variant(layers=False)),
    Mistake("one head", "every head of keys is kept.", 1, _bytes_variant(heads=False)),
    Mistake("always 16 bits", "a number takes `itemsize` bytes, not always 2.", 1, _bytes_variant(size=2)),
)

# ---------------------------------------------------------------------------------------------------------------------- tasks

_LAUNCHED = dict(meaning=meaning)
TASKS = (
    Task("12.1", "keys split over programs", "split_kernel", 40, split_cases, compare_split, SPLIT_MISTAKES, call=call_split, **_LAUNCHED),
    Task(
        "12.2", "the parts joined", "combine_kernel", 25, combine_cases, compare_combine, COMBINE_MISTAKES, call=call_combine, **_LAUNCHED
    ),
    Task("12.3", "keys in pages", "gather_kernel", 25, gather_cases, compare_gather, GATHER_MISTAKES, call=call_gather, **_LAUNCHED),
    Task("12.4", "the bytes of a cache", "cache_bytes", 10, byte_cases, compare_bytes, BYTE_MISTAKES),
)
