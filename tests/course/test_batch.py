"""Many submissions at a time: the good, the broken and the hostile, each with its own line, and nothing graded twice."""

import csv
import json
import shutil
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

from flashlab.course import batch

ROOT = Path(__file__).resolve().parents[2]
NAME = "02_memory_wall.ipynb"


def submission(folder, student, *cells):
    """A solution of exercise 02 with cells in front of it."""
    notebook = nbformat.read(ROOT / "solutions" / NAME, as_version=4)
    notebook.cells[:0] = [nbformat.v4.new_code_cell(cell) for cell in cells]
    path = folder / student / NAME
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def classroom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    submission(folder, "ann")
    submission(folder, "bob", "import os\nos._exit(3)")
    submission(folder, "cy", "while True:\n    pass")
    submission(folder, "dee", "hoard = bytearray(50 * 2**30)")
    submission(folder, "eve", "import sys\nsys.exit()")
    submission(folder, "flo", "from flashlab.course import grading\ngrading.judge = lambda *_: 5 / 0")
    (folder / "gus").mkdir()
    (folder / "gus" / NAME).write_text("{ half of a note")
    (folder / "hal").mkdir()
    shutil.copy(ROOT / "solutions" / NAME, folder / "hal" / "my answers.ipynb")
    shutil.copytree(folder / "ann", folder / "ann" / ".ipynb_checkpoints")
    return folder


@pytest.fixture(scope="module")
def graded(classroom, tmp_path_factory):
    reports = tmp_path_factory.mktemp("reports")
    found = batch.submissions(classroom, None)
    grades = dict(batch.grade_all(found, reports, workers=2, seconds=12))
    batch.write_summary(grades, reports)
    return grades, reports


def test_every_submission_has_its_line_and_its_reason(graded):
    grades, _ = graded
    names = {name.split("-")[0]: grade for name, grade in grades.items()}
    assert sorted(names) == ["ann", "bob", "cy", "dee", "eve", "flo", "gus", "hal"]
    assert {student: grade.points for student, grade in names.items() if grade.points} == {"ann": 100, "dee": 100, "eve": 100}
    assert "its process died" in names["bob"].trouble
    assert "more than 12 seconds" in names["cy"].trouble
    assert "gave no answer" in names["flo"].trouble
    assert "not a notebook that can be read" in names["gus"].trouble
    assert "the name of an exercise begins with its lesson" in names["hal"].trouble


def test_reports_say_what_the_grades_are(graded):
    grades, reports = graded
    rows = list(csv.DictReader((reports / "grades.csv").open(encoding="utf-8")))
    assert {row["submission"]: int(row["points"]) for row in rows} == {name: grade.points for name, grade in grades.items()}
    ann = json.loads((reports / "ann-02_memory_wall.json").read_text(encoding="utf-8"))
    assert ann["points"] == 100 and ann["seed"] == 0 and len(ann["sha256"]) == 64
    suites = ElementTree.parse(reports / "grades.xml").getroot()
    assert len(suites) == len(grades) and {case.get("classname") for case in suites.iter("testcase")} == set(grades)
    assert len(suites.findall(".//error")) == sum(bool(grade.trouble) for grade in grades.values())


def test_run_again_only_what_is_new_is_graded(graded, classroom, monkeypatch):
    grades, reports = graded
    monkeypatch.setattr(batch, "_grade", lambda *_: pytest.fail("nothing is left to grade"))
    found = batch.submissions(classroom, None)
    again = dict(batch.grade_all(found, reports))
    assert {name: json.dumps(grade.as_dict()) for name, grade in again.items()} == {
        name: json.dumps(grade.as_dict()) for name, grade in grades.items()
    }
    assert batch._kept(reports / "ann-02_memory_wall.json", found["ann-02_memory_wall"], seed=1) is None
    assert batch._kept(reports / "ann-02_memory_wall.json", found["bob-02_memory_wall"], seed=0) is None


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
