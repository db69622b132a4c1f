"""Grades many notebooks: a folder or a zip of submissions, several at a time, each in a process of its own. What is graded stays graded.

A submission that cannot be read, or that breaks, is reported with its reason, and the others go on. Run again after an interruption, and
only what is new or has changed is graded.
"""

import csv
import hashlib
import io
import json
import multiprocessing
import os
import zipfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from xml.etree import ElementTree

import flashlab
from flashlab.course.checks.task import NOT_ATTEMPTED, PASSED, Result
from flashlab.course.submission import SECONDS_PER_CELL, Grade, grade_notebook, write_report, write_whole

MOST_UNPACKED = 2**30  # bytes of a zip


def submissions(path, unpacked):
    """{name: path} of the notebooks at `path`: a notebook, a folder, or a zip, which is unpacked into the folder `unpacked`.

    Raises:
        ValueError: there is no notebook at `path`.
    """
    path = Path(path)
    if path.suffix == ".zip":
        path = _unpack(path, Path(unpacked))
    if path.is_file():
        return {path.stem: path}
    found = sorted(p for p in path.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts and "__MACOSX" not in p.parts)
    if not found:
        raise ValueError(f"there is no notebook in {path}. Give an exercise notebook, a folder of them, or a zip.")
    named = {}
    for notebook in found:
        name = "-".join(notebook.relative_to(path).with_suffix("").parts)
        while name in named:  # a/b.ipynb and a-b.ipynb: neither may take the other's place
            name += "_"
        named[name] = notebook
    return named


def grade_all(found, folder, seed=0, workers=None, seconds=SECONDS_PER_CELL):
    """Yield (name, Grade) as they are done, for {name: path}, and write each one's report into `folder` at once."""
    folder, waiting = Path(folder), {}
    for name, path in found.items():
        kept = _kept(folder / f"{name}.json", path, seed)
        if kept:
            yield name, kept
        else:
            waiting[name] = path
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_grade, path, seed, seconds): name for name, path in waiting.items()}
        for future in as_completed(futures):
            name = futures[future]
            grade = _named(future.result(), name)
            write_report(grade, folder, **_circumstances(waiting[name], seed))
            yield name, grade


def write_summary(grades, folder):
    """Write grades.csv, a row for each submission, and grades.xml, JUnit's format, for {name: Grade}; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return write_whole(folder / "grades.csv", _as_csv(grades)), write_whole(folder / "grades.xml", _as_junit(grades))


def _grade(path, seed, seconds):
    """The Grade of one notebook, whatever happens."""
    try:
        return grade_notebook(path, seed, seconds)
    except ValueError as error:  # not a notebook, or of no lesson
        return Grade(Path(path).name, "", (), str(error))
    except Exception as error:
        return Grade(Path(path).name, "", (), f"it could not be graded: {type(error).__name__}: {error}")


def _named(grade, name):
    return Grade(name, grade.lesson, grade.results, grade.trouble)


def _kept(report, path, seed):
    """The Grade of an earlier run, if this very notebook was graded then, with this seed, by this flashlab."""
    try:
        known = json.loads(report.read_text(encoding="utf-8"))
        if any(known[name] != value for name, value in _circumstances(path, seed).items()):
            return None
        return Grade(known["submission"], known["lesson"], tuple(Result(**result) for result in known["results"]), known["trouble"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _circumstances(path, seed):
    return dict(seed=seed, sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(), flashlab=flashlab.__version__)


def _unpack(archive, folder):
    """The folder with the zip's notebooks. Nothing outside of it is ever written."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if member.filename.endswith(".ipynb")]
            if sum(member.file_size for member in members) > MOST_UNPACKED:
                raise ValueError(f"{archive} would unpack to more than {MOST_UNPACKED // 2**20} MiB: it holds more than notebooks.")
            for member in members:
                opened.extract(member, folder)  # zipfile drops drive letters and ".."
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{archive} is not a zip that can be read ({error}).") from error
    return folder


def _as_csv(grades):
    numbers = sorted({result.number for grade in grades.values() for result in grade.results}, key=lambda n: [int(x) for x in n.split(".")])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["submission", "lesson", "points", "out of", *numbers, "trouble"])
    for name, grade in sorted(grades.items()):
        points = {result.number: result.points for result in grade.results}
        writer.writerow([name, grade.lesson, grade.points, grade.out_of, *(points.get(n, "") for n in numbers), grade.trouble])
    return text.getvalue()


def _as_junit(grades):
    suites = ElementTree.Element("testsuites")
    for name, grade in sorted(grades.items()):
        suite = ElementTree.SubElement(suites, "testsuite", name=name, tests=str(len(grade.results)))
        for result in grade.results:
            case = ElementTree.SubElement(suite, "testcase", classname=name, name=f"{result.number} {result.title}")
            if result.status == NOT_ATTEMPTED:
                ElementTree.SubElement(case, "skipped")
            elif result.status != PASSED:
                ElementTree.SubElement(case, "failure", message=result.mistake or result.difference).text = str(result)
        if grade.trouble:
            case = ElementTree.SubElement(suite, "testcase", classname=name, name="the notebook runs")
            ElementTree.SubElement(case, "error", message=grade.trouble)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"
