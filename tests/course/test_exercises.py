"""What holds of every exercise: the solution earns everything, the stub nothing, and each known mistake fails and is named."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from flashlab.course.checks import compare, lesson_14_mistakes
from flashlab.course.grading import LESSONS, judge, tasks
from flashlab.course.steps import naive
from flashlab.course.submission import grade_notebook

ROOT = Path(__file__).resolve().parents[2]
TASKS = [task for lesson in LESSONS for task in tasks(lesson).values()]
# Of the mistakes that are made in any kernel those in the forward kernel every day, all others in `make test-long`.
MISTAKES = [
    pytest.param(task, mistake, marks=[pytest.mark.long] if mistake.common and task.number != "7.2" else [])
    for task in TASKS
    for mistake in task.mistakes
]


def notebook_of(folder, lesson):
    [path] = (ROOT / folder).glob(f"{lesson}_*.ipynb")
    return path


@pytest.mark.parametrize("lesson", LESSONS)
def test_three_to_five_tasks_and_a_hundred_points(lesson):
    assert 3 <= len(tasks(lesson)) <= 5 and sum(task.points for task in tasks(lesson).values()) == 100
    assert all(number.startswith(f"{int(lesson)}.") for number in tasks(lesson))
    assert all(len(task.mistakes) >= 5 for task in tasks(lesson).values())


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_solution_earns_everything_and_the_stub_nothing(lesson):
    solved, stub = (grade_notebook(notebook_of(folder, lesson), seed=3) for folder in ("solutions", "exercises"))
    assert (solved.points, stub.points) == (100, 0) and not solved.trouble and not stub.trouble
    assert {result.status for result in stub.results} == {"not attempted"}


@pytest.mark.parametrize("seed", [0, pytest.param(2026, marks=pytest.mark.long)])
@pytest.mark.parametrize(("task", "mistake"), MISTAKES, ids=lambda value: getattr(value, "number", None) or value.name.replace(" ", "_"))
def test_each_known_mistake_fails_and_is_named(task, mistake, seed):
    result = judge(task, mistake.wrong, seed)
    assert result.status == "failed" and result.points < result.out_of
    assert result.mistake == mistake.name, str(result)
    assert result.failing_case and result.difference


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_task_has_its_hints_its_facts_and_its_check(lesson):
    cells = nbformat.read(notebook_of("exercises", lesson), as_version=4).cells
    text = "\n".join(cell.source for cell in cells)
    for task in tasks(lesson).values():
        assert f"## {task.number} " in text and f'check("{task.number}", {task.function})' in text
        section = text.split(f"## {task.number} ")[1].split("\n## ")[0]
        assert f"*{task.points} points · difficulty " in section and "importance " in section and " minutes · about " in section
        assert "Hint 1" in section and "Hint 2" in section
        assert {mistake.hint for mistake in task.mistakes} <= {1, 2}


def test_numbers_of_no_dimension_are_numbers_and_whole_ones_are_written_so():
    assert compare.number(np.array(6.0), 6) == compare.number(torch.tensor(6), 6) == compare.number(6.0, 6) == ""
    assert compare.number(120_000.0, 60_000, " bytes") == "you have 120,000 bytes, expected 60,000 bytes; the ratio is 2"
    assert compare.number(np.array([6.0]), 6) == "return a number; got ndarray"


def test_a_wrong_matrix_is_drawn_where_it_is_wrong():
    from flashlab.course.checks import lesson_01

    causal = tasks("01")["1.3"]

    def wrong_in_the_last_of_seven_rows(Q, K, V):
        out = lesson_01.causal_attention(Q, K, V)
        return np.where((np.arange(len(Q)) == 6)[:, None], 0.0, out)

    result = judge(causal, wrong_in_the_last_of_seven_rows)
    assert len(result.heat) == 7 and len(result.heat[0]) == 16
    assert set(map(max, result.heat[:6])) == {0.0} and max(result.heat[6]) == 1.0
    assert "16 of 112 fields of the matrix are wrong" in result._repr_mimebundle_()["text/html"]
    assert "<table" not in judge(causal, lambda Q, K, V: 5)._repr_mimebundle_()["text/html"]


def test_a_task_that_needs_an_unfinished_one_says_so():
    def softmax(scores):
        raise NotImplementedError

    def attention(Q, K, V):
        return softmax(Q @ K.T) @ V

    result = judge(tasks("01")["1.2"], attention)
    assert result.status == "failed" and "it calls softmax, which is not written yet: do task 1.1 first" in str(result)


def test_slips_of_the_pen_are_answered_in_words():
    attend = tasks("01")["1.2"]
    assert "is a return missing?" in str(judge(attend, lambda *_: None))
    assert "return out alone; got a tuple of 2" in str(judge(attend, lambda Q, K, V: (V, V)))
    assert "made of str" in str(judge(tasks("01")["1.1"], lambda scores: scores.astype(str)))
    assert "what came in is float64" in str(judge(tasks("01")["1.1"], lambda scores: naive.softmax(scores).astype(np.float32)))
    assert "nothing was written to Out" in str(judge(tasks("04")["4.3"], lambda *_: None))


def test_an_answer_of_another_kind_is_judged_in_words():
    for answer in ([["a", "b", "c"]], {"out": np.ones((1, 3))}, [{}], np.array([["a", "b", "c"]]), object()):
        assert judge(tasks("01")["1.1"], lambda _, answer=answer: answer).status == "failed"
        assert judge(tasks("14")["14.3"], lambda *_, answer=answer: answer).status == "failed"


def test_an_attempt_spoils_no_case_for_another():
    """Cases are kept: what one attempt does to its dicts and lists, the next must not meet."""
    speed, drift = tasks("14")["14.3"], tasks("14")["14.4"]

    def empties(before, after, band):
        after.clear()
        return []

    def appends(losses, reference, bound):
        losses.append(float("nan"))
        return None

    assert "changed what it was given" in str(judge(speed, empties)) and "changed what it was given" in str(judge(drift, appends))
    assert judge(speed, lesson_14_mistakes.worse).status == judge(drift, lesson_14_mistakes.drifted).status == "passed"


def test_a_guard_that_raises_is_told_to_return():
    def guard(attend):
        raise AssertionError

    assert "your guard raised an AssertionError: return False instead" in str(judge(tasks("14")["14.1"], guard))


def test_the_courses_own_answer_is_nobody_elses():
    from flashlab.course import check
    from flashlab.course.steps import online, tiled

    def softmax(scores):
        return naive.softmax(scores)

    def shifted(scores):
        return np.apply_along_axis(lambda row: naive.softmax(row[None])[0], 1, scores)

    for attempt in (naive.softmax, softmax, shifted):
        result = check("1.1", attempt)
        assert (result.status, result.points) == ("failed", 0) and "flashlab's own" in str(result), attempt
    assert "steps.tiled.tiles" in str(check("4.1", lambda length, block: tiled.tiles(length, block)))
    assert "steps.online.update" in str(check("3.2", lambda *state: online.update(*state)))


def test_the_courses_own_kernel_is_nobody_elses():
    from flashlab.course import check
    from flashlab.course.checks import lesson_06_mistakes

    assert "checks.lesson_06_mistakes._matmul" in str(check("6.3", lesson_06_mistakes._matmul))
