"""The benchmark on a CPU, with problems that are small: what a GPU measures for minutes runs here in seconds."""

import pytest

from flashlab.bench import launch, peers, problems, report, speed, timing
from flashlab.bench.problems import Problem

SMALL = dict(tokens=256, width=128, dtype="float32")
PROBLEMS = [
    Problem(128, 32, **SMALL),
    Problem(128, 32, is_causal=True, **SMALL),
    Problem(128, 24, is_causal=True, group=2, **SMALL),
    Problem(128, 32, window=20, **SMALL),
    Problem(128, 32, is_causal=True, packed=(60, 40, 28), **SMALL),
]


@pytest.fixture
def here():
    return peers.found()[0]


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_a_row_holds_times_or_says_why_not(problem, here):
    row = speed.measure(problem, here, "cpu", rounds=2, round_ms=0.1)
    assert row["peers"].keys() == {peer.name for peer in here}
    ours = row["peers"]["flashlab"]
    assert ours["error"] < 1e-5 and ours["peak_bytes"] > 0
    for result in row["peers"].values():
        assert ("refused" in result) != ("forward" in result)
        for way in ("forward", "backward"):
            assert "refused" in result or 0 < result[way]["low"] <= result[way]["median"] <= result[way]["high"]
    assert speed.ratio(row, "flashlab", "both") == 1.0
    assert speed.tflops(row, "flashlab", "forward") == pytest.approx(row["flops"] / ours["forward"]["median"] / 1e9)
    formula = speed.ratio(row, "the formula in torch", "both")
    assert (formula is None) == (problem.window is not None or bool(problem.packed))
    assert next(report.tables(dict(speed=[row]))).row_count == 1


def test_what_is_wrong_is_not_timed():
    liar = peers.Peer("liar", "0", lambda problem, query, key, value: lambda: query * 2)
    row = speed.measure(PROBLEMS[0], [*peers.found()[0][:1], liar], "cpu", rounds=1, round_ms=0.1)
    assert row["peers"]["liar"]["refused"].startswith("wrong result: the error is ")


def test_flops_count_the_pairs_that_are_seen():
    assert Problem(4, 8, tokens=8, width=16).flops == 4 * 8 * 16 * 2 * 2  # D, pairs, heads, batch
    assert Problem(4, 8, is_causal=True, tokens=8, width=16).flops == 4 * 8 * 8 * 2 * 2  # half of them, by convention
    assert Problem(4, 8, window=1, tokens=4, width=8).flops == 4 * 8 * 7
    assert Problem(4, 8, packed=(2, 2), tokens=4, width=8).flops == 4 * 8 * 8


def test_the_grid_has_every_kind_once():
    grid = list(problems.grid())
    assert len(grid) == len(set(grid)) == 46
    assert {problem.head_dim for problem in grid} == {64, 96, 128, 256} and {problem.seqlen for problem in problems.main_sweep()} == {
        512, 1024, 2048, 4096, 8192, 16384,
    }  # fmt: skip
    assert all(sum(problem.packed) in (0, problems.TOKENS) for problem in grid)


def test_a_missing_peer_is_named(monkeypatch):
    monkeypatch.setattr(peers, "_importable", lambda module: module == "flash_attn")
    here, missing = peers.found()
    assert [peer.name for peer in here][-1] == "flash-attn 2"
    assert missing == {"flash-attn 3": "no module flash_attn_interface", "flash-attn 4": "no module flash_attn.cute"}


def test_cpu_time_of_a_call(monkeypatch):
    monkeypatch.setattr(launch, "CALLS", 2)
    row = launch.measure("cpu")
    assert min(row[key] for key in ("flashlab_us", "flashlab_no_grad_us", "sdpa_us", "sdpa_no_grad_us")) > 0


def test_every_round_has_every_work_in_another_order(monkeypatch):
    """Whoever ran just before decides over the clock: it must not be the same one each time."""
    ran = []

    def timed(work, count):
        ran.append(work())
        return [1.0] * count

    monkeypatch.setattr(timing, "_on_cpu", timed)
    timing.interleaved({name: lambda name=name: name for name in "abcd"}, "cpu", rounds=6)
    rounds = [tuple(ran[at : at + 4]) for at in range(4, len(ran), 4)]  # the first four look how long each takes
    assert len(rounds) == 6 and all(set(order) == set("abcd") for order in rounds) and len(set(rounds)) > 3
