"""Exercises in Triton on a GPU: the solution earns everything there too, and what is wrong is named where a GPU shows it."""

import pytest

from flashlab.course.grading import judge, tasks
from tests.course.test_exercises import notebook_of

LESSONS = ("06", "07", "08")
MISTAKES = [(task, mistake) for lesson in LESSONS for task in tasks(lesson).values() for mistake in task.mistakes]


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_solution_earns_everything_and_the_stub_nothing(lesson):
    from flashlab.course.submission import grade_notebook

    solved, stub = (grade_notebook(notebook_of(folder, lesson), seed=3) for folder in ("solutions", "exercises"))
    assert (solved.points, stub.points) == (100, 0) and not solved.trouble and not stub.trouble
    assert {result.status for result in stub.results} == {"not attempted"}


@pytest.mark.parametrize(("task", "mistake"), MISTAKES, ids=lambda value: getattr(value, "number", None) or value.name.replace(" ", "_"))
def test_each_known_mistake_is_named_or_only_loads_too_much(task, mistake):
    result = judge(task, mistake.wrong)
    assert result.status == "failed" and result.mistake == mistake.name, str(result)
