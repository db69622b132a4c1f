"""What is written of grades: for people (Markdown, HTML, CSV), for programs (JSON, JUnit), and for the places where classes are held.

The JSON of a submission is described by report.schema.json.
"""

import csv
import io
import json
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree

from flashlab.course.checks.task import NOT_ATTEMPTED, PASSED
from flashlab.files import write_whole


def write_report(grade, folder, **circumstances):
    """Write a grade as JSON, with what else is known of it, as Markdown and as HTML into `folder`; returns the paths."""
    stem = grade.submission.removesuffix(".ipynb")
    texts = {
        "json": json.dumps(grade.as_dict() | circumstances, indent=2, ensure_ascii=False) + "\n",
        "md": as_markdown(grade),
        "html": as_html({grade.submission: grade}),
    }
    return tuple(write_whole(Path(folder) / f"{stem}.{kind}", text) for kind, text in texts.items())


def write_summary(grades, folder):
    """Write grades.csv for a gradebook, grades.xml for JUnit's readers and grades.html for people, for {name: Grade}; returns the paths."""
    texts = {"csv": as_csv(grades), "xml": as_junit(grades), "html": as_html(grades)}
    return tuple(write_whole(Path(folder) / f"grades.{kind}", text) for kind, text in texts.items())


def as_markdown(grade):
    """One submission, task by task."""
    rows = [f"| {r.number} | {r.title} | {r.status} | {r.points} / {r.out_of} | {r.mistake or '—'} |" for r in grade.results]
    details = [f"```\n{result}\n```" for result in grade.results if result.status != PASSED]
    return "\n".join(
        [
            f"# {grade.submission}: {grade.points} / {grade.out_of} points",
            *([f"\n**Trouble:** {grade.trouble}"] if grade.trouble else []),
            "\n| task | title | status | points | likely mistake |\n|---|---|---|---|---|",
            *rows,
            "",
            *details,
            "",
        ]
    )


def as_html(grades):
    """One page that needs no other file: a table of all submissions, and each of them task by task."""
    import jinja2

    template = resources.files("flashlab.course").joinpath("report.html").read_text(encoding="utf-8")
    return (
        jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(grades=sorted(grades.items()))
    )


def as_csv(grades):
    """A row for each submission."""
    numbers = sorted({result.number for grade in grades.values() for result in grade.results}, key=lambda n: [int(x) for x in n.split(".")])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["submission", "lesson", "points", "out of", *numbers, "trouble"])
    for name, grade in sorted(grades.items()):
        points = {result.number: result.points for result in grade.results}
        writer.writerow([name, grade.lesson, grade.points, grade.out_of, *(points.get(n, "") for n in numbers), grade.trouble])
    return text.getvalue()


def as_junit(grades):
    """JUnit's XML: a suite for each submission, a case for each task."""
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
            case = ElementTree.SubElement(suite, "testcase", classname=name, name="the notebook runs as it is")
            ElementTree.SubElement(case, "error", message=grade.trouble)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def as_gradescope(grades):
    """Gradescope's results.json, for the notebooks of one student."""
    results = [result for grade in grades.values() for result in grade.results]
    troubles = [f"{name}: {grade.trouble}" for name, grade in grades.items() if grade.trouble]
    return {
        "score": sum(grade.points for grade in grades.values()),
        "output": "\n".join(troubles),
        "output_format": "text",
        "tests": [
            {
                "number": result.number,
                "name": result.title,
                "score": result.points,
                "max_score": result.out_of,
                "status": "passed" if result.status == PASSED else "failed",
                "output": str(result),
                "output_format": "text",
            }
            for result in results
        ],
    }


def as_classroom(grades):
    """What GitHub Classroom's grading reporter reads, for the notebooks of one student."""
    results = [result for grade in grades.values() for result in grade.results]
    return {
        "version": 1,
        "status": "pass" if all(result.status == PASSED for result in results) else "fail",
        "max_score": sum(result.out_of for result in results),
        "tests": [
            {
                "name": f"{result.number} {result.title}",
                "status": "pass" if result.status == PASSED else "fail",
                "score": result.points,
                "message": "" if result.status == PASSED else str(result),
                "test_code": f"check {result.number}",
                "filename": "",
                "line_no": 0,
                "execution_time": "",
            }
            for result in results
        ],
    }
