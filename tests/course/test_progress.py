"""What a learner has reached: kept, never made worse, carried from machine to machine, and never lost."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from flashlab.course import check, progress
from flashlab.course.checks.task import Result
from flashlab.course.grading import LESSONS


def softmax(scores):
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHLAB_PROGRESS", str(tmp_path / "home" / "progress.json"))
    return tmp_path / "home" / "progress.json"


def result(number="1.1", status="passed", points=20):
    return Result(number, "a task", status, points, 20)


def test_a_check_is_remembered_and_a_worse_one_changes_nothing(kept):
    check("1.1", lambda scores: scores)
    assert progress.read()["1.1"].status == "failed"
    check("1.1", softmax)
    check("1.1", lambda scores: scores)
    standing = progress.read()["1.1"]
    assert (standing.status, standing.points, standing.attempts) == ("passed", 20, 3) and standing.first <= standing.last
    assert len(kept.read_text(encoding="utf-8")) < 400  # small


def test_what_was_not_attempted_leaves_no_trace(kept):
    def softmax(scores):
        raise NotImplementedError

    check("1.1", softmax)
    assert not kept.exists() and progress.read() == {}


def test_it_comes_back_from_another_machine_and_the_better_is_kept(kept, tmp_path, monkeypatch):
    progress.record(result("1.1", "passed", 20))
    progress.record(result("1.2", "failed", 5))
    brought = tmp_path / "downloaded.json"
    kept.rename(brought)
    progress.record(result("1.2", "passed", 20))
    progress.record(result("1.3", "failed", 7))
    for _ in range(2):  # twice is once
        progress.restore(brought)
    found = progress.read()
    assert {number: (s.status, s.points, s.attempts) for number, s in found.items()} == {
        "1.1": ("passed", 20, 1), "1.2": ("passed", 20, 1), "1.3": ("failed", 7, 1),
    }  # fmt: skip
    assert brought.exists()


@pytest.mark.parametrize("content", ["{ half", "[]", '{"format": 99, "tasks": {}}', '{"format": 1, "tasks": {"1.1": {"colour": 3}}}'])
def test_a_file_that_cannot_be_read_is_kept_beside(content, kept):
    kept.parent.mkdir()
    kept.write_text(content)
    with pytest.raises(ValueError, match="cannot be read as flashlab's progress"):
        progress.read()
    progress.record(result())
    assert progress.read()["1.1"].points == 20
    [aside] = kept.parent.glob("*.unreadable-*")
    assert aside.read_text() == content


def test_many_notebooks_at_once_lose_nothing():
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: progress.record(result(f"1.{n}")), range(40)))
    assert len(progress.read()) == 40


def test_a_disk_that_cannot_be_written_stops_no_check(monkeypatch, tmp_path):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("FLASHLAB_PROGRESS", str(tmp_path / "a file" / "progress.json"))
    assert check("1.1", softmax).status == "passed"


def test_the_command_shows_restores_and_draws(kept, tmp_path):
    progress.record(result("3.1", "passed", 20))

    def run(*options):
        return subprocess.run([sys.executable, "-m", "flashlab", "progress", *options], capture_output=True, text=True, encoding="utf-8")

    shown = run("--picture", str(tmp_path / "progress.png"))
    assert "03" in shown.stdout and "20 / 100" in shown.stdout and "●" in shown.stdout, shown.stderr
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")
    refused = run("--restore", str(tmp_path / "nowhere.json"))
    assert refused.returncode == 2 and "does not exist" in refused.stderr
    (tmp_path / "old.json").write_text(json.dumps({"format": 1, "tasks": {"3.2": {"status": "passed", "points": 30, "out_of": 30}}}))
    assert "50 / 100" in run("--restore", str(tmp_path / "old.json")).stdout


def test_without_progress_there_is_nothing_to_download(kept, capsys):
    progress.download()
    assert "there is no progress yet" in capsys.readouterr().out
    progress.record(result())
    progress.download()
    assert str(kept) in capsys.readouterr().out


def test_every_exercise_has_its_row():
    lessons = progress.by_lesson({})
    assert list(lessons) == list(LESSONS)
    assert all(sum(task.out_of for task in tasks) == 100 for tasks in lessons.values())
    assert progress.show().alt == f"0 of {sum(map(len, lessons.values()))} tasks are done."
