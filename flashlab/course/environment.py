"""Set-up of a lesson: where Triton runs, and how pictures look. The only place that turns Triton's interpreter on."""

import importlib.util
import os
import platform
import sys


def setup():
    """Make this notebook ready; returns the device to compute on, "cuda" or "cpu".

    Without a GPU, Triton's interpreter is turned on: kernels then run on the CPU, slowly, and can be followed step by step.
    That must happen before Triton is first imported, which is why every lesson calls this first.
    """
    import torch

    import flashlab

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if importlib.util.find_spec("triton") is None:
        device = "cpu"
        triton_runs = "Triton is not installed here: lessons 00-05 and 11 work without it, 06-10 need Linux or Colab"
    elif device == "cuda" and not _interpreter_is_on():
        _wake_the_backward_thread(torch)
        triton_runs = f"Triton compiles for {torch.cuda.get_device_name()}"
    else:
        _turn_interpreter_on()
        from flashlab.course import interpreter  # imports Triton: not before the interpreter is on

        interpreter.mend()
        device = "cpu"
        triton_runs = "Triton runs in its interpreter, on the CPU"
    _prepare_figures()
    print(f"flashlab {flashlab.__version__} · Python {platform.python_version()} · torch {torch.__version__} · {triton_runs}")
    return device


def _wake_the_backward_thread(torch):
    """torch runs backward passes in a thread of its own, which warns when a matrix product is the first thing it does on the GPU."""
    (torch.ones(1, device="cuda", requires_grad=True) * 2).backward()


def _interpreter_is_on():
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def _turn_interpreter_on():
    if _interpreter_is_on():
        return
    if "triton" in sys.modules:
        raise RuntimeError(
            "Triton was imported before setup(), too early to turn its interpreter on. Restart the kernel and run setup() first."
        )
    os.environ["TRITON_INTERPRET"] = "1"


def _prepare_figures():
    if importlib.util.find_spec("matplotlib") is not None:
        from flashlab.course import figures

        figures.use_style()
