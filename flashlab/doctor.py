"""What this machine can run, and why: each finding with the command that mends it."""

import importlib.util
import os
import platform
from dataclasses import dataclass
from importlib import metadata

COURSE_PACKAGES = ("ipywidgets", "matplotlib", "nbclient", "nbformat", "rich", "tqdm", "typer")
INSTALL_COURSE = "In a checkout of flashlab: pip install -e '.[course]'"
TESTED_TRITON = ("3.6", "3.7")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    subject: str
    state: str  # "ok", "limited" or "missing"
    found: str
    mend: str = ""  # what to do about it, when there is something


def examine():
    """Everything the doctor looks at, as a list of `Finding`."""
    return [_python(), _torch(), _triton(), _gpu(), _interpreter(), _paths(), _course()]


def report():
    """The findings as plain text."""
    lines = []
    for finding in examine():
        mark = {"ok": "✓", "limited": "~", "missing": "✗"}[finding.state]
        lines.append(f"{mark} {finding.subject:<12} {finding.found}")
        if finding.mend:
            lines.append(f"  {'':<12} → {finding.mend}")
    return "\n".join(lines)


def _python():
    return Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _torch():
    version = _version("torch")
    if version is None:
        return Finding("torch", "missing", "not installed", "pip install torch")
    return Finding("torch", "ok", version)


def _triton():
    version = _triton_version()
    if version is None:
        mend = {"Windows": "pip install triton-windows", "Linux": "pip install triton"}.get(
            platform.system(), "Triton has no build for this system: lessons 06-09 run on Colab or Linux."
        )
        return Finding("Triton", "missing", "not installed: attention runs on the CPU only, lessons 00-05 and 11 work", mend)
    if not version.startswith(TESTED_TRITON):
        return Finding(
            "Triton", "limited", f"{version}, not tested with flashlab", f"Tested: {', '.join(TESTED_TRITON)}. Run `make gpu-test`."
        )
    return Finding("Triton", "ok", version)


def _gpu():
    if _version("torch") is None:
        return Finding("GPU", "missing", "cannot be seen without torch")
    import torch

    if not torch.cuda.is_available():
        why = "this build of torch has no CUDA" if torch.version.cuda is None and torch.version.hip is None else "torch sees no GPU"
        return Finding("GPU", "limited", f"none: {why}. Everything runs on the CPU.", "On Colab: Runtime → Change runtime type → a GPU.")
    major, minor = torch.cuda.get_device_capability()
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    toolkit = torch.version.cuda or torch.version.hip
    found = f"{torch.cuda.get_device_name()}, sm_{major}{minor}, {memory:.0f} GiB, torch built for CUDA {toolkit}"
    if torch.version.hip is not None:
        return Finding("GPU", "limited", f"{found}. AMD GPUs are not tested.", "Run `make gpu-test` and tell us.")
    if (major, minor) < (7, 5):
        return Finding("GPU", "missing", f"{found}. Triton compiles for sm_75 and newer.", "Use a T4 or newer, or CPU tensors.")
    if (major, minor) < (8, 0):
        return Finding("GPU", "limited", f"{found}. Triton uses no tensor cores before sm_80: correct and lean in memory, but slow.")
    return Finding("GPU", "ok", found)


def _interpreter():
    on = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
    if not on:
        return Finding("Interpreter", "ok", "off: Triton compiles. A lesson's setup() turns it on where there is no GPU.")
    return Finding("Interpreter", "limited", "on (TRITON_INTERPRET is set): kernels run on the CPU, slowly, and not in bfloat16")


def _paths():
    if _version("torch") is None:
        return Finding("attention", "missing", "needs torch", "pip install torch")
    import torch

    paths = ["CPU tensors: blockwise, in plain torch (float16, bfloat16, float32, float64)"]
    if torch.cuda.is_available() and _triton_version() is not None:
        paths.append("CUDA tensors: Triton kernels (float16, bfloat16, float32)")
    return Finding("attention", "ok", "; ".join(paths))


def _course():
    missing = [name for name in COURSE_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return Finding("course", "missing", f"not installed: {', '.join(missing)}. The library works without.", INSTALL_COURSE)
    return Finding("course", "ok", "everything a lesson needs is installed")


def _triton_version():
    return _version("triton") or _version("triton-windows")


def _version(distribution):
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
