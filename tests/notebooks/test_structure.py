"""What every notebook holds to."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import notebooks as tool  # noqa: E402

LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXERCISES = sorted((ROOT / "exercises").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "solutions").glob("*.ipynb"))
EXPECTED = [
    "00_start_here", "01_naive_attention", "02_memory_wall", "03_online_softmax", "04_tiled_attention", "05_backward_pass",
    "06_first_triton_kernels", "07_triton_forward", "08_triton_backward", "09_real_attention", "10_making_it_fast", "11_training",
    "12_inference", "14_choosing_and_trusting", "15_hopper_by_hand",
]  # fmt: skip
UNCHECKED = {"nbval-skip", "nbval-ignore-output"}


def by_name(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: f"{path.parent.name}/{path.stem}")


def read(path):
    return nbformat.read(path, as_version=4)


def role(cell):
    return cell.metadata.get("flashlab", {}).get("role")


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def markdown(path):
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def test_every_lesson_of_the_table_is_there():
    assert [path.stem for path in LESSONS] == EXPECTED


@by_name(LESSONS + EXERCISES + SOLUTIONS)
def test_badge_setup_and_library_code_are_what_the_project_says(path):
    notebook = read(path)
    roles = [role(cell) for cell in notebook.cells]
    assert roles[0] == "badge" and roles.count("badge") == 1 and roles.count("setup") == 1
    assert role(next(cell for cell in notebook.cells if cell.cell_type == "code")) == "setup"
    for cell in notebook.cells:
        written = tool.written_source(cell, path)
        assert written is None or cell.source == written, "run `make notebooks` (or `make exercises`)"
    assert f"/blob/main/{path.parent.name}/{path.name})" in notebook.cells[0].source


@by_name(LESSONS)
def test_every_code_cell_was_run_in_order(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "run `make notebooks`"


@by_name(LESSONS)
def test_no_stderr_no_errors_no_large_outputs(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.get("name") != "stderr", f"{output.text[:200]} in: {cell.source[:80]}"
            assert output.output_type != "error", cell.source[:80]
            assert len(json.dumps(output)) <= 100_000, f"{len(json.dumps(output)):,} bytes from: {cell.source[:80]}"


@by_name(LESSONS)
def test_every_picture_has_alt_text(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt") or output.metadata.get("alt", "")
                assert len(alt.split()) >= 6, cell.source[:80]
    assert not re.search(r"!\[\s*\]\(", markdown(path))


@by_name(LESSONS)
def test_there_is_something_to_see_and_something_to_move(path):
    cells = code_cells(path)
    outputs = [output.get("data", {}) for cell in cells for output in cell.outputs]
    assert any("image/png" in data for data in outputs)
    widgets = [
        n for n, cell in enumerate(cells) if any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in cell.outputs)
    ]
    assert widgets
    explored = [n for n, cell in enumerate(cells) if re.search(r"^explore\(", cell.source, re.M)]
    assert explored
    for n in explored:  # a static picture of it, for whoever reads without a kernel
        assert any("image/png" in output.get("data", {}) for cell in cells[max(0, n - 2) : n] for output in cell.outputs), cells[n].source[
            :80
        ]


@by_name(LESSONS)
def test_most_outputs_are_checked(path):
    checked = [cell for cell in code_cells(path) if cell.outputs and not UNCHECKED & set(cell.metadata.get("tags", []))]
    assert len(checked) >= 3


@by_name(LESSONS)
def test_the_parts_of_a_lesson(path):
    text = markdown(path)
    for part in ("**You will be able to**", "**Time**", "**You need**", "**Runs on**"):
        assert part in text
    opening = read(path).cells[1].source
    assert len(opening.split()) <= 90, f"{len(opening.split())} words"
    assert re.search(r"^## .*(question|Question)", text, re.M) and re.search(r"^## What you can now explain", text, re.M)
    assert re.search(r"^## Exercise", text, re.M) and re.search(r"^## Next", text, re.M)


@by_name(LESSONS + EXERCISES + SOLUTIONS)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", markdown(path)):
        assert (path.parent / target.split("#")[0]).exists(), target


@by_name(LESSONS + EXERCISES + SOLUTIONS)
def test_no_word_that_makes_a_tired_reader_feel_slow(path):
    found = re.findall(r"\b(simply|obviously|trivially|clearly|of course|as we all know)\b", markdown(path), re.I)
    assert not found, found


@by_name(LESSONS)
def test_shown_objects_exist(path):
    shown = [reference for cell in code_cells(path) for reference in cell.metadata.get("flashlab", {}).get("shows", [])]
    for reference in shown:
        assert importlib.util.find_spec(reference.split(":")[0])
        assert tool.shown_source(reference)


def test_the_check_of_shown_code_can_fail(tmp_path):
    cell = nbformat.v4.new_code_cell("def update():\n    pass", metadata={"flashlab": {"shows": ["flashlab.course.steps.online:update"]}})
    assert tool.written_source(cell, LESSONS[0]) != cell.source
    with pytest.raises(LookupError):
        tool.shown_source("flashlab.course.steps.online:no_such_thing")


def test_widget_state_and_outputs_keep_no_path_of_the_machine_that_made_them():
    for path in LESSONS:
        assert str(ROOT) not in path.read_text()
