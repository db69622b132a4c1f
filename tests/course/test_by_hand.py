"""What lesson 15 stands on: a simulated workshop, and variants of the Hopper kernel that are the kernel with other words."""

import functools
import os
import subprocess
import sys

import pytest

from flashlab.bench.timing import Times
from flashlab.course import records, workshop
from flashlab.course.steps.workers import carrier_of, craft_of
from flashlab.course.workshop import Trouble, drawn, run, steady


@pytest.mark.parametrize("places", [1, 2, 3])
@pytest.mark.parametrize("ranges", [((0, 9),), ((0, 9), (2, 9)), ((0, 5), (0, 9)), ((3, 7), (0, 9), (0, 2))])
def test_right_workers_multiply_their_tiles_however_long_things_take(places, ranges):
    for seed in range(50):
        trace = run(carrier_of(9), [craft_of(9, *own) for own in ranges], places, drawn(seed))
        assert [workshop.multiplied(trace, c) for c in range(len(ranges))] == [list(range(*own)) for own in ranges]


def test_a_tile_is_never_copied_into_a_place_that_is_read():
    trace = run(carrier_of(20), [craft_of(20, 0, 20)] * 3, 2, drawn(7))
    for _, what, _, place, begin, _ in trace:
        if what == "copy":
            assert not any(w == "multiply" and p == place and b < begin < e for _, w, _, p, b, e in trace)


def test_more_places_never_take_longer():
    ends = [max(end for *_, end in run(carrier_of(8), [craft_of(8, 0, 8)] * 2, places, steady())) for places in (1, 2, 3, 4)]
    assert ends == sorted(ends, reverse=True) and ends[0] == 8 * 7


@pytest.mark.parametrize(
    ("craft", "words"),
    [
        (lambda shop: iter(()), "nobody can go on: the carrier for empty"),
        (lambda shop: (shop.multiply(n, n) for n in range(2)), "where nothing yet lay"),
        (lambda shop: (7 for _ in range(2)), "yielded 7: yield what shop.wait"),
        (lambda shop: (shop.wait(shop.empty[0], 1) for _ in iter(int, 1)), "did not come to an end"),
    ],
    ids=("never takes part", "does not wait", "yields a number", "never ends"),
)
def test_trouble_is_told_in_words(craft, words):
    with pytest.raises(Trouble, match=words):
        run(carrier_of(6), [craft], 2, steady())


def test_a_wait_is_answered_by_the_parity_of_the_phase():
    barrier = workshop.Barrier("b", 2)
    assert barrier.is_over(1) and not barrier.is_over(0)
    barrier.arrive()
    assert not barrier.is_over(0)
    barrier.arrive()
    assert barrier.is_over(0) and not barrier.is_over(1)


def test_every_decision_can_be_undone():
    """The words that each variant changes are in the kernel, and what comes out is a module with a kernel of its own."""
    pytest.importorskip("triton")
    from flashlab.course import by_hand
    from flashlab.kernels.hopper import backward, forward

    for name, decision in by_hand.DECISIONS.items():
        assert decision.words or decision.constants, name
        for head_dim, constants in decision.constants.items():
            assert constants.items() - forward.CONFIGS[head_dim].items() and constants.keys() <= forward.CONFIGS[head_dim].keys(), name
        assert by_hand.edited(decision.words).forward_kernel is not forward.forward_kernel
    assert by_hand.edited(by_hand.WITH_CLOCKS).tick
    assert by_hand.in_step().fused_kernel is not backward.fused_kernel and by_hand.in_step().plan is not backward.plan
    with pytest.raises(ValueError, match="is not in flashlab.kernels.hopper.forward"):
        by_hand.edited((("words that no kernel has", ""),))


COMPILE = """
import itertools
import torch
from flashlab.course import by_hand
from flashlab.spec import NO_EXTRAS, Spec
from tests.compiling import as_if_on, collecting

for head_dim, (name, decision) in itertools.product((64, 128), by_hand.DECISIONS.items()):
    if decision.words or head_dim in decision.constants:
        query, found = torch.empty(2, 4, 2048, head_dim, dtype=torch.bfloat16), []
        with as_if_on("sm_90", collecting(found, "sm_90")):
            by_hand.launch_without(name, query, query, query, Spec(0.1, True), NO_EXTRAS)()
        print("compiled", head_dim, name, found[0].tensor_core_products)
for head_dim in (64, 128):
    query, lse, found = torch.empty(2, 4, 2048, head_dim, dtype=torch.bfloat16), torch.empty(2, 4, 2048), []
    with as_if_on("sm_90", collecting(found, "sm_90", ("fused",))):
        by_hand.in_step().backward(query, query, query, query, query, lse, Spec(0.1, window=(-1, 0), deterministic=False))
    print("compiled", head_dim, "in step", found[0].tensor_core_products)
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_variant_compiles():
    pytest.importorskip("triton")
    from flashlab.course.by_hand import DECISIONS

    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    variants = sum(2 if decision.words else len(decision.constants) for decision in DECISIONS.values())
    assert result.returncode == 0 and result.stdout.count("compiled") == variants + 2, result.stderr[-2000:]


def test_all_beside_each_other_are_seen_to_compute_the_same(monkeypatch):
    """The walk through `beside`, with kernels of a CPU in the places of a GPU's."""
    pytest.importorskip("triton")
    from flashlab import blockwise
    from flashlab.course import by_hand
    from flashlab.kernels import backward, forward
    from flashlab.kernels.hopper import backward as hopper_backward
    from flashlab.kernels.hopper import forward as hopper_forward

    class Small(by_hand.Problem):
        def tensors(self, device):
            return super().tensors("cpu")

    def once(works, device):
        return {name: work() and Times(1.0, 1.0, 1.0) for name, work in works.items()}

    monkeypatch.setattr(by_hand, "Problem", functools.partial(Small, tokens=128, width=256))
    monkeypatch.setattr(by_hand, "interleaved", once)
    monkeypatch.setattr(by_hand, "PEERS", ("the formula in torch",))
    for module in (forward, hopper_forward):
        monkeypatch.setattr(module, "forward", blockwise.forward)
    for module in (backward, hopper_backward):
        monkeypatch.setattr(module, "backward", blockwise.backward)
    monkeypatch.setattr(by_hand, "in_step", lambda: hopper_backward)
    found = by_hand.beside(64, 128, is_causal=True)
    assert set(found["forward"]) == {"by hand", "portable", "the formula in torch"}
    in_any_order = {"in any order", "in any order, crafts in step"}
    assert set(found["backward"]) == {"in turns", *in_any_order, "portable", "the formula in torch"}

    monkeypatch.setattr(hopper_backward, "backward", lambda *saved: [2 * x for x in blockwise.backward(*saved)])
    with pytest.raises(RuntimeError, match="'in turns' computes something else"):
        by_hand.beside(64, 128, is_causal=True)


COUNTED = """==PROF== Connected to process 7
==PROF== Disconnected
"ID","Kernel Name",{metrics}
"","",{units}
"0","next_work_kernel",{nothing}
"1","rows_kernel","10","20","30","1,000"
"2","fused_kernel","40.5","50","60","2,000"
"3","next_work_kernel",{nothing}
"4","forward_kernel","70","80","90","500"
"""


def report(metrics):
    words = dict(metrics=metrics, units=[""] * 4, nothing="0001")
    return COUNTED.format(**{name: ",".join(f'"{word}"' for word in row) for name, row in words.items()})


def test_of_the_kernels_of_a_work_the_longest_is_counted():
    from flashlab.course import counters

    metrics = [*counters.COUNTERS.values(), counters.DURATION]
    assert counters.MARK in COUNTED
    found = counters.longest_kernels(report(metrics))
    assert found == [dict(zip(counters.COUNTERS, values, strict=True)) for values in ((40.5, 50, 60), (70, 80, 90))]
    with pytest.raises(ValueError, match="has no " + counters.DURATION):
        counters.longest_kernels(report([*metrics[:-1], "another"]))


def test_the_mark_in_a_report_has_its_name():
    pytest.importorskip("triton")
    from flashlab.course import counters

    assert counters.mark().__name__ == counters.MARK


def test_without_ncu_or_leave_to_count_it_says_so(monkeypatch, tmp_path):
    from flashlab.course import counters

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="none on this machine"):
        counters.measure()
    refuses = tmp_path / "ncu"
    refuses.write_text("#!/bin/sh\necho '==ERROR== ERR_NVGPUCTRPERM: no permission' >&2\nexit 1\n")
    refuses.chmod(0o755)
    with pytest.raises(RuntimeError, match="ERR_NVGPUCTRPERM"):
        counters.measure()


def test_the_record_of_counters_has_what_the_lesson_shows():
    from flashlab.course import counters

    works = records.counters()["works"]
    assert {(row["seqlen"], row["head_dim"], row["attention"] == "causal") for row in works} == set(counters.SIZES)
    names = {(row["head_dim"], row["way"], row["name"]) for row in works}
    assert len(names) == len(works) == 2 * (4 + 5)
    assert all(0 < busy <= 100 for row in works for busy in row["busy"].values())


def test_the_record_has_what_the_lesson_shows():
    from flashlab.course.by_hand import BESIDE, DECISIONS, EVENTS, PEERS, SIZES, STEPS

    record = records.by_hand()
    assert [(row["seqlen"], row["head_dim"], row["attention"] == "causal") for row in record["prices"]] == SIZES
    for row in record["prices"]:
        assert set(row["ms"]) == {
            "all",
            *(name for name, undone in DECISIONS.items() if undone.words or row["head_dim"] in undone.constants),
        }
    assert [(row["seqlen"], row["head_dim"], row["attention"] == "causal") for row in record["beside"]] == BESIDE
    for row in record["beside"]:
        assert set(row["forward"]) == {"by hand", "portable", *PEERS}
        assert set(row["backward"]) == {"in turns", "in any order", "in any order, crafts in step", "portable", *PEERS}
    for crafts in record["clocks"].values():
        for steps in crafts:
            times = functools.reduce(list.__add__, steps)
            assert len(steps) == STEPS - 2 and all(len(step) == len(EVENTS) for step in steps) and times == sorted(times)
