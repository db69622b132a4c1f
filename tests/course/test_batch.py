"""Many submissions at a time: the good, the broken and the hostile, each with its own line, and nothing graded twice."""

import csv
import json
import shutil
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import nbformat
import psutil
import pytest

from flashlab.course import batch
from flashlab.course.grading import tasks
from flashlab.course.reports import write_summary
from flashlab.course.submission import grade_notebook

ROOT = Path(__file__).resolve().parents[2]
NAME = "02_memory_wall.ipynb"


def submission(folder, student, *cells):
    """A solution of exercise 02 with cells in front of it."""
    notebook = nbformat.read(ROOT / "solutions" / NAME, as_version=4)
    notebook.cells[:0] = [nbformat.v4.new_code_cell(cell) for cell in cells]
    path = folder / student / NAME
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)


FORKS = "import os\nwhile True:\n    os.fork()"
BOMB = "import subprocess, sys\nwhile True:\n    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1234)'], stdout=-3)"
TALKS = "line = 'x' * 2**20\nfor _ in range(1024):\n    print(line)"
HANGS = "while True:\n    pass"
SPOILED = """def _changed(*arguments, **named):
    return 5 / 0
import numpy as np
from flashlab.course import grading
from flashlab.course.checks.task import Task
np.isclose = grading.judge = grading._judge_case = Task.__eq__ = _changed"""
CLASS = {
    "ann": (),
    "bob": ("import os\nos._exit(3)",),
    "cy": (HANGS,),
    "dee": ("hoard = bytearray(50 * 2**30)",),
    "eve": ("import sys\nsys.exit()",),
    "flo": (SPOILED,),
    "ida": (FORKS,),
    "jan": (TALKS,),
    "kim": (BOMB,),
}


@pytest.fixture(scope="module")
def classroom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    for student, cells in CLASS.items():
        submission(folder, student, *cells)
    (folder / "gus").mkdir()
    (folder / "gus" / NAME).write_text("{ half of a note")
    (folder / "hal").mkdir()
    shutil.copy(ROOT / "solutions" / NAME, folder / "hal" / "my answers.ipynb")
    shutil.copytree(folder / "ann", folder / "ann" / ".ipynb_checkpoints")
    submission(folder, "lea", LEAVES_A_TRACE.format(folder / "trace"))
    return folder


LEAVES_A_TRACE = """import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(123.4); open({!r}, 'w')"], start_new_session=True)"""


@pytest.fixture(scope="module")
def graded(classroom, tmp_path_factory):
    reports = tmp_path_factory.mktemp("reports")
    found = batch.submissions(classroom, None)
    grades = dict(batch.grade_all(found, reports, workers=2, seconds=15))
    write_summary(grades, reports)
    return grades, reports


def test_every_submission_has_its_line_and_its_reason(graded):
    grades, _ = graded
    names = {name.split("-")[0]: grade for name, grade in grades.items()}
    assert sorted(names) == sorted([*CLASS, "gus", "hal", "lea"])
    assert {student for student, grade in names.items() if grade.points == 100} == {*CLASS, "lea"}
    assert "code cell 1 was left out: its process died" in names["bob"].trouble
    assert "code cell 1 was left out: its process died" in names["kim"].trouble
    assert "code cell 1 was left out: it ran for more than 15 seconds" in names["cy"].trouble
    for replaced in ("numpy.isclose", "flashlab.course.grading.judge"):
        assert replaced in names["flo"].trouble and "the original was put back" in names["flo"].trouble
    assert "not a notebook that can be read" in names["gus"].trouble
    assert "the name of an exercise begins with its lesson" in names["hal"].trouble
    assert not any(names[student].trouble for student in ("ann", "dee", "eve", "ida", "jan", "lea"))


def test_no_process_of_a_submission_outlives_it(graded, classroom):
    left = [process for process in psutil.process_iter() if "time.sleep(123" in " ".join(_command(process))]
    assert not left and not (classroom / "trace").exists()


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def task_cell(name, source):
    """A solution of exercise 02 in which the cell that defines `name` reads `source`."""
    notebook = nbformat.read(ROOT / "solutions" / NAME, as_version=4)
    [cell] = [cell for cell in notebook.cells if f"def {name}(" in cell.source]
    cell.source = source
    return notebook


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def {name}(*_):\n    while True:\n        pass", "while it was judged, it ran for more than 5 seconds"),
        ("def {name}(*_):\n    import os\n    os._exit(1)", "while it was judged, its process died"),
        ("def {name}_2(*_):\n    return 1", "the notebook defines no {name}: is its cell there"),
        ("this is not Python", "the notebook defines no {name}: is its cell there"),
    ],
)
def test_one_task_that_goes_wrong_costs_no_other_its_points(source, words, tmp_path):
    *_, task = tasks("02").values()
    nbformat.write(task_cell(task.function, source.format(name=task.function)), tmp_path / NAME)
    grade = grade_notebook(tmp_path / NAME, seconds=5)
    assert grade.points == 100 - task.points and {result.status for result in grade.results[:-1]} == {"passed"}
    assert words.format(name=task.function) in grade.results[-1].difference


def test_more_cases_come_from_a_file(tmp_path):
    cases = tmp_path / "secret.py"
    cases.write_text(
        "from flashlab.course.checks.task import Case\n"
        "def cases_1_1(rng):\n    return [Case('the secret case', (rng.normal(size=(2, 1234)),))]\n"
    )
    wrong = """
import numpy as np
def softmax(scores):
    p = np.exp(scores - scores.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True) * (2 if scores.shape[1] == 1234 else 1)"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(wrong)])
    nbformat.write(notebook, tmp_path / "01_naive_attention.ipynb")
    passed, failed = (grade_notebook(tmp_path / "01_naive_attention.ipynb", cases=file).results[0] for file in (None, cases))
    assert (passed.status, failed.status) == ("passed", "failed") and failed.failing_case.startswith("the secret case (")
    assert failed.points < failed.out_of


def test_reports_say_what_the_grades_are(graded):
    grades, reports = graded
    rows = list(csv.DictReader((reports / "grades.csv").open(encoding="utf-8")))
    assert {row["submission"]: int(row["points"]) for row in rows} == {name: grade.points for name, grade in grades.items()}
    suites = ElementTree.parse(reports / "grades.xml").getroot()
    assert len(suites) == len(grades) and {case.get("classname") for case in suites.iter("testcase")} == set(grades)
    assert len(suites.findall(".//error")) == sum(bool(grade.trouble) for grade in grades.values())
    page = (reports / "grades.html").read_text(encoding="utf-8")
    assert all(f"{name}: {grade.points} / {grade.out_of} points" in page for name, grade in grades.items())
    assert "src=" not in page and "http" not in page  # it needs no other file


def test_every_json_is_what_the_schema_says(graded):
    grades, reports = graded
    schema = json.loads((ROOT / "flashlab" / "course" / "report.schema.json").read_text(encoding="utf-8"))
    for name, grade in grades.items():
        told = json.loads((reports / f"{name}.json").read_text(encoding="utf-8"))
        jsonschema.validate(told, schema)
        assert told["points"] == grade.points and told["seed"] == 0


def test_run_again_only_what_is_new_is_graded(graded, classroom, monkeypatch):
    grades, reports = graded
    monkeypatch.setattr(batch, "_grade", lambda *_: pytest.fail("nothing is left to grade"))
    found = batch.submissions(classroom, None)
    assert dict(batch.grade_all(found, reports)) == grades
    known = json.loads((reports / "ann-02_memory_wall.json").read_text(encoding="utf-8"))
    known = {name: known[name] for name in ("seed", "cases", "sha256", "flashlab")}
    assert batch._kept(reports / "ann-02_memory_wall.json", known) == grades["ann-02_memory_wall"]
    for other in ({"seed": 1}, {"cases": "0" * 64}, {"sha256": "0" * 64}, {"flashlab": "0.0.0"}):
        assert batch._kept(reports / "ann-02_memory_wall.json", known | other) is None


def test_a_submission_that_writes_into_the_reports_changes_none(tmp_path):
    submission(tmp_path / "class", "ann")
    reports = tmp_path / "reports"
    submission(tmp_path / "class", "zoe", f"import pathlib\nfor p in pathlib.Path({str(reports)!r}).glob('*'):\n    p.write_text('100!')")
    grades = dict(batch.grade_all(batch.submissions(tmp_path / "class", None), reports, workers=1))
    for name, grade in grades.items():
        assert json.loads((reports / f"{name}.json").read_text(encoding="utf-8"))["points"] == grade.points == 100


def test_a_zip_is_unpacked_and_stays_within_its_folder(tmp_path):
    archive = tmp_path / "class.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(ROOT / "exercises" / NAME, f"ann/{NAME}")
        packed.write(ROOT / "exercises" / NAME, f"../../outside/{NAME}")
        packed.writestr("readme.txt", "no notebook")
    found = batch.submissions(archive, tmp_path / "unpacked")
    assert len(found) == 2 and all((tmp_path / "unpacked") in path.parents for path in found.values())
    assert not (tmp_path.parent / "outside").exists()


def test_names_that_would_be_one_stay_two(tmp_path):
    for path in (tmp_path / "a" / NAME, tmp_path / f"a-{NAME}"):
        path.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "exercises" / NAME, path)
    assert len(batch.submissions(tmp_path, None)) == 2


def test_what_holds_no_notebook_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no notebook in"):
        batch.submissions(tmp_path, None)
    (tmp_path / "broken.zip").write_text("no zip")
    with pytest.raises(ValueError, match="is not a zip that can be read"):
        batch.submissions(tmp_path / "broken.zip", tmp_path / "unpacked")
