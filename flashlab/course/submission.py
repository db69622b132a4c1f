"""Grades a notebook: runs a copy of it in a process of its own, and judges its tasks there. The submission itself is only read.

A cell that does not end in time, or ends its process, is left out, and the notebook is run again without it: one task that goes wrong
costs no other task its points.
"""

import contextlib
import logging
import os
import re
import secrets
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from flashlab.course.checks.task import FAILED, MIME, Result
from flashlab.course.grading import LESSONS, tasks

SECONDS_PER_CELL = 60
SECONDS_TO_ENTER = 600  # imports on a machine that is busy: not the submission's time
MOST_RUNS = 6  # of one notebook
QUIET_KERNEL = ["--log-level=ERROR"]  # its warnings are about its own sockets, not about the notebook
SILENT = logging.getLogger("flashlab.course.submission")
SILENT.addHandler(logging.NullHandler())
SILENT.propagate = False  # what goes wrong is in the grade
MOST_PROCESSES = 64
DIED = f"its process died: it ended Python, took more memory than there is, or started over {MOST_PROCESSES} processes"
MARK = "FLASHLAB_GRADES"  # an environment variable by which the processes of a submission are found

ENTER = """\
from flashlab.course.sandbox import enter

enter({lesson!r})"""

LEAVE = """\
from flashlab.course.sandbox import leave

leave({number!r}, globals(), {seed}, {token!r}, {cases!r})"""


@dataclass(frozen=True)
class Grade:
    """The results of one notebook, task by task."""

    submission: str
    lesson: str
    results: tuple[Result, ...]
    trouble: str = ""  # why the notebook could not be run as it is, or what it did that it should not

    @property
    def points(self):
        return sum(result.points for result in self.results)

    @property
    def out_of(self):
        return sum(result.out_of for result in self.results)

    def as_dict(self):
        return {
            "submission": self.submission,
            "lesson": self.lesson,
            "points": self.points,
            "out_of": self.out_of,
            "trouble": self.trouble,
            "results": [result.as_dict() for result in self.results],
        }


@dataclass
class _Run:
    """What is known of a submission so far."""

    cells: list  # (number among the code cells, source) of what is still run
    left: list  # tasks that are not judged yet
    results: dict = field(default_factory=dict)
    troubles: list = field(default_factory=list)


def grade_notebook(path, seed=0, seconds=SECONDS_PER_CELL, cases=None):
    """The `Grade` of the notebook at `path`, whose name begins with its lesson's number.

    seconds: how long a cell may run. cases: a Python file with more cases (see `extra_cases`).
    """
    path = Path(path)
    lesson = lesson_of(path)
    sources = [cell.source for cell in _read(path).cells if cell.cell_type == "code"]
    run = _Run(list(enumerate(sources, 1)), list(tasks(lesson).values()))
    for _ in range(MOST_RUNS):
        _run_once(run, lesson, seed, seconds, cases)
        if not run.left:
            break
    for task in run.left:
        run.results[task.number] = _failed(
            task, f"it was not reached: the notebook was run {MOST_RUNS} times, and each time something stopped it"
        )
    return Grade(path.name, lesson, tuple(run.results[number] for number in tasks(lesson)), "; ".join(run.troubles))


def _run_once(run, lesson, seed, seconds, cases):
    """Run all cells and judge all tasks that are left, up to the first cell that does not end well, and take it out of the run."""
    token = secrets.token_hex(16)
    judging = [LEAVE.format(number=task.number, seed=seed, token=token, cases=cases and str(cases)) for task in run.left]
    sources = [ENTER.format(lesson=lesson), *(source for _, source in run.cells), *judging]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    reached, trouble = _execute(notebook, seconds)
    published = [_published(cell, token) for cell in notebook.cells[len(sources) - len(judging) :]]
    for task, answer in zip(list(run.left), published, strict=True):
        if answer:
            run.results[task.number] = Result.from_dict(answer["result"])
            run.left.remove(task)
            _note_replaced(run, answer["replaced"])
    if not trouble:  # the judge itself said nothing
        for task in run.left:
            run.results[task.number] = _failed(task, "the judge gave no answer: something that the notebook did has stopped it")
        run.left.clear()
    elif reached == 0:
        raise RuntimeError(f"before its first cell, {trouble}")
    elif reached <= len(run.cells):
        number, _ = run.cells.pop(reached - 1)
        run.troubles.append(f"code cell {number} was left out: {trouble}")
    else:
        task = run.left.pop(0)  # judged in order, so it is the first without an answer
        run.results[task.number] = _failed(task, f"while it was judged, {trouble}")


def _note_replaced(run, names):
    if names:
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        run.troubles.append(f"it replaced {some}; the original was put back before judging")


def _failed(task, difference):
    return Result(task.number, task.title, FAILED, 0, task.points, difference=difference)


class _Client(NotebookClient):
    """Keeps what the judge publishes. Whatever else a submission prints or draws is dropped: it may be gigabytes."""

    def output(self, outs, msg, display_id, cell_index):
        if MIME in msg["content"].get("data", {}):
            return super().output(outs, msg, display_id, cell_index)
        return None


def _execute(notebook, seconds):
    """Run a notebook in a process of its own; returns (the last cell that began, why none follows it)."""
    mark, begun = secrets.token_hex(16), [0]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as workplace:
        resources = {"metadata": {"path": workplace}}
        client = _Client(notebook, allow_errors=True, extra_arguments=QUIET_KERNEL, resources=resources, log=SILENT)
        client.timeout_func = lambda cell: SECONDS_TO_ENTER if cell is notebook.cells[0] else seconds
        client.on_cell_execute = lambda cell, cell_index: begun.append(cell_index)
        ended = threading.Event()
        threading.Thread(target=_watch, args=(mark, ended), daemon=True).start()
        try:
            client.execute(env={**os.environ, MARK: mark, "PYTHONHASHSEED": "0"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except CellTimeoutError:
            return begun[-1], f"it ran for more than {seconds} seconds: look for a loop that never ends"
        except DeadKernelError:
            return begun[-1], DIED
        finally:
            ended.set()
            _end_processes(mark)
    return begun[-1], ""


def _watch(mark, ended):
    """End a submission that starts processes without end. Limits of the system do not hold for root."""
    while not ended.wait(1.0):
        if len(_processes(mark)) > MOST_PROCESSES:
            _end_processes(mark)


def _end_processes(mark):
    """End every process that a submission has left behind, and those that these start meanwhile."""
    for _ in range(20):
        found = _processes(mark)
        if not found:
            return
        for end in (psutil.Process.suspend, psutil.Process.kill):  # stopped first, they start no others
            for process in found:
                with contextlib.suppress(psutil.Error):
                    end(process)
        psutil.wait_procs(found, timeout=1)


def _processes(mark):
    return [process for process in psutil.process_iter() if _carries(process, mark)]


def _carries(process, mark):
    try:
        return process.environ().get(MARK) == mark
    except (psutil.Error, OSError):
        return False


def _published(cell, token):
    """What the judge's cell published: a dict, or None."""
    for output in cell.outputs:
        answer = output.get("data", {}).get(MIME)
        if isinstance(answer, dict) and answer.get("token") == token:
            return answer
    return None


def lesson_of(path):
    """The lesson that a notebook's name begins with, such as "03"."""
    match = re.match(r"(\d\d)_", path.name)
    if not match or match.group(1) not in LESSONS:
        raise ValueError(
            f"{path.name}: the name of an exercise begins with its lesson, such as 03_online_softmax.ipynb. "
            f"There are checks for lesson {', '.join(LESSONS)}."
        )
    return match.group(1)


def _read(path):
    if not path.is_file():
        raise ValueError(f"{path} is not a file. Give the path of an exercise notebook.")
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:
        raise ValueError(f"{path} is not a notebook that can be read ({error}). Save it again from Jupyter or Colab.") from error
