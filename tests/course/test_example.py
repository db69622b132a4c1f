"""Examples in exercises: a line of the learner's own, and what comes of it; never an exception."""

import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

import flashlab.course
from flashlab.course import example
from flashlab.course.grading import LESSONS, tasks

ROOT = Path(__file__).resolve().parents[2]


def code_of(folder, lesson):
    """The code cells of a notebook, without its set-up."""
    [path] = (ROOT / folder).glob(f"{lesson}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code" and "setup()" not in cell.source]


def printed(folder, lesson, monkeypatch, capsys):
    """What the examples of a notebook print."""
    monkeypatch.setattr(flashlab.course, "check", lambda *_: None)
    shell = InteractiveShell()  # gives kernels a source that Triton finds
    for source in code_of(folder, lesson):
        assert shell.run_cell(source, silent=True).success
    return capsys.readouterr().out


def bare(lines):
    """Numbers and names, whatever stands between them."""
    return re.sub(r"[,\s]", "", "".join(lines))


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_task_has_an_example_that_runs(lesson, monkeypatch, capsys):
    if lesson in ("06", "07", "08", "12"):
        pytest.importorskip("triton")
    solved = printed("solutions", lesson, monkeypatch, capsys)
    stub = printed("exercises", lesson, monkeypatch, capsys)
    for task in tasks(lesson).values():
        assert f"\n{task.function}(" in f"\n{solved}" or f"\n{task.function}[" in f"\n{solved}"
        assert f"→ {task.function} is not written yet" in stub
    promised = re.findall(r"# gives (.*)", "\n".join(code_of("exercises", lesson)))
    given = [line.removeprefix("→ ") for line in solved.splitlines() if line.startswith(("→ ", " "))]
    assert len(promised) == len(tasks(lesson)) and bare(promised) == bare(given)
    assert "Error" not in solved and "not written" not in solved and "nan" not in solved


def test_what_goes_wrong_is_said_in_a_line(capsys):
    def halve(x):
        return x / y  # noqa: F821

    example(halve, [1.0])
    assert capsys.readouterr().out == "halve([1.0])\n→ NameError: name 'y' is not defined\n"


def test_outputs_are_named_and_parts_stand_apart(capsys):
    def fill(X, Out, n):
        Out[:] = X * n

    def both(state):
        return state[0] + 1, state[1]

    example(fill, [1.0, 2.0], (2,), 3)
    example(both, ([1.0], [2.0]))
    example(lambda pair: pair, ((1, 2), (3, 4)))
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["fill([1.0, 2.0], an output, 3)", "→ Out = [3. 6.]"]
    assert told[3:5] == ["→ [2.]", "→ [2.]"] and told[6] == "→ ((1, 2), (3, 4))"


def test_a_helper_that_is_not_written_is_named(capsys):
    def softmax(scores):
        raise NotImplementedError

    def attention(Q):
        return softmax(Q)

    example(attention, [[1.0]])
    assert "→ softmax is not written yet" in capsys.readouterr().out


def test_a_function_without_return_or_yield_is_told(capsys):
    example(lambda x: None, 3)
    assert "→ None: nothing is returned, and nothing is yielded" in capsys.readouterr().out


def test_numbers_of_numpy_are_shown_as_numbers(capsys):
    example(lambda x: (x.max(), 2.5), [1, 5])
    assert capsys.readouterr().out.endswith("→ (5, 2.5)\n")
