"""Peak memory of a piece of work, beyond what was already there."""

import contextlib
import json
import os
import tempfile
from pathlib import Path

import torch


def peak_bytes(work, device="cpu"):
    """The most bytes of tensors that `work()` held at once, beyond those that existed before it.

    On CUDA the allocator says so. On a CPU the profiler's record of every allocation does; caches of libraries are not in it.
    """
    return _peak_on_cuda(work) if torch.device(device).type == "cuda" else _peak_on_cpu(work)


def _peak_on_cuda(work):
    def asked_for(when):  # what it hands out may be a larger block, which earlier work left
        return torch.cuda.memory_stats()[f"requested_bytes.all.{when}"]

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = asked_for("current")
    work()
    torch.cuda.synchronize()
    return asked_for("peak") - before


def _peak_on_cpu(work):
    with _quiet_stderr(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        held += change
        peak = max(peak, held)
    return peak


@contextlib.contextmanager
def _quiet_stderr():
    """torch's profiler (2.13) writes lines of its own to file descriptor 2, which no Python setting reaches."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
