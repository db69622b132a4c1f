"""What the project says about itself in several places is the same in all of them."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Colab's newest image, November 2026. A runtime with a GPU; without one there is no triton, and the newest may be installed.
COLAB = {
    "numpy": "2.1.3", "torch": "2.11.0", "triton": "3.6.0", "ipywidgets": "7.7.1", "matplotlib": "3.10.0", "nbclient": "0.10.2",
    "nbformat": "5.10.4", "rich": "13.9.4", "tqdm": "4.67.1", "typer": "0.20.0", "filelock": "3.29.0", "jinja2": "3.1.6",
    "platformdirs": "4.10.0", "psutil": "5.9.5",
}  # fmt: skip


def requirements(*extras):
    lines = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    found = {}
    for requirement in map(Requirement, lines):
        if requirement.name == "flashlab-course":
            found |= requirements(*requirement.extras)
        else:
            found[requirement.name] = requirement
    return found


def tracked(*patterns):
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns], cwd=ROOT, capture_output=True, text=True
    )
    return [ROOT / name for name in names.stdout.split()]


def test_what_a_learner_installs_moves_nothing_of_colabs():
    for name, requirement in requirements("course").items():
        assert requirement.specifier.contains(COLAB[name]), f"{requirement} would move Colab's {name} {COLAB[name]}"


def test_the_core_is_numpy_torch_and_triton():
    assert {Requirement(line).name for line in PROJECT["dependencies"]} == {"numpy", "torch", "triton"}
    assert "platform_system" in str(requirements()["triton"].marker)


def test_environment_yml_says_what_pyproject_says():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    ours = requirements("dev")
    named = [Requirement(line) for line in pip if not line.startswith("--")]
    assert {"jupyterlab", "numpy", "torch", "triton", "matplotlib", "ipywidgets", "nbval"} == {requirement.name for requirement in named}
    for requirement in named:
        assert requirement.specifier == ours[requirement.name].specifier, requirement
    assert f"python{PROJECT['requires-python']}" in environment
    assert "--constraint constraints.txt" in pip and "--editable .[dev]" in pip


def test_constraints_satisfy_pyproject_and_pair_torch_with_its_triton():
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and not line.startswith("#")
    )
    pins = {name.lower(): version for name, version in pins.items()}
    assert (pins["torch"], pins["triton"]) == ("2.13.0", "3.7.1")
    for name, requirement in requirements("dev").items():
        assert requirement.specifier.contains(pins[name.lower()]), requirement
    assert not any(Version(version).local for version in pins.values())


def test_versions_agree():
    assert f'__version__ = "{PROJECT["version"]}"' in (ROOT / "flashlab" / "__init__.py").read_text()


def test_nothing_tells_anyone_to_install_the_other_flashlab():
    wrong = re.compile(r"pip install[^\n`\"']*[ \"']flashlab(?![-\w/.])")
    for path in tracked("*.py", "*.md", "*.ipynb", "*.toml", "*.yml", "Makefile"):
        if path != Path(__file__).resolve():
            assert not wrong.search(path.read_text()), path


def test_ci_runs_exactly_the_readmes_test_command():
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith(("#", "set", "cd"))]
    assert commands == ["make test"]
    assert "make test" in (ROOT / "README.md").read_text()


def test_the_repository_is_named_in_one_place():
    address = PROJECT["urls"]["Repository"]
    for path in tracked("*.ipynb"):
        assert address in path.read_text(), path
    for path in tracked("flashlab/*.py", "tools/*.py"):
        assert address.removeprefix("https://") not in path.read_text(), f"{path}: take it from pyproject.toml"


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "TEACHING.md"])
def test_links_of_the_documents_lead_somewhere(name):
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", (ROOT / name).read_text()):
        assert (ROOT / target.split("#")[0]).exists(), target


def test_architecture_names_every_room():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = {path.relative_to(ROOT).parts[0] for path in tracked() if len(path.relative_to(ROOT).parts) > 1}
    modules = {path.name for path in tracked("flashlab/*.py") if path.parent == ROOT / "flashlab" and not path.name.startswith("__")}
    packages = {path.parent.name for path in tracked("flashlab/**/__init__.py")} - {"flashlab"}
    for name in rooms | modules | packages:
        assert name in text, f"{name} is not in ARCHITECTURE.md"


def test_exercises_are_what_the_solutions_generate():
    result = subprocess.run([sys.executable, "tools/exercises.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
