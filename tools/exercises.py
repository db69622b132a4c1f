"""Generate exercises/ from solutions/: what stands between the solution markers becomes `raise NotImplementedError`.

python tools/exercises.py            write exercises/
python tools/exercises.py --check    exit 1 when exercises/ is not what solutions/ would generate
"""

import sys
from pathlib import Path

import nbformat
import typer
from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions
from traitlets.config import Config

sys.path.insert(0, str(Path(__file__).parent))
import notebooks

ROOT = notebooks.ROOT
SOLUTIONS, EXERCISES = ROOT / "solutions", ROOT / "exercises"


def generate(solution):
    """The exercise notebook that belongs to a solution notebook."""
    config = Config()
    config.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
    config.ClearSolutions.enforce_metadata = False
    config.ClearHiddenTests.enforce_metadata = False
    notebook = notebooks.sync(solution)
    for cell in notebook.cells:
        cell.metadata.pop("nbgrader", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if cell.metadata.get("flashlab", {}).get("role") == "badge":
            cell.source = notebooks.badge_source(EXERCISES / solution.name)
    for preprocessor in (ClearSolutions(config=config), ClearHiddenTests(config=config)):
        notebook, _ = preprocessor.preprocess(notebook, {})
    notebook.metadata.pop("celltoolbar", None)
    return notebook


def main(check: bool = typer.Option(False, help="Compare instead of writing.")):
    """Generate the exercises, or check that they are up to date."""
    differing = []
    for solution in sorted(SOLUTIONS.glob("*.ipynb")):
        target, wanted = EXERCISES / solution.name, generate(solution)
        text = nbformat.writes(wanted)
        if not target.exists() or target.read_text().rstrip("\n") != text.rstrip("\n"):
            differing.append(target.name)
            if not check:
                notebooks.save(wanted, target)
    if check and differing:
        sys.exit(f"not what solutions/ generates: {', '.join(differing)}. Run `make exercises`.")


if __name__ == "__main__":
    typer.run(main)
