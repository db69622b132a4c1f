"""Lesson 10's simulations, and what the compiler says of its kernel."""

import pytest

from flashlab.course.memory import GPUS
from flashlab.course.schedule import pipeline, schedule


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
