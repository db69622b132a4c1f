"""What importing flashlab does, and does not do. Each in a fresh Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def python(code):
    """What the code prints in a Python that does not know of this one's interpreter switch."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout.strip()


@pytest.mark.parametrize("module", ["flashlab", "flashlab.course", "flashlab.doctor", "flashlab.cli"])
def test_import_brings_in_neither_triton_nor_extras_and_sets_nothing(module):
    heavy = ("triton", "matplotlib", "ipywidgets", "IPython", "typer", "rich", "nbclient")
    code = f"""
import os, sys, torch
environment, loaded = dict(os.environ), set(sys.modules)
import {module}
assert dict(os.environ) == environment, "an environment variable was changed"
print(sorted(set({heavy!r}) & (set(sys.modules) - loaded)))
"""
    assert python(code) == "[]"


def test_attention_runs_where_triton_and_the_extras_cannot_be_imported():
    code = """
import sys
for name in ("triton", "matplotlib", "ipywidgets", "IPython", "typer", "rich", "nbclient", "tqdm"):
    sys.modules[name] = None  # import raises ImportError
import torch
from flashlab import attention
x = torch.randn(1, 2, 5, 8, requires_grad=True)
attention(x, x, x, is_causal=True).sum().backward()
print(x.grad.isfinite().all().item())
"""
    assert python(code) == "True"


def test_the_doctor_speaks_without_the_extras():
    code = """
import sys
for name in ("typer", "rich", "matplotlib"):
    sys.modules[name] = None
sys.argv = ["flashlab", "doctor"]
from flashlab.cli import main
main()
"""
    assert "Python" in python(code)


def test_the_doctor_speaks_where_the_terminal_knows_few_letters(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # a pipe on Windows has no tick
    assert "Python" in python(
        "import sys\nsys.modules['typer'] = None\nsys.argv = ['flashlab', 'doctor']\nfrom flashlab.cli import main\nmain()"
    )


def test_setup_turns_the_interpreter_on_only_where_there_is_no_gpu():
    pytest.importorskip("triton")  # no build for macOS
    code = """
import os, torch
from flashlab.course import setup
device = setup()
print(device == ("cuda" if torch.cuda.is_available() else "cpu"), os.environ.get("TRITON_INTERPRET") == ("1" if device == "cpu" else None))
"""
    assert python(code).splitlines()[-1] == "True True"


def test_setup_refuses_when_triton_came_first():
    pytest.importorskip("triton")
    code = """
import os, torch
if torch.cuda.is_available():
    print("RuntimeError: not needed")
else:
    import triton
    from flashlab.course import setup
    try:
        setup()
    except RuntimeError as error:
        print("RuntimeError:", error)
"""
    assert python(code).startswith("RuntimeError")


def test_the_library_never_imports_the_course():
    lint_imports = shutil.which("lint-imports", path=Path(sys.executable).parent)
    result = subprocess.run([lint_imports, "--no-cache"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
