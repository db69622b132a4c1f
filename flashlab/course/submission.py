"""Grades a notebook: runs a copy of it in a process of its own and writes a report. The submission itself is only read."""

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from flashlab.course.checks.task import MIME, PASSED, Result
from flashlab.course.grading import LESSONS, judge_namespace, tasks

SECONDS_PER_CELL = 120
GIBIBYTES = 16  # of address space that a submission may take: torch alone reserves several
QUIET_KERNEL = ["--log-level=ERROR"]  # its warnings are about its own sockets, not about the notebook

LIMIT_CELL = """\
import resource

resource.setrlimit(resource.RLIMIT_AS, ({bytes}, {bytes}))"""

JUDGE_CELL = """\
from flashlab.course.submission import publish

publish({lesson!r}, globals(), seed={seed})"""


@dataclass(frozen=True)
class Grade:
    """The results of one notebook, task by task."""

    submission: str
    lesson: str
    results: tuple[Result, ...]
    trouble: str = ""  # why the notebook could not be run to its end

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

    def as_markdown(self):
        rows = [f"| {r.number} | {r.title} | {r.status} | {r.points} / {r.out_of} | {r.mistake or '—'} |" for r in self.results]
        details = [f"```\n{result}\n```" for result in self.results if result.status != PASSED]
        return "\n".join(
            [
                f"# {self.submission}: {self.points} / {self.out_of} points",
                *([f"\n**The notebook did not run to its end:** {self.trouble}"] if self.trouble else []),
                "\n| task | title | status | points | likely mistake |\n|---|---|---|---|---|",
                *rows,
                "",
                *details,
                "",
            ]
        )


def grade_notebook(path, seed=0, seconds=SECONDS_PER_CELL):
    """The `Grade` of the notebook at `path`, whose name begins with its lesson's number. seconds: how long a cell may run."""
    path = Path(path)
    lesson = _lesson_of(path)
    notebook = _read(path)
    if not torch.cuda.is_available():  # a GPU's memory is mapped into the same address space
        notebook.cells.insert(0, nbformat.v4.new_code_cell(LIMIT_CELL.format(bytes=GIBIBYTES * 2**30)))
    notebook.cells.append(nbformat.v4.new_code_cell(JUDGE_CELL.format(lesson=lesson, seed=seed)))
    trouble = ""
    with tempfile.TemporaryDirectory() as workplace:
        client = NotebookClient(
            notebook, timeout=seconds, allow_errors=True, extra_arguments=QUIET_KERNEL, resources={"metadata": {"path": workplace}}
        )
        try:
            client.execute()
        except CellTimeoutError:
            trouble = f"a cell ran for more than {seconds} seconds: look for a loop that never ends"
        except DeadKernelError:
            trouble = "its process died: a cell ended Python, or took more memory than there is"
    published = [output.data[MIME] for output in notebook.cells[-1].outputs if MIME in output.get("data", {})]
    if published:
        results = tuple(Result(**result) for result in published[0])
    else:
        results = tuple(Result(task.number, task.title, "failed", 0, task.points) for task in tasks(lesson).values())
        trouble = trouble or "its last cell, which judges the tasks, gave no answer"
    return Grade(path.name, lesson, results, trouble)


def publish(lesson, namespace, seed):
    """Judge a notebook's functions from inside its own process, and hand the results to `grade_notebook`."""
    from IPython.display import display

    results = [result.as_dict() for result in judge_namespace(lesson, namespace, seed)]
    display({MIME: results, "text/plain": f"{len(results)} tasks judged"}, raw=True)


def write_report(grade, folder, **circumstances):
    """Write the grade as JSON, with what else is known of it, and as Markdown into `folder`; returns both paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stem = grade.submission.removesuffix(".ipynb")
    return (
        write_whole(folder / f"{stem}.json", json.dumps(grade.as_dict() | circumstances, indent=2, ensure_ascii=False) + "\n"),
        write_whole(folder / f"{stem}.md", grade.as_markdown()),
    )


def _lesson_of(path):
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


def write_whole(path, text):
    """Write beside, then rename: no half-written report is ever left."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
        file.write(text)
    os.replace(file.name, path)
    return path
