"""Lesson 10's and 15's simulations, and what the compiler says of lesson 10's kernel."""

import pytest

from flashlab.course.checks.lesson_15_jobs import last_ends
from flashlab.course.memory import GPUS
from flashlab.course.schedule import WAYS, all_done, causal_lengths, pipeline, schedule, timetable


def test_with_one_buffer_loads_and_arithmetic_take_turns():
    assert pipeline(2, load=3, compute=2, stages=1) == [(0, 3, 3, 5), (5, 8, 8, 10)]


@pytest.mark.parametrize(("load", "compute"), [(3, 2), (2, 3), (1, 1)])
def test_more_buffers_never_take_longer_and_end_at_the_slower_of_the_two(load, compute):
    ends = [pipeline(10, load, compute, stages)[-1][3] for stages in (1, 2, 3, 4)]
    assert ends == sorted(ends, reverse=True)
    assert ends[0] == 10 * (load + compute) and ends[-1] == 10 * max(load, compute) + min(load, compute)


def test_programs_start_in_order_on_whoever_is_free():
    assert schedule([1, 4, 2], workers=2) == [(0, 0, 1), (1, 0, 4), (0, 1, 3)]
    lengths = list(range(1, 17))
    ends = [max(end for *_, end in schedule(order, 4)) for order in (lengths, lengths[::-1])]
    assert ends == [40, 34]


@pytest.mark.parametrize(
    ("lengths", "workers", "begin"), [([5], 1, 2), ([3, 7], 4, 1), (causal_lengths(7, 5, 2), 6, 2), (list(range(1, 40)), 7, 3)]
)
def test_programs_that_stay_share_jobs_out_in_two_ways(lengths, workers, begin):
    """The last end is what exercise 15.4 has; nobody does two jobs at once, and all jobs are done in full."""
    assert tuple(all_done(way, lengths, workers, begin) for way in WAYS) == last_ends(lengths, workers, begin)
    for way in WAYS:
        rows = timetable(way, lengths, workers, begin)
        assert [end - start for _, start, end in rows] == lengths
        for worker in range(workers):
            times = [(start, end) for who, start, end in rows if who == worker]
            assert all(end <= start for (_, end), (start, _) in zip(times, times[1:], strict=False))


def test_jobs_of_a_causal_call_walk_over_their_tiles():
    assert causal_lengths(3, 3, 2) == [3, 3, 2, 2, 1, 1, 3, 2, 1]


def test_resources_limit_how_many_programs_run_at_once():
    pytest.importorskip("triton")
    from flashlab.course.resources import Resources

    of = dict(spilled=0, instructions=1000)
    assert Resources(shared=40 * 1024, registers=64, threads=128, **of).programs_at_once(GPUS["T4"]) == (1, "shared memory")
    assert Resources(shared=8 * 1024, registers=255, threads=128, **of).programs_at_once(GPUS["H100"]) == (2, "registers")
    assert Resources(shared=1024, registers=32, threads=512, **of).programs_at_once(GPUS["T4"]) == (2, "threads")


def test_what_cannot_be_compiled_says_why():
    pytest.importorskip("triton")
    from flashlab.course.resources import resources
    from flashlab.course.steps.fast_forward import Choices

    with pytest.raises(RuntimeError, match="Triton could not compile this for capability 90"):
        resources(Choices(BLOCK_M=48), head_dim=64)  # no power of two
