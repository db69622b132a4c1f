"""What keeps a multiprocessor busy: counters of a Hopper GPU, which NVIDIA's `ncu` reads while the kernels of lesson 15 run.

`ncu` comes with CUDA. Many machines let only an administrator read counters.
"""

import csv
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from flashlab.course import by_hand

COUNTERS = {  # in percent of what a multiprocessor could do in the cycles in which it had work
    "tensor cores": "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "exponentials": "sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active",
    "instructions": "sm__inst_issued.avg.pct_of_peak_sustained_active",
}
DURATION = "gpu__time_duration.sum"
SIZES = [(16384, head_dim, False) for head_dim in (64, 128)]
LEFT_OUT = "in any order, crafts in step"  # a variant for its price, and no way to compute
MARK = "next_work_kernel"  # in ncu's report, the kernels of a work stand behind one of these


@functools.cache
def mark():
    """A kernel of the name MARK, which does nothing."""
    import triton

    @triton.jit
    def next_work_kernel():
        pass

    return next_work_kernel


def run_all(told):
    """Every work once under the eyes of ncu; which they were, in order, is written into the file `told`."""
    names = []
    for size in SIZES:
        for way, works in by_hand.works_beside(*size).items():
            for name in (name for name in works if name != LEFT_OUT):
                names.append(by_hand.size_row(*size) | dict(way=way, name=name))
                torch.cuda.synchronize()
                torch.cuda.profiler.start()
                mark()[(1,)]()
                works[name]()
                torch.cuda.synchronize()
                torch.cuda.profiler.stop()
    Path(told).write_text(json.dumps(names), encoding="utf-8")


def longest_kernels(report):
    """For each work {counter: percent} of that of its kernels that took the longest, from ncu's report, a CSV of raw numbers.

    Raises:
        ValueError: a counter is not there.
    """
    header, _units, *rows = csv.reader(line for line in report.splitlines() if line.startswith('"'))
    missing = {*COUNTERS.values(), DURATION, "Kernel Name"} - set(header)
    if missing:
        raise ValueError(f"report: has no {', '.join(sorted(missing))}; this GPU or this ncu counts otherwise: see `ncu --query-metrics`.")
    works = []
    for row in (dict(zip(header, row, strict=True)) for row in rows):
        if row["Kernel Name"].startswith(MARK):
            works.append([])
        else:
            works[-1].append({name: float(row[metric].replace(",", "")) for name, metric in (COUNTERS | {DURATION: DURATION}).items()})
    longest = (max(kernels, key=lambda counted: counted[DURATION]) for kernels in works)
    return [{name: counted[name] for name in COUNTERS} for counted in longest]


def measure():
    """[{size, way, name, busy}] of all works, busy being {counter: percent}.

    Raises:
        RuntimeError: ncu is not there, or may not count; with what it said.
    """
    if not (ncu := shutil.which("ncu")):
        raise RuntimeError("counters are read by NVIDIA's ncu, and there is none on this machine: it comes with CUDA's toolkit.")
    with tempfile.TemporaryDirectory() as folder:
        report, names = Path(folder) / "report.csv", Path(folder) / "names.json"
        how = ["--profile-from-start", "off", "--clock-control", "none", "--csv", "--page", "raw", "--print-units", "base"]
        which = ["--metrics", ",".join((*COUNTERS.values(), DURATION)), "--log-file", report]
        what = [sys.executable, "-c", f"from {__spec__.name} import run_all; run_all({str(names)!r})"]
        ended = subprocess.run([ncu, *how, *which, *what], capture_output=True, text=True)
        said = report.read_text(encoding="utf-8") if report.exists() else ""
        if ended.returncode or '"Kernel Name"' not in said:
            raise RuntimeError(f"ncu counted nothing. It said:\n{(said + ended.stderr + ended.stdout)[-2000:]}")
        works = json.loads(names.read_text(encoding="utf-8"))
    return [work | dict(busy=busy) for work, busy in zip(works, longest_kernels(said), strict=True)]


def main(out: str = "benchmarks", commit: str = ""):
    """Write what this machine counts into OUT/counters-<machine>.json, if it has a Hopper GPU."""
    from flashlab.bench import record

    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        print("lesson 15 counts what kernels of a Hopper GPU do, and here is none: nothing is written")
        return
    found = dict(works=measure(), peers=by_hand.peer_versions())
    print(record.write(found, out, "python -m flashlab.course.counters", commit or None, "cuda", "counters-"))


if __name__ == "__main__":
    import typer

    typer.run(main)
