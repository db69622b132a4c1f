"""Records: what was measured, on which machine, with which versions, by which command."""

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch

import flashlab
from flashlab.files import write_whole


def machine(device="cuda"):
    """The GPU, or the processor, and every version that a figure may depend on."""
    return {
        **(_gpu() if torch.device(device).type == "cuda" else _cpu()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        "flashlab": flashlab.__version__,
    }


def _gpu():
    return {
        "device": torch.cuda.get_device_name(),
        "capability": "sm_{}{}".format(*torch.cuda.get_device_capability()),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "clocks": _output("nvidia-smi", "--query-gpu=clocks.sm,clocks.max.sm,power.limit", "--format=csv,noheader"),
    }


def _cpu():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = re.search(r"model name\s*: (.*)", _output("cat", "/proc/cpuinfo"))
    return {"device": f"CPU with {cores} cores", "processor": kind.group(1) if kind else platform.processor()}


def write(measurements, folder, command, commit=None, device="cuda", prefix=""):
    """Write one JSON for this machine into `folder`, whole or not at all; returns its path."""
    about = machine(device)
    record = {
        "machine": about,
        "commit": commit or _output("git", "rev-parse", "HEAD") or "unknown",
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        **measurements,
    }
    path = Path(folder) / f"{prefix}{re.sub(r'[^a-z0-9]+', '-', about['device'].lower()).strip('-')}.json"
    return write_whole(path, json.dumps(record, indent=1) + "\n")


def _output(*command):
    """What a command prints, or nothing where there is no such command."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version(distribution):
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
