"""Where grades go: Gradescope, GitHub Classroom, and an instructor's own cases."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flashlab.cli import _app
from flashlab.course import autograder, extra_cases, reports
from flashlab.course.checks.task import FAILED, NOT_ATTEMPTED, PASSED, Result
from flashlab.course.submission import Grade
from flashlab.files import write_whole

ROOT = Path(__file__).resolve().parents[2]
GRADES = {
    "03_online_softmax": Grade(
        "03_online_softmax.ipynb",
        "03",
        (
            Result("3.1", "Start", PASSED, 20, 20),
            Result(
                "3.2", "Update", FAILED, 5, 30, "2 rows", "row 1 is <b>twice</b>", "no rescale", "likely: …", heat=((0.0, 1.0), (0.5, 0.0))
            ),
            Result("3.3", "Finish", NOT_ATTEMPTED, 0, 50),
        ),
        "code cell 4 was left out: its process died",
    )
}


def test_gradescope_reads_points_and_reasons():
    told = reports.as_gradescope(GRADES)
    assert told["score"] == 25 and "code cell 4 was left out" in told["output"]
    assert [(test["score"], test["max_score"], test["status"]) for test in told["tests"]] == [
        (20, 20, "passed"),
        (5, 30, "failed"),
        (0, 50, "failed"),
    ]
    assert "row 1 is" in told["tests"][1]["output"]


def test_classroom_reads_points_and_reasons():
    told = reports.as_classroom(GRADES)
    assert (told["version"], told["status"], told["max_score"]) == (1, "fail", 100)
    assert [(test["status"], test["score"]) for test in told["tests"]] == [("pass", 20), ("fail", 5), ("fail", 0)]


def test_the_page_is_text_where_a_submission_wrote_html():
    page = reports.as_html(GRADES)
    assert "<b>twice" not in page and "&lt;b&gt;twice" in page
    assert "http" not in page and "src=" not in page


def test_a_report_is_whole_or_as_it_was(tmp_path, monkeypatch):
    write_whole(tmp_path / "grades.csv", "before")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        write_whole(tmp_path / "grades.csv", "after")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("grades.csv", "before")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def cases_1_1(rng:", "cannot be run"),
        ("import nowhere_to_be_found", "cannot be run"),
        ("def cases(rng):\n    return []", "has no cases"),
        ("def cases_1_77(rng):\n    return []", "has cases for task 1.77, which does not exist"),
        ("def cases_77_1(rng):\n    return []", "has cases for task 77.1, which does not exist"),
    ],
)
def test_a_file_of_cases_that_cannot_be_used_is_refused(text, words, tmp_path):
    (tmp_path / "cases.py").write_text(text)
    with pytest.raises(ValueError, match=words) as refusal:
        extra_cases.examine(tmp_path / "cases.py")
    assert "cases_3_1(rng)" in str(refusal.value)


def test_a_file_of_cases_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be run"):
        extra_cases.examine(tmp_path / "cases.py")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The autograder of exercise 02, unpacked as Gradescope does, with this flashlab in place of the one that setup.sh installs."""
    folder = tmp_path_factory.mktemp("autograder")
    (folder / "cases.py").write_text("def cases_2_1(rng):\n    return []\n")
    archive = autograder.write(["02"], folder / "autograder.zip", seed=7, cases=folder / "cases.py")
    with zipfile.ZipFile(archive) as opened:
        assert sorted(opened.namelist()) == ["cases.py", "run_autograder", "setup.sh"]
        assert all(member.external_attr >> 16 & 0o111 for member in opened.infolist())
        opened.extractall(folder / "source")
    for script in ("setup.sh", "run_autograder"):
        subprocess.run(["bash", "-n", folder / "source" / script], check=True)
    assert "git+https://github.com/flashlab-course/flashlab" in (folder / "source" / "setup.sh").read_text()
    (folder / "venv" / "bin").mkdir(parents=True)
    command = folder / "venv" / "bin" / "flashlab"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m flashlab "$@"\n')
    command.chmod(0o755)
    (folder / "results").mkdir()
    return folder


def run_autograder(folder, *handed_in):
    script = (folder / "source" / "run_autograder").read_text().replace("/autograder/", f"{folder}/")
    submission = folder / "submission"
    submission.mkdir(exist_ok=True)
    for path in handed_in:
        (submission / path.name).write_bytes(path.read_bytes())
    subprocess.run(["bash", "-c", script], check=True, cwd=ROOT, capture_output=True, timeout=500)
    return json.loads((folder / "results" / "results.json").read_text())


@pytest.mark.skipif(sys.platform == "win32", reason="Gradescope runs Linux")
def test_the_autograder_grades_what_is_handed_in_and_says_what_is_missing(packed):
    nothing = run_autograder(packed, ROOT / "exercises" / "01_naive_attention.ipynb")
    assert nothing["score"] == 0 and "Hand in: 02_" in nothing["output"]
    told = run_autograder(packed, ROOT / "solutions" / "02_memory_wall.ipynb")
    assert told["score"] == 100 and all(test["status"] == "passed" for test in told["tests"])


@pytest.mark.parametrize("lessons", [["77"], ["3"], []])
def test_an_autograder_for_no_exercise_is_refused(lessons, tmp_path):
    with pytest.raises(ValueError, match="there is no exercise"):
        autograder.write(lessons, tmp_path / "autograder.zip")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_an_autograder(tmp_path):
    written = CliRunner().invoke(_app(), ["autograder", "03", "04", "--out", str(tmp_path / "a.zip")])
    assert written.exit_code == 0 and (tmp_path / "a.zip").is_file()
    refused = CliRunner().invoke(_app(), ["autograder", "77", "--out", str(tmp_path / "b.zip")])
    assert refused.exit_code == 2 and "there is no exercise '77'" in " ".join(refused.output.split())


def test_classrooms_workflow_hands_the_results_to_the_reporter():
    workflow = yaml.safe_load((ROOT / "exercises" / ".github" / "workflows" / "classroom.yml").read_text())
    steps = workflow["jobs"]["autograding"]["steps"]
    install, grading, reporting = (step for step in steps if "run" in step or "reporter" in step.get("uses", ""))
    assert "git+https://github.com/flashlab-course/flashlab" in install["run"]
    for option in ("--classroom", "--out", "--seed"):
        assert option in grading["run"]
    runner = reporting["with"]["runners"]
    assert reporting["env"] == {f"{runner.upper()}_RESULTS": f"${{{{ steps.{grading['id']}.outputs.result }}}}"}
    subprocess.run(["bash", "-n", "-c", grading["run"]], check=True)
