"""Exercise 10, making it fast: what a tile takes, the tiles that fit, those that a causal mask leaves, and the bytes they move."""

from flashlab.course.checks import compare
from flashlab.course.checks.lesson_10_mistakes import (
    BYTE_MISTAKES,
    CHOOSE_MISTAKES,
    SHARED_MISTAKES,
    TILE_MISTAKES,
    bytes_moved,
    causal_tiles,
    choose_tiles,
    shared_bytes,
)
from flashlab.course.checks.task import Case, Task

T4, A100 = 64 * 1024, 163 * 1024  # bytes of shared memory that one program may use
CANDIDATES = ((32, 32), (64, 32), (32, 64), (64, 64), (128, 32), (128, 64), (64, 128), (128, 128))


# -------------------------------------------------------------------------------------------------------------------- cases


def shared_cases(rng):
    sizes = [("one buffer, tiles of 64 × 64", (64, 64, 64, 1, 2)), ("three buffers, 128 × 64, head dim 128", (128, 64, 128, 3, 2))]
    sizes += [("float32", (32, 64, 64, 2, 4)), ("more keys than queries in a tile", (16, 128, 64, 2, 2))]
    drawn = (2 ** int(rng.integers(4, 8)), 2 ** int(rng.integers(4, 8)), 8 * int(rng.integers(2, 17)), int(rng.integers(2, 5)), 2)
    return [Case(text, size) for text, size in sizes] + [Case("sizes drawn at random", drawn)]


def choose_cases(rng):
    return [
        Case("two candidates, of which one fits", (((64, 64), (128, 128)), T4, 64, 2)),
        Case("both fit", (((64, 64), (128, 32)), T4, 64, 2)),
        Case("as many rows, but fewer keys in a tile", (((64, 64), (64, 32)), T4, 64, 2)),
        Case("one that fits to the byte", (((64, 32), (128, 64)), shared_bytes(128, 64, 64, 2, 2), 64, 2)),
        Case("one that fits with a little to spare", (((64, 32), (128, 64)), 50_000, 64, 2)),
        Case("nothing fits", (((128, 128),), T4, 128, 3)),
        Case("of three, the first is too large and the last is best", (((128, 128), (32, 64), (64, 64)), T4, 64, 2)),
        Case("many keys in a tile, or few", (((32, 96), (128, 32)), T4, 64, 2)),
        Case("one that would fit without its tile of Q", (((64, 16), (128, 16)), 18 * 1024, 64, 2)),
        Case("a T4, head dim 64", (CANDIDATES, T4, 64, 2)),
        Case("a T4, head dim 128", (CANDIDATES, T4, 128, 2)),
        Case("an A100, head dim 128", (CANDIDATES, A100, 128, 3)),
        Case("an A100, candidates in another order", (tuple(CANDIDATES[n] for n in rng.permutation(len(CANDIDATES))), A100, 64, 3)),
    ]


def tile_cases(rng):
    return [
        Case("one tile", (16, 16, 16)),
        Case("2 × 2 square tiles", (32, 16, 16)),
        Case("16 × 16 square tiles", (256, 16, 16)),
        Case("tall tiles: 64 rows, 16 keys", (128, 64, 16)),
        Case("wide tiles: 16 rows, 64 keys", (128, 16, 64)),
        Case("a last tile of few rows", (100, 32, 16)),
        Case("a last tile of one row", (33, 16, 16)),
        Case("tiles of odd sizes", (40, 7, 3)),
        Case("sizes drawn at random", (int(rng.integers(150, 400)), 2 ** int(rng.integers(4, 7)), 2 ** int(rng.integers(4, 7)))),
    ]


def byte_cases(rng):
    return [
        Case("one tile", (16, 32, 16, 16, False)),
        Case("full, 4 tiles of rows", (64, 32, 16, 16, False)),
        Case("causal, 4 tiles of rows", (64, 32, 16, 16, True)),
        Case("causal, wide tiles", (256, 16, 16, 64, True)),
        Case("causal, a last tile of one key", (33, 64, 32, 16, True)),
        Case("full, a last tile of few keys", (70, 64, 32, 32, False)),
        Case("causal, a last tile of few keys", (70, 64, 32, 32, True)),
        Case("causal, tall tiles, drawn at random", (int(rng.integers(200, 500)), 64, 64, 32, True)),
    ]


# --------------------------------------------------------------------------------------------------------------- comparison


def compare_number(right):
    return lambda answer, case: compare.number(answer, right(*case.arguments), " bytes")


def compare_tile(answer, case):
    want = choose_tiles(*case.arguments)
    if answer is not None and (not isinstance(answer, (tuple, list)) or len(answer) != 2):
        return f"return one of the candidates, or None; got {answer!r}"
    if answer == want or (want and answer and tuple(answer) == want):
        return ""
    _, sram_bytes, D, num_stages = case.arguments
    words = []
    for name, tile in (("you chose", answer), ("expected", want)):
        size = f" ({shared_bytes(*tile, D, num_stages, 2):,} bytes)" if tile else ""
        words.append(f"{name} {tuple(tile) if tile else None}{size}")
    return f"{words[0]}, {words[1]}, of {sram_bytes:,} bytes"


def compare_tiles(answer, case):
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return f"return two numbers, (visited, partial); got {answer!r}"
    for name, got, want in zip(("visited", "partial"), answer, causal_tiles(*case.arguments), strict=True):
        if got != want:
            return f"{name}: you have {got}, expected {want}"
    return ""


TASKS = (
    Task("10.1", "what a tile takes", "shared_bytes", 20, shared_cases, compare_number(shared_bytes), SHARED_MISTAKES),
    Task("10.2", "the tile that fits", "choose_tiles", 25, choose_cases, compare_tile, CHOOSE_MISTAKES),
    Task("10.3", "tiles that a causal mask leaves", "causal_tiles", 30, tile_cases, compare_tiles, TILE_MISTAKES),
    Task("10.4", "the bytes of a schedule", "bytes_moved", 25, byte_cases, compare_number(bytes_moved), BYTE_MISTAKES),
)
