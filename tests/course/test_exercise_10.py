"""Exercise 10: full marks for the solution, nothing for the stub, each planted mistake named, and the checks' own answers are right."""

from pathlib import Path

import nbformat
import numpy as np
import pytest

from flashlab.course import check
from flashlab.course.checks import lesson_10
from flashlab.course.grading import judge, tasks

ROOT = Path(__file__).resolve().parents[2]
NAME = "10_making_it_fast.ipynb"

SHARED = "def shared_bytes(M, N, D, stages, size):\n    return "
FITTING = "def choose_tiles(candidates, budget, D, stages):\n    fit = [t for t in candidates if shared(t, D, stages) {test}]\n"
TILES = (
    "def causal_tiles(S, M, N):\n    v = p = 0\n    for a in range(0, S, M):\n        b = {last}\n        n = {seen}\n        f = {full}\n"
    "        v += n\n        p += n - f\n    return v, p"
)
BYTES = (
    "def bytes_moved(S, D, M, N, causal):\n    k = 0\n    for a in range(0, S, M):\n        e = {end}\n        k += {keys}\n"
    "    return {total}"
)


def tiles(last="min(a + M, S) - 1", seen="(b + N) // N", full="(a + 1) // N"):
    return TILES.format(last=last, seen=seen, full=full)


def moved(end="min(a + M, S) if causal else S", keys="min(-(-e // N) * N, S)", total="4 * S * D + 4 * k * D + 4 * S"):
    return BYTES.format(end=end, keys=keys, total=total)


def chosen(rest, test="<= budget"):
    return FITTING.format(test=test) + rest


# What people write, as they write it. Each is (task, expected name of the mistake, source).
WRONG = [
    ("10.1", "no V", SHARED + "size * (M * D + stages * N * D)"),
    ("10.1", "no Q", SHARED + "size * stages * 2 * N * D"),
    ("10.1", "Q in every buffer", SHARED + "size * stages * (M + 2 * N) * D"),
    ("10.1", "one buffer", SHARED + "size * (M + 2 * N) * D"),
    ("10.1", "numbers, not bytes", SHARED + "M * D + stages * 2 * N * D"),
    ("10.1", "always float16", SHARED + "2 * (M * D + stages * 2 * N * D)"),
    ("10.1", "rows and keys swapped", SHARED + "size * D * (N + 2 * stages * M)"),
    ("10.1", "acc too", SHARED + "size * D * (2 * M + 2 * stages * N)"),
    ("10.1", "scores too", SHARED + "size * D * (M + 2 * stages * N) + size * M * N"),
    ("10.2", "one that does not fit", "def choose_tiles(candidates, budget, D, stages):\n"
     "    return max(candidates, key=lambda t: (t[0], -t[1]))"),
    ("10.2", "must be smaller", chosen("    return max(fit, key=lambda t: (t[0], -t[1]), default=None)", "< budget")),
    ("10.2", "KiB of 1000 bytes", chosen("    return max(fit, key=lambda t: (t[0], -t[1]), default=None)", "/ 1000 <= budget / 1024")),
    ("10.2", "the most keys", chosen("    return max(fit, key=lambda t: (t[1], -t[0]), default=None)")),
    ("10.2", "the largest", chosen("    return max(fit, default=None)")),
    ("10.2", "the most pairs", chosen("    return max(fit, key=lambda t: t[0] * t[1], default=None)")),
    ("10.2", "the first that fits", chosen("    return next(iter(fit), None)")),
    ("10.2", "no second question", chosen("    return max(fit, key=lambda t: t[0], default=None)")),
    ("10.2", "the last of several", chosen("    return sorted(fit, key=lambda t: t[0])[-1] if fit else None")),
    ("10.2", "one buffer", chosen("    return max(fit, key=lambda t: (t[0], -t[1]), default=None)").replace("stages) <=", "1) <=")),
    ("10.2", "no Q", chosen("    return max(fit, key=lambda t: (t[0], -t[1]), default=None)").replace("shared(t,", "shared((0, t[1]),")),
    ("10.2", "stops too early", "def choose_tiles(candidates, budget, D, stages):\n    best = None\n    for t in candidates:\n"
     "        if shared(t, D, stages) > budget:\n            break\n"
     "        if best is None or (t[0], -t[1]) > (best[0], -best[1]):\n            best = t\n    return best"),
    ("10.2", "the least memory", chosen("    return min(fit, key=lambda t: shared(t, D, stages), default=None)")),
    ("10.2", "the most bytes", chosen("    return max(fit, key=lambda t: shared(t, D, stages), default=None)")),
    ("10.2", "in float32", chosen("    return max(fit, key=lambda t: (t[0], -t[1]), default=None)", "<= budget / 2")),
    ("10.2", "never None", chosen("    return max(fit, key=lambda t: (t[0], -t[1]), default=candidates[0])")),
    ("10.3", "nothing is skipped", tiles(seen="(S + N - 1) // N")),
    ("10.3", "one partial tile a row", tiles(full="n - 1")),
    ("10.3", "no last tile", tiles(seen="(b + 1) // N")),
    ("10.3", "rows that do not exist", tiles(last="a + M - 1")),
    ("10.3", "judged by the last row", tiles(full="(a + N) // N if a else 0")),
    ("10.3", "the other order", tiles().replace("return v, p", "return p, v")),
    ("10.3", "blind to itself", tiles(full="a // N")),
    ("10.3", "full for the last row", tiles(full="(b + 1) // N")),
    ("10.3", "visited by the first row", tiles(seen="a // N + 1")),
    ("10.3", "squares alone", "def causal_tiles(S, M, N):\n    n = -(-S // M)\n    return n * (n + 1) // 2, n"),
    ("10.3", "the lesson's count", "def causal_tiles(S, M, N):\n    firsts = range(0, S, M)\n"
     "    return sum(a // N + 1 for a in firsts), len(firsts)"),
    ("10.3", "no key past the end", "def causal_tiles(S, M, N):\n    v = p = 0\n    for a in range(0, S, M):\n"
     "        for c in range(0, S, N):\n"
     "            if c <= min(a + M, S) - 1:\n                v += 1\n                p += min(c + N, S) - 1 > a\n    return v, p"),
    ("10.3", "a key too few", tiles(seen="(b + N - 1) // N")),
    ("10.3", "rows and keys swapped", tiles().replace("(S, M, N)", "(S, N, M)")),
    ("10.4", "a key too few", moved(end="min(a + M, S) - 1 if causal else S")),
    ("10.4", "to the first row", moved(end="a + 1 if causal else S")),
    ("10.4", "before the diagonal", moved(end="a if causal else S")),
    ("10.4", "half", moved(keys="S / 2 if causal else S")),
    ("10.4", "all in float32", moved(total="8 * S * D + 8 * k * D + 4 * S")),
    ("10.4", "no Out", moved(total="2 * S * D + 4 * k * D + 4 * S")),
    ("10.4", "half a tile", moved(keys="min(e, S)")),
    ("10.4", "K and V once", moved(total="4 * S * D + 4 * S * D + 4 * S")),
    ("10.4", "nothing is skipped", moved(end="S")),
    ("10.4", "no V", moved(total="4 * S * D + 2 * k * D + 4 * S")),
    ("10.4", "no lse", moved(total="4 * S * D + 4 * k * D")),
    ("10.4", "lse in 16 bits", moved(total="4 * S * D + 4 * k * D + 2 * S")),
    ("10.4", "whole tiles at the end", moved(keys="-(-e // N) * N")),
]  # fmt: skip


def solutions():
    """Function name → function, from the solution notebook."""
    namespace = {"check": lambda *_: None, "example": lambda *_: None}
    for cell in nbformat.read(ROOT / "solutions" / NAME, as_version=4).cells:
        if cell.source.startswith("def "):
            exec(cell.source, namespace)
    return namespace


def defined(source):
    namespace = {"shared": lambda tile, D, stages: lesson_10.shared_bytes(*tile, D, stages, 2)}
    before = set(namespace)
    exec(source, namespace)
    return next(value for name, value in namespace.items() if name not in before and callable(value))


@pytest.mark.parametrize(("number", "mistake", "source"), WRONG, ids=lambda text: text if len(text) < 40 else "")
@pytest.mark.parametrize("seed", [0, 7])
def test_each_planted_mistake_fails_and_is_named(number, mistake, source, seed):
    result = judge(tasks("10")[number], defined(source), seed)
    assert result.status == "failed" and result.points < result.out_of
    assert result.mistake == mistake, str(result)
    assert "Hint" in result.advice and result.failing_case and result.difference


def test_every_known_mistake_is_planted():
    assert {(task.number, mistake.name) for task in tasks("10").values() for mistake in task.mistakes} == {row[:2] for row in WRONG}


@pytest.mark.parametrize("seed", range(5))
def test_the_solution_passes_whatever_the_seed(seed):
    found = solutions()
    for task in tasks("10").values():
        result = judge(task, found[task.function], seed)
        assert result.status == "passed" and result.points == task.points, str(result)


def test_points_add_up_to_a_hundred():
    assert sum(task.points for task in tasks("10").values()) == 100


@pytest.mark.parametrize("seqlen", [16, 70, 100, 333])
@pytest.mark.parametrize("BLOCK_M", [16, 64])
@pytest.mark.parametrize("BLOCK_N", [16, 64])
def test_tiles_are_counted_as_the_mask_says(seqlen, BLOCK_M, BLOCK_N):
    i = np.arange(seqlen)
    visited = partial = 0
    for row in range(0, seqlen, BLOCK_M):
        for col in range(0, seqlen, BLOCK_N):
            seen = i[row : row + BLOCK_M, None] >= i[None, col : col + BLOCK_N]
            visited += seen.any()
            partial += seen.any() and not (seen.all() and col + BLOCK_N <= seqlen)
    assert lesson_10.causal_tiles(seqlen, BLOCK_M, BLOCK_N) == (visited, partial)


def test_what_a_tile_takes_is_what_the_compiler_says():
    pytest.importorskip("triton")
    from flashlab.course.resources import resources
    from flashlab.course.steps.fast_forward import Choices

    kinds = [Choices(64, 64, num_stages=1), Choices(64, 64, num_stages=3), Choices(128, 64, num_stages=2)]
    for choices, found in zip(kinds, resources(*kinds, head_dim=64), strict=True):
        assert found.shared == lesson_10.shared_bytes(choices.BLOCK_M, choices.BLOCK_N, 64, choices.num_stages, 2)


def test_answers_of_another_kind_are_refused_in_words():
    assert "return a number" in str(check("10.1", lambda *_: "many"))
    assert "return one of the candidates, or None" in str(check("10.2", lambda *_: 64))
    assert "return two numbers" in str(check("10.3", lambda *_: 5))
