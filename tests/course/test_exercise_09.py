"""Exercise 09: full marks for the solution, nothing for the stub, and each planted mistake named."""

from pathlib import Path

import nbformat
import numpy as np
import pytest

from flashlab.course import check
from flashlab.course.checks import lesson_09
from flashlab.course.grading import judge, tasks
from flashlab.course.steps import online

ROOT = Path(__file__).resolve().parents[2]
NAME = "09_real_attention.ipynb"

VISIBLE = "def visible(i, j, sq, sk, left, right, br):\n"
WALK = "def walk(first, last, sk, lo, hi, b):\n"
CEIL = "    up = lambda x: -(-x // b) * b\n"
KEYS = "    lk, pk = max(0, first + lo), min(sk, last + hi + 1)\n    if pk <= lk: return 0, 0, 0, 0\n"
FULL_BEGIN = "    fb = min(pk, up(max(0, last + lo)))\n"
GROUPED = "def grouped_forward(Q, K, V, scale, BM, BN):\n    Hq, Sq, D = Q.shape\n    Hkv, Sk, _ = K.shape\n    G = Hq // Hkv\n"
PER_HEAD = (
    "    out = np.zeros(Q.shape)\n    for h in range(Hq):\n        for a in range(0, Sq, BM):\n            q = Q[h, a:a + BM]\n"
    "            s = start(len(q), D)\n            for c in range(0, Sk, BN):\n"
    "                s = update(*s, {scores}, V[{kv}, c:c + BN])\n            out[h, a:a + BM] = finish(*s)[0]\n    return out"
)
PER_GROUP = (
    "    out = np.zeros(Q.shape)\n    for g in range(Hkv):\n        hs = slice(g * G, g * G + G)\n        for a in range(0, Sq, BM):\n"
    "            q = Q[hs, a:a + BM]\n            n = q.shape[1]\n            q = q.reshape(G * n, D)\n            s = start(G * n, D)\n"
    "            for c in range(0, {keys}, BN):\n                s = update(*s, {scores}, V[g, c:c + BN])\n"
    "            out[hs, a:a + BM] = finish(*s)[0].{unstack}\n    return out"
)
RIGHT_GROUP = dict(keys="Sk", scores="scale * q @ K[g, c:c + BN].T", unstack="reshape(G, n, D)")


def per_head(kv, scores="scale * q @ K[{kv}, c:c + BN].T"):
    return GROUPED + PER_HEAD.format(kv=kv, scores=scores.format(kv=kv))


def per_group(**changes):
    return GROUPED + PER_GROUP.format(**{**RIGHT_GROUP, **changes})


# What people write, as they write it. Each is (task, expected name of the mistake, source).
WRONG = [
    ("9.1", "always top left",
     VISIBLE + "    ok = j < sk\n    if left != -1: ok = ok & (i - j <= left)\n    if right != -1: ok = ok & (j - i <= right)\n"
     "    return ok"),
    ("9.1", "always bottom right",
     VISIBLE + "    d = sk - sq\n    ok = j < sk\n    if left >= 0: ok = ok & (j >= i + d - left)\n"
     "    if right >= 0: ok = ok & (j <= i + d + right)\n    return ok"),
    ("9.1", "diagonal the wrong way",
     VISIBLE + "    if br: i = i + sq - sk\n    ok = np.broadcast_to(j < sk, (len(i), j.shape[1]))\n"
     "    if left >= 0: ok = ok & (j >= i - left)\n"
     "    if right >= 0: ok = ok & (j <= i + right)\n    return ok"),
    ("9.1", "right edge off by one",
     VISIBLE + "    d = sk - sq if br else 0\n    ok = j < sk\n    if left >= 0: ok = ok & (j >= i + d - left)\n"
     "    if right >= 0: ok = ok & (j < i + d + right)\n    return ok"),
    ("9.1", "left edge off by one",
     VISIBLE + "    d = (sk - sq) * br\n    ok = j < sk\n    if left >= 0: ok = ok & (i + d - j < left)\n"
     "    if right >= 0: ok = ok & (j - i - d <= right)\n    return ok"),
    ("9.1", "-1 taken as a number",
     VISIBLE + "    d = sk - sq if br else 0\n    return (j < sk) & (j >= i + d - left) & (j <= i + d + right)"),
    ("9.1", "keys past the end",
     VISIBLE + "    d = sk - sq if br else 0\n    ok = np.ones((i.shape[0], j.shape[1]), bool)\n    if left >= 0: ok &= j >= i + d - left\n"
     "    if right >= 0: ok &= j <= i + d + right\n    return ok"),
    ("9.1", "sides swapped",
     VISIBLE + "    d = sk - sq if br else 0\n    ok = j < sk\n    if right >= 0: ok = ok & (j >= i + d - right)\n"
     "    if left >= 0: ok = ok & (j <= i + d + left)\n    return ok"),
    ("9.2", "nothing is skipped", WALK + "    return 0, sk, sk, sk"),
    ("9.2", "no tile is full",
     WALK + "    lk, pk = max(0, first + lo), min(sk, last + hi + 1)\n    begin = lk // b * b\n"
     "    end = max(begin, pk) if pk > lk else begin\n"
     "    return begin, begin, begin, end"),
    ("9.2", "begin not rounded",
     WALK + CEIL + "    begin = max(0, first + lo)\n    end = max(begin, min(sk, last + hi + 1))\n"
     "    fb = min(end, up(max(0, last + lo)))\n"
     "    return begin, fb, max(fb, max(0, min(sk, first + hi + 1)) // b * b), end"),
    ("9.2", "begin below zero",
     WALK + CEIL + "    begin = (first + lo) // b * b\n    end = min(sk, last + hi + 1)\n    if end <= first + lo: return 0, 0, 0, 0\n"
     "    fb = min(end, up(max(0, last + lo)))\n    return begin, fb, max(fb, max(0, min(sk, first + hi + 1)) // b * b), end"),
    ("9.2", "end asks the first row",
     WALK + CEIL + "    lk, pk = max(0, first + lo), min(sk, first + hi + 1)\n    if pk <= lk: return 0, 0, 0, 0\n"
     "    fb = min(pk, up(max(0, last + lo)))\n"
     "    return lk // b * b, fb, max(fb, pk // b * b), pk"),
    ("9.2", "end past the keys",
     WALK + CEIL + "    lk, pk = max(0, first + lo), last + hi + 1\n    if pk <= lk: return 0, 0, 0, 0\n"
     "    fb = min(pk, up(max(0, last + lo)))\n"
     "    return lk // b * b, fb, max(fb, max(0, min(sk, first + hi + 1)) // b * b), pk"),
    ("9.2", "begins past the last key",
     WALK + CEIL + "    begin, end = max(0, first + lo) // b * b, max(0, min(sk, last + hi + 1))\n"
     "    fb = min(end, up(max(0, last + lo)))\n"
     "    return begin, fb, max(fb, max(0, min(sk, first + hi + 1)) // b * b), end"),
    ("9.2", "full_begin rounded down",
     WALK + "    lk, pk = max(0, first + lo), min(sk, last + hi + 1)\n    if pk <= lk: return 0, 0, 0, 0\n"
     "    fb = min(pk, max(0, last + lo) // b * b)\n"
     "    return lk // b * b, fb, max(fb, max(0, min(sk, first + hi + 1)) // b * b), pk"),
    ("9.2", "full_end rounded up",
     WALK + CEIL + KEYS + FULL_BEGIN + "    return lk // b * b, fb, max(fb, up(max(0, min(sk, first + hi + 1)))), pk"),
    ("9.2", "full_end asks the last row",
     WALK + CEIL + KEYS + FULL_BEGIN + "    return lk // b * b, fb, max(fb, pk // b * b), pk"),
    ("9.2", "ragged end not noticed",
     WALK + CEIL + KEYS + FULL_BEGIN + "    return lk // b * b, fb, max(fb, (first + hi + 1) // b * b), pk"),
    ("9.2", "stretches overlap",
     WALK + CEIL + KEYS + FULL_BEGIN + "    return lk // b * b, fb, max(0, min(sk, first + hi + 1)) // b * b, pk"),
    ("9.3", "heads dealt like cards", per_head("h % Hkv")),
    ("9.3", "divided by the wrong number", per_head("h // Hkv")),
    ("9.3", "one key head for all", per_head("0")),
    ("9.3", "scale forgotten", per_group(scores="q @ K[g, c:c + BN].T")),
    ("9.3", "scale forgotten", per_head("h // G", scores="q @ K[{kv}, c:c + BN].T")),
    ("9.3", "ragged keys forgotten", per_group(keys="Sk // BN * BN")),
    ("9.3", "rows unstacked in another order", per_group(unstack="reshape(n, G, D).transpose(1, 0, 2)")),
    ("9.3", "read again for every query head", per_head("h // G")),
    ("9.3", "one pass for all rows",
     GROUPED + "    K, V = np.repeat(np.asarray(K[:]), G, 0), np.repeat(np.asarray(V[:]), G, 0)\n"
     "    s = scale * np.einsum('hid,hjd->hij', Q, K)\n"
     "    p = np.exp(s - s.max(-1, keepdims=True))\n    return p / p.sum(-1, keepdims=True) @ V"),
    ("9.4", "-inf minus -inf",
     "def attend_rows(s, v, do):\n    m = s.max(1)\n    p = np.exp(s - m[:, None])\n    l = p.sum(1)\n    p = p / l[:, None]\n"
     "    dp = do @ v.T\n"
     "    return p @ v, m + np.log(l), p * (dp - (p * dp).sum(1)[:, None])"),
    ("9.4", "0 / 0",
     "def attend_rows(s, v, do):\n    m = s.max(1)\n    z = np.where(np.isinf(m), 0, m)\n    p = np.exp(s - z[:, None])\n    l = p.sum(1)\n"
     "    p = p / l[:, None]\n    dp = do @ v.T\n    return p @ v, z + np.log(l), p * (dp - (p * dp).sum(1)[:, None])"),
    ("9.4", "a row that sees nothing sees everything",
     "def attend_rows(s, v, do):\n    s = np.where(np.isinf(s), -1e9, s)\n    m = s.max(1)\n    p = np.exp(s - m[:, None])\n"
     "    l = p.sum(1)\n"
     "    p = p / l[:, None]\n    dp = do @ v.T\n    return p @ v, m + np.log(l), p * (dp - (p * dp).sum(1)[:, None])"),
    ("9.4", "lse is not -inf",
     "def attend_rows(s, v, do):\n    m = s.max(1)\n    m = np.where(np.isinf(m), 0, m)\n    p = np.exp(s - m[:, None])\n    l = p.sum(1)\n"
     "    l[l == 0] = 1\n    p = p / l[:, None]\n    dp = do @ v.T\n    return p @ v, m + np.log(l), p * (dp - (p * dp).sum(1)[:, None])"),
    ("9.4", "NaN in the gradient",
     "def attend_rows(s, v, do):\n    m = s.max(1)\n    z = np.where(np.isinf(m), 0, m)\n    p = np.exp(s - z[:, None])\n    l = p.sum(1)\n"
     "    d = np.where(l == 0, 1, l)\n    out, lse = p @ v / d[:, None], m + np.log(d)\n    P = np.exp(s - lse[:, None])\n"
     "    dp = do @ v.T\n"
     "    return out, lse, P * (dp - (do * out).sum(1)[:, None])"),
    ("9.4", "no delta",
     "def attend_rows(s, v, do):\n    m = s.max(1)\n    z = np.where(np.isinf(m), 0, m)\n    p = np.exp(s - z[:, None])\n    l = p.sum(1)\n"
     "    d = np.where(l == 0, 1, l)\n    p = p / d[:, None]\n    return p @ v, m + np.log(d), p * (do @ v.T)"),
]  # fmt: skip


def defined(source, name):
    namespace = {
        "np": np,
        "check": lambda *_: None,
        "example": lambda *_: None,
        "start": online.start,
        "update": online.update,
        "finish": online.finish,
    }
    exec(source, namespace)
    return namespace[name]


def solution_cells():
    """Function name → the source of its cell in the solution."""
    cells = nbformat.read(ROOT / "solutions" / NAME, as_version=4).cells
    return {cell.source.split("(")[0].removeprefix("def "): cell.source for cell in cells if cell.source.startswith("def ")}


@pytest.mark.parametrize(("number", "mistake", "source"), WRONG, ids=[f"{number} {mistake}" for number, mistake, _ in WRONG])
@pytest.mark.parametrize("seed", [0, 7])
def test_each_planted_mistake_fails_and_is_named(number, mistake, source, seed):
    task = tasks("09")[number]
    result = judge(task, defined(source, task.function), seed)
    assert result.status == "failed" and result.points < result.out_of
    assert result.mistake == mistake, str(result)
    assert "Hint" in result.advice and result.failing_case and result.difference


@pytest.mark.parametrize("seed", range(5))
def test_the_solution_passes_whatever_the_seed(seed):
    cells = solution_cells()
    for task in tasks("09").values():
        result = judge(task, defined(cells[task.function], task.function), seed)
        assert result.status == "passed" and result.points == task.points, str(result)


def test_points_add_up_to_a_hundred_and_each_task_has_five_wrong_submissions():
    assert sum(task.points for task in tasks("09").values()) == 100
    assert all(sum(number == task for number, _, _ in WRONG) >= 5 for task in tasks("09"))


def test_the_cases_of_the_walk_hold_every_kind_of_tile():
    kinds = [lesson_09._kinds(*case.arguments) for case in lesson_09.walk_cases(np.random.default_rng(0))]
    assert ([], []) in kinds and any(partial and full for partial, full in kinds) and any(partial and not full for partial, full in kinds)


def test_whatever_an_attempt_does_a_result_comes_back():
    assert "array of True and False" in str(check("9.1", lambda *arguments: 1))
    assert "shape" in str(check("9.1", lambda *arguments: np.ones((2, 3, 4), bool)))
    assert "four numbers" in str(check("9.2", lambda *arguments: None))
    assert "use //, not /" in str(check("9.2", lambda *arguments: (0.0, 0.0, 0.0, 0.0)))
    assert "no multiple" in str(check("9.2", lambda *arguments: (1, 1, 1, 10**12)))
    assert "shape" in str(check("9.3", lambda *arguments: 5))
    assert "is a return missing?" in str(check("9.3", lambda *arguments: None))
    assert "join masks with &" in str(check("9.1", lambda i, j, *_: (j >= i) and (j <= i)))
    assert "three things" in str(check("9.4", lambda *arguments: None))
    assert "ZeroDivisionError" in str(check("9.3", lambda *arguments: 1 / 0))


def test_not_attempted_is_not_wrong():
    def grouped_forward(*arguments):
        raise NotImplementedError

    assert check("9.3", grouped_forward).status == "not attempted"


def test_out_and_lse_where_out_alone_is_asked_is_told():
    result = judge(tasks("09")["9.3"], lambda Q, K, V, scale, BLOCK_M, BLOCK_N: (Q, Q[..., 0]))
    assert "return out alone; got a tuple of 2" in result.difference
