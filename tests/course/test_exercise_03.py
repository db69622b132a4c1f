"""The exercise path: full marks for the solution, nothing for the stub, and each planted mistake named."""

import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from flashlab.course import check
from flashlab.course.grading import judge, tasks
from flashlab.course.reports import write_report
from flashlab.course.submission import grade_notebook

ROOT = Path(__file__).resolve().parents[2]
NAME = "03_online_softmax.ipynb"

# What people write, as they write it. Each is (task, expected name of the mistake, source).
WRONG = [
    ("3.1", "no maximum", "def chunk_state(s, v):\n    p = np.exp(s)\n    return np.zeros(len(s)), p.sum(1), p @ v"),
    ("3.1", "one maximum for all rows",
     "def chunk_state(s, v):\n    m = s.max()\n    p = np.exp(s - m)\n    return np.full(len(s), m), p.sum(1), p @ v"),
    ("3.1", "divided too early",
     "def chunk_state(s, v):\n    m = s.max(1)\n    p = np.exp(s - m[:, None])\n    l = p.sum(1)\n    return m, l, (p / l[:, None]) @ v"),
    ("3.1", "a column for each row",
     "def chunk_state(s, v):\n    m = s.max(1, keepdims=True)\n    p = np.exp(s - m)\n    return m, p.sum(1, keepdims=True), p @ v"),
    ("3.1", "values not weighted",
     "def chunk_state(s, v):\n    m = s.max(1)\n    l = np.exp(s - m[:, None]).sum(1)\n    return m, l, np.tile(v.sum(0), (len(s), 1))"),
    ("3.2", "no rescale",
     "def update(m, l, acc, s, v):\n    n = np.maximum(m, s.max(1))\n    z = np.where(np.isinf(n), 0, n)\n    p = np.exp(s - z[:, None])\n"
     "    return n, l + p.sum(1), acc + p @ v"),
    ("3.2", "acc not rescaled",
     "def update(m, l, acc, s, v):\n    n = np.maximum(m, s.max(1))\n    z = np.where(np.isinf(n), 0, n)\n    p = np.exp(s - z[:, None])\n"
     "    return n, l * np.exp(m - z) + p.sum(1), acc + p @ v"),
    ("3.2", "rescale inverted",
     "def update(m, l, acc, s, v):\n    n = np.maximum(m, s.max(1))\n    z = np.where(np.isinf(n), 0, n)\n    p = np.exp(s - z[:, None])\n"
     "    r = np.exp(z - m)\n    return n, l * r + p.sum(1), acc * r[:, None] + p @ v"),
    ("3.2", "forgets the old maximum",
     "def update(m, l, acc, s, v):\n    n = s.max(1)\n    z = np.where(np.isinf(n), 0, n)\n    p = np.exp(s - z[:, None])\n"
     "    r = np.exp(m - z)\n    return n, l * r + p.sum(1), acc * r[:, None] + p @ v"),
    ("3.2", "NaN for rows that saw nothing",
     "def update(m, l, acc, s, v):\n    n = np.maximum(m, s.max(1))\n    p = np.exp(s - n[:, None])\n"
     "    r = np.exp(m - n)\n    return n, l * r + p.sum(1), acc * r[:, None] + p @ v"),
    ("3.3", "no rescale", "def merge(a, b):\n    return np.maximum(a[0], b[0]), a[1] + b[1], a[2] + b[2]"),
    ("3.3", "acc not rescaled",
     "def merge(a, b):\n    m = np.maximum(a[0], b[0])\n    z = np.where(np.isinf(m), 0, m)\n"
     "    return m, a[1] * np.exp(a[0] - z) + b[1] * np.exp(b[0] - z), a[2] + b[2]"),
    ("3.3", "factors swapped",
     "def merge(a, b):\n    m = np.maximum(a[0], b[0])\n    z = np.where(np.isinf(m), 0, m)\n    x, y = np.exp(b[0] - z), "
     "np.exp(a[0] - z)\n"
     "    return m, a[1] * x + b[1] * y, a[2] * x[:, None] + b[2] * y[:, None]"),
    ("3.4", "accepts every merge", "def merge_is_right(merge):\n    return True"),
    ("3.4", "rejects every merge", "def merge_is_right(merge):\n    return False"),
    ("3.4", "associative is not enough",
     "def merge_is_right(merge):\n    s = lambda x: (np.array([x]), np.array([1.0]), np.array([[2.0]]))\n    a, b, c = "
     "s(0.0), s(9.0), s(4.0)\n"
     "    return all(np.allclose(x, y) for x, y in zip(merge(merge(a, b), c), merge(a, merge(b, c))))"),
    ("3.4", "acc is not compared",
     "def merge_is_right(merge):\n    x, y = np.array([[1.0, 5.0]]), np.array([[3.0]])\n    def state(s):\n        m = s.max(1)\n"
     "        p = np.exp(s - m[:, None])\n        return m, p.sum(1), p @ np.ones((s.shape[1], 2))\n"
     "    both = state(np.hstack([x, y]))\n"
     "    return all(np.allclose(merge(a, b)[:2], both[:2]) for a, b in ((state(x), state(y)), (state(y), state(x))))"),
    ("3.4", "the second side is always larger",
     "def merge_is_right(merge):\n    x, y = np.array([[1.0, 2.0]]), np.array([[30.0]])\n    def state(s):\n        m = s.max(1)\n"
     "        p = np.exp(s - m[:, None])\n        return m, p.sum(1), p @ np.ones((s.shape[1], 2))\n"
     "    return all(np.allclose(p, q) for p, q in zip(merge(state(x), state(y)), state(np.hstack([x, y]))))"),
]  # fmt: skip


def solution_cells():
    """Function name → the source of its cell in the solution."""
    notebook = nbformat.read(ROOT / "solutions" / NAME, as_version=4)
    return {
        name: cell.source
        for cell in notebook.cells
        for name in [cell.source.split("(")[0].removeprefix("def ")]
        if cell.source.startswith("def ")
    }


def defined(source):
    namespace = {"np": np, "check": lambda *_: None, "example": lambda *_: None}
    exec(source, namespace)
    return next(
        value for name, value in namespace.items() if callable(value) and name not in ("check", "example") and not name.startswith("__")
    )


@pytest.mark.parametrize(
    ("number", "mistake", "source"), WRONG, ids=lambda value: value if isinstance(value, str) and len(value) < 40 else ""
)
@pytest.mark.parametrize("seed", [0, 7])
def test_each_planted_mistake_fails_and_is_named(number, mistake, source, seed):
    result = judge(tasks("03")[number], defined(source), seed)
    assert result.status == "failed" and result.points < result.out_of
    assert result.mistake == mistake, str(result)
    assert "Hint" in result.advice and result.failing_case and result.difference


@pytest.mark.parametrize("seed", range(5))
def test_the_solution_passes_whatever_the_seed(seed):
    namespace = {"check": lambda *_: None, "example": lambda *_: None}
    exec("import numpy as np", namespace)
    for source in solution_cells().values():
        exec(source, namespace)
    for task in tasks("03").values():
        result = judge(task, namespace[task.function], seed)
        assert result.status == "passed" and result.points == task.points, str(result)


def test_points_add_up_to_a_hundred():
    assert sum(task.points for task in tasks("03").values()) == 100


def test_not_attempted_is_not_wrong():
    def update(m, l, acc, scores, values):
        raise NotImplementedError

    result = check("3.2", update)
    assert result.status == "not attempted" and result.points == 0 and "not attempted" in str(result)


def test_whatever_an_attempt_does_a_result_comes_back():
    def changes_its_input(m, l, acc, scores, values):
        l *= 2
        return m, l, acc

    assert "changed what it was given" in str(check("3.2", changes_its_input))
    assert "define it as a function" in str(check("3.2", 5))
    assert "return three things" in str(check("3.2", lambda *arguments: None))
    assert "ZeroDivisionError" in str(check("3.2", lambda *arguments: 1 / 0))
    assert "shape" in str(check("3.2", lambda m, l, acc, s, v: (np.maximum(m, s.max(1))[:, None], l, acc)))
    assert "return True or False" in str(check("3.4", lambda merge: "yes"))


def test_unknown_tasks_are_refused_with_what_exists():
    with pytest.raises(ValueError, match=r"3\.1, 3\.2, 3\.3, 3\.4"):
        check("3.9", len)
    with pytest.raises(ValueError, match="03"):
        check("77.1", len)


def test_results_show_as_html_and_as_text():
    bundle = check("3.2", lambda *arguments: None)._repr_mimebundle_()
    assert bundle["text/plain"].startswith("✗ 3.2 update") and "<pre" in bundle["text/html"]


def test_grade_gives_the_untouched_stub_zero_as_not_attempted(tmp_path):
    before = (ROOT / "exercises" / NAME).read_bytes()
    command = [sys.executable, "-m", "flashlab", "grade", str(ROOT / "exercises" / NAME), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "03_online_softmax.md").read_text(encoding="utf-8")
    assert "0 / 100 points" in report and report.count("not attempted |") == 4
    assert (ROOT / "exercises" / NAME).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"03_online_softmax.{kind}" for kind in ("html", "json", "md")]


def test_grade_names_the_mistakes_in_a_whole_notebook_and_survives_a_broken_cell(tmp_path):
    notebook = nbformat.read(ROOT / "exercises" / NAME, as_version=4)
    wrong = {source.split("(")[0].removeprefix("def "): source for _, _, source in WRONG}  # the last of each function
    for cell in notebook.cells:
        for function, source in wrong.items():
            if cell.source.startswith(f"def {function}("):
                cell.source = source
    notebook.cells.insert(3, nbformat.v4.new_code_cell("this is not Python"))
    path = tmp_path / NAME
    nbformat.write(notebook, path)
    grade = grade_notebook(path)
    assert [result.status for result in grade.results] == ["failed"] * 4 and grade.points < 100
    assert [result.mistake for result in grade.results] == [
        "values not weighted",
        "NaN for rows that saw nothing",
        "factors swapped",
        "the second side is always larger",
    ]
    assert '"mistake": "factors swapped"' in write_report(grade, tmp_path / "out")[0].read_text()


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [("notes.ipynb", "{}", "03"), ("03_x.ipynb", "{broken", "cannot|can be read"), ("03_gone.ipynb", None, "not a file")],
)
def test_what_cannot_be_graded_is_refused_with_a_reason(tmp_path, name, content, word):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=word):
        grade_notebook(tmp_path / name)
