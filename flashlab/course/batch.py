"""Grades many notebooks: a folder or a zip of submissions, several at a time, each in a process of its own. What is graded stays graded.

A submission that cannot be read, or that breaks, is reported with its reason, and the others go on. Run again after an interruption, and
only what is new or has changed is graded.
"""

import hashlib
import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import flashlab
from flashlab.course.checks.task import Result
from flashlab.course.reports import write_report
from flashlab.course.submission import SECONDS_PER_CELL, Grade, grade_notebook

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


def grade_all(found, folder, seed=0, workers=None, seconds=SECONDS_PER_CELL, cases=None):
    """Yield (name, Grade) as they are done, for {name: path}, and write each one's report into `folder` at once."""
    grades, waiting = {}, {}
    same = dict(seed=seed, cases=_sha256(cases), flashlab=flashlab.__version__)
    known = {name: same | dict(sha256=_sha256(path)) for name, path in found.items()}
    for name, path in found.items():
        kept = _kept(Path(folder) / f"{name}.json", known[name])
        if kept:
            yield name, kept
        else:
            waiting[name] = path
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:  # each thread waits for a process of its own
        futures = {pool.submit(_grade, path, name, seed, seconds, cases): name for name, path in waiting.items()}
        try:
            for future in as_completed(futures):
                name = futures[future]
                grades[name] = future.result()
                write_report(grades[name], folder, **known[name])
                yield name, grades[name]
        finally:
            pool.shutdown(cancel_futures=True)
    for name, grade in grades.items():  # once more: a submission that was graded later may have written into this folder
        write_report(grade, folder, **known[name])


def _grade(path, name, seed, seconds, cases):
    """The Grade of one notebook, whatever happens."""
    try:
        grade = grade_notebook(path, seed, seconds, cases)
        return Grade(name, grade.lesson, grade.results, grade.trouble)
    except ValueError as error:  # not a notebook, or of no lesson
        return Grade(name, "", (), str(error))
    except Exception as error:
        return Grade(name, "", (), f"it could not be graded: {type(error).__name__}: {error}")


def _kept(report, known):
    """The Grade of an earlier run, if this very notebook was graded then, with this seed and these cases, by this flashlab."""
    try:
        told = json.loads(report.read_text(encoding="utf-8"))
        if any(told[name] != value for name, value in known.items()):
            return None
        return Grade(told["submission"], told["lesson"], tuple(map(Result.from_dict, told["results"])), told["trouble"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""


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
