"""What you have done of the exercises: one small JSON on this machine, which goes nowhere unless you take it along.

It lies in the user's data folder (or where FLASHLAB_PROGRESS says). On Colab the machine is gone when you leave: `download()` saves the
file to your computer, and `restore()` brings it back.
"""

import contextlib
import datetime
import json
import os
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs

from flashlab.course import grading
from flashlab.course.checks.task import FAILED, NOT_ATTEMPTED, PASSED
from flashlab.files import write_whole

FORMAT = 1
ORDER = (NOT_ATTEMPTED, FAILED, PASSED)


@dataclass(frozen=True)
class Standing:
    """The best that was reached in a task. Times are of UTC."""

    number: str
    status: str = NOT_ATTEMPTED
    points: int = 0
    out_of: int = 0
    attempts: int = 0
    first: str = ""
    last: str = ""


def path():
    """Where progress is kept."""
    own = os.environ.get("FLASHLAB_PROGRESS")
    return Path(own) if own else platformdirs.user_data_path("flashlab") / "progress.json"


def record(result):
    """Remember the result of a check, where files can be written. A better one is never replaced by a worse one."""
    if result.status == NOT_ATTEMPTED:
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    new = Standing(result.number, result.status, result.points, result.out_of, 0, now, now)
    with contextlib.suppress(OSError, filelock.Timeout):  # a lesson goes on, also on a disk that is full or not ours
        _change(lambda known: known | {new.number: _better(known.get(new.number, new), new, attempts_more=1)})


def read(file=None):
    """{number: Standing} of every task that was ever attempted.

    Raises:
        ValueError: the file is not one that flashlab has written.
    """
    file = Path(file or path())
    if not file.exists():
        return {}
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']}, and this flashlab knows {FORMAT}: update flashlab")
        return {number: Standing(number, **fields) for number, fields in told["tasks"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} cannot be read as flashlab's progress ({error}).") from error


def restore(file):
    """Add what another progress.json knows: of each task the better is kept.

    Raises:
        ValueError: there is no such file, or it is not one that flashlab has written.
    """
    if not Path(file).exists():
        raise ValueError(f"{file} does not exist. On Colab, upload it first: the folder symbol on the left.")
    brought = read(file)
    _change(lambda known: known | {number: _better(known.get(number, new), new) for number, new in brought.items()})


def download():
    """Save the file to your computer from Colab; elsewhere, say where it lies."""
    if not path().exists():
        print("there is no progress yet: it begins with the first check of a task that you have attempted")
        return
    try:
        from google.colab import files
    except ImportError:
        print(f"your progress is kept in {path()}")
    else:
        files.download(str(path()))


def show():
    """Your progress as a picture. End a cell with it."""
    from flashlab.course.figures import progress as figure
    from flashlab.course.figures.view import show as as_picture

    lessons = by_lesson(read())
    done = sum(task.status == PASSED for tasks in lessons.values() for task in tasks)
    return as_picture(figure.draw(lessons), alt=f"{done} of {sum(map(len, lessons.values()))} tasks are done.")


def by_lesson(known):
    """{lesson: its tasks' Standings} of all exercises, in their order. An exercise that cannot run here has those that are known."""
    return {lesson: _of_lesson(lesson, known) for lesson in grading.LESSONS}


def _of_lesson(lesson, known):
    try:
        tasks = grading.tasks(lesson).values()
    except ImportError:  # Triton has no build for this system
        return [standing for number, standing in sorted(known.items()) if number.split(".")[0] == str(int(lesson))]
    return [known.get(task.number, Standing(task.number, out_of=task.points)) for task in tasks]


def _better(old, new, attempts_more=0):
    best = max((new, old), key=lambda standing: (ORDER.index(standing.status), standing.points))
    first, last = min(filter(None, (old.first, new.first)), default=""), max(old.last, new.last)
    return Standing(new.number, best.status, best.points, best.out_of, max(old.attempts, new.attempts) + attempts_more, first, last)


def _change(change):
    """Read, change and write, one process at a time. A file that cannot be read is kept beside, never lost."""
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{file}.lock", timeout=5):
        try:
            known = read(file)
        except ValueError:
            os.replace(file, f"{file}.unreadable-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S%f}")
            known = {}
        tasks = {number: _fields(standing) for number, standing in sorted(change(known).items(), key=lambda item: _order(item[0]))}
        write_whole(file, json.dumps({"format": FORMAT, "tasks": tasks}, indent=1) + "\n")


def _fields(standing):
    return {name: value for name, value in vars(standing).items() if name != "number"}


def _order(number):
    return [int(part) for part in number.split(".")]
