"""How long work takes: medians and spread, the GPU's L2 cache flushed before each run, and works that take turns.

A GPU's clock sinks as it warms. Where every work runs a little in each round, all of them see the same clock. And a work that
draws little power may leave a higher clock to whoever runs next: so that this is not always the same one, each round has another order.
"""

import random
import statistics
import time
from typing import NamedTuple

import torch

ROUNDS = 5
ROUND_MS = 5.0  # how long each work runs in a round, at least twice
FLUSHED_BYTES = 2**30  # more than any L2 cache; and while the GPU writes them, the CPU gets ahead: no run waits for its launch
HEAD_START = 3  # flushes before the first run


class Times(NamedTuple):
    """Milliseconds of one run."""

    median: float
    low: float  # a tenth of the runs were faster
    high: float  # a tenth were slower


def interleaved(works, device, rounds=ROUNDS, round_ms=ROUND_MS):
    """{name: Times} of {name: function}."""
    timed = _on_cuda if torch.device(device).type == "cuda" else _on_cpu
    runs = {}
    for name, work in works.items():
        work()  # compiles
        runs[name] = max(2, int(round_ms / max(timed(work, 2))))
    found, order = {name: [] for name in works}, random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(works), len(works)):
            found[name] += timed(works[name], runs[name])
    return {name: _times(values) for name, values in found.items()}


def milliseconds(work):
    """The median of one work on the GPU."""
    return interleaved({"work": work}, "cuda")["work"].median


def forward_and_backward(attend, leaves, grad_out):
    """(forward, backward) in milliseconds of a function without arguments that returns the output for `leaves`."""
    out = attend()
    return milliseconds(attend), milliseconds(lambda: torch.autograd.grad(out, leaves, grad_out, retain_graph=True))


def _times(values):
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return Times(statistics.median(values), tenths[0], tenths[-1])


def _on_cuda(work, count):
    """Milliseconds of each of `count` runs."""
    cache = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device="cuda")
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for _ in range(HEAD_START):
        cache.zero_()
    for start, end in events:
        cache.zero_()
        start.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]


def _on_cpu(work, count):
    found = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        found.append((time.perf_counter() - start) * 1e3)
    return found
