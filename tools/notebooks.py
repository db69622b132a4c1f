"""Build the lessons: write what the project knows into their cells, run them on the CPU, keep the outputs.

    python tools/notebooks.py build [NAME ...]     sync and run (all lessons, or those whose file name begins with NAME)
    python tools/notebooks.py sync [NAME ...]      write the cells without running

Three kinds of cell are written, never typed. Their metadata says which:
    {"flashlab": {"role": "badge"}}                     the Colab badge, with this notebook's path
    {"flashlab": {"role": "setup"}}                     the set-up cell, the same in every notebook
    {"flashlab": {"shows": ["package.module:name"]}}    the source of these objects: lesson code is library code
"""

import ast
import importlib.util
import os
import tomllib
from pathlib import Path

import nbformat
import typer
from nbclient import NotebookClient

from flashlab.course.submission import QUIET_KERNEL
from flashlab.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
LESSONS = ROOT / "notebooks"

SETUP = """\
# Set-up, the same in every lesson: on Colab this installs flashlab, elsewhere `make lab` has done so.
import sys

if "google.colab" in sys.modules:
    %pip install -q "flashlab-course[course] @ git+{repository}"
from flashlab.course import setup

device = setup()"""

BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{slug}/blob/main/{path})"

app = typer.Typer(add_completion=False, help=__doc__)


def repository():
    """The repository's address, from the one place that knows it."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def setup_source():
    return SETUP.format(repository=repository())


def badge_source(path):
    slug = repository().removeprefix("https://github.com/")
    return BADGE.format(slug=slug, path=path.relative_to(ROOT).as_posix())


def shown_source(reference):
    """The source text of "package.module:name", decorators included, without importing the module."""
    module, name = reference.split(":")
    text = Path(importlib.util.find_spec(module).origin).read_text()
    for node in ast.parse(text).body:
        names = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
        if name in names or getattr(node, "name", None) == name:
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    raise LookupError(f"{reference}: no such definition at the top of that file")


def written_source(cell, path):
    """What this cell must hold, or None when its author decides."""
    ours = cell.metadata.get("flashlab", {})
    if ours.get("role") == "setup":
        return setup_source()
    if ours.get("role") == "badge":
        return badge_source(path)
    if "shows" in ours:
        return "\n\n\n".join(shown_source(reference) for reference in ours["shows"])
    return None


def sync(path):
    """The notebook with every written cell up to date."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        source = written_source(cell, path)
        if source is not None:
            cell.source = source
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def run(notebook):
    """Execute from the top in a fresh kernel, without a GPU, so that the committed outputs are those of a laptop."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TRITON_INTERPRET", None)
    client = NotebookClient(
        notebook, timeout=600, record_timing=False, coalesce_streams=True, extra_arguments=QUIET_KERNEL,
        resources={"metadata": {"path": str(LESSONS)}},
    )  # fmt: skip
    client.execute(env=environment)
    notebook.metadata.language_info = {"name": "python"}


def save(notebook, path):
    write_whole(path, nbformat.writes(notebook) + "\n")


def chosen(names):
    return [path for path in sorted(LESSONS.glob("*.ipynb")) if not names or path.name.startswith(tuple(names))]


@app.command("sync")
def sync_command(names: list[str] = typer.Argument(None)):
    """Write badge, set-up and library code into the lessons, without running them."""
    for path in chosen(names):
        save(sync(path), path)


@app.command("build")
def build_command(names: list[str] = typer.Argument(None)):
    """Sync, run on the CPU, and keep the outputs."""
    for path in chosen(names):
        typer.echo(path.name)
        notebook = sync(path)
        run(notebook)
        save(notebook, path)


if __name__ == "__main__":
    app()
