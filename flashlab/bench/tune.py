"""Measures tile sizes on this machine's GPU: which are fastest for each kernel, head dim, dtype, and kind of call."""

import itertools
from dataclasses import dataclass

import torch

from flashlab.bench.timing import milliseconds
from flashlab.spec import Spec

TOKENS, WIDTH = 16384, 2048  # B·S and H·D
SEQLENS = {True: 1024, False: 8192}  # few keys a row, or many
BAND = 0.97  # what a candidate must beat the present choice by: less is noise

# (BLOCK_M, BLOCK_N, num_warps, num_stages). What does not fit a GPU, or spills, drops out by itself.
CANDIDATES = {
    "forward": (
        (128, 128, 8, 3), (128, 128, 8, 2), (128, 64, 8, 3), (128, 64, 4, 3), (128, 64, 4, 2), (128, 32, 8, 3),
        (64, 128, 4, 2), (64, 64, 4, 3), (64, 64, 4, 2), (64, 32, 4, 2), (64, 32, 4, 1), (32, 32, 4, 1),
    ),
    "dkdv": (
        (128, 64, 4, 2), (64, 128, 8, 3), (64, 128, 8, 2), (64, 64, 4, 3), (64, 64, 4, 2), (64, 64, 4, 1), (64, 64, 8, 2),
        (32, 128, 8, 2), (32, 64, 4, 2), (32, 64, 4, 1), (32, 32, 4, 1),
    ),
    "dq": (
        (128, 64, 8, 4), (128, 64, 8, 3), (128, 64, 4, 3), (128, 32, 8, 3), (128, 32, 8, 2), (64, 64, 4, 3), (64, 64, 4, 2), (64, 64, 4, 1),
        (64, 32, 4, 2), (64, 32, 4, 1), (32, 32, 4, 1),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is tuned at a time: one kernel on one kind of call."""

    kernel: str  # "forward", "dkdv" or "dq"
    head_dim: int
    dtype: torch.dtype
    banded: bool  # causal, or not
    few_keys: bool


def cases(head_dims, dtypes):
    """Every Case for these head dims (64, 128, 256) and dtypes."""
    return [Case(*case) for case in itertools.product(CANDIDATES, head_dims, dtypes, (False, True), (True, False))]


class Runner:
    """Runs a kernel of a case with given tiles, on random numbers."""

    def __init__(self, case):
        from flashlab.kernels.forward import forward

        seqlen = SEQLENS[case.few_keys]
        shape = TOKENS // seqlen, max(1, WIDTH // case.head_dim), seqlen, case.head_dim
        self.query, self.key, self.value, self.grad_out = (torch.randn(shape, dtype=case.dtype, device="cuda") for _ in range(4))
        self.case, self.spec = case, Spec(case.head_dim**-0.5, case.banded)
        self.out, self.lse = forward(self.query, self.key, self.value, self.spec)

    def __call__(self, tiles=None):
        """The results of the kernel; tiles: None for those that are chosen now."""
        from flashlab.kernels import configs
        from flashlab.kernels.backward import backward
        from flashlab.kernels.forward import forward

        chosen = {} if tiles is None else {self.case.kernel: configs.of_tiles(tiles, self.query, self.value)}
        if self.case.kernel == "forward":
            return forward(self.query, self.key, self.value, self.spec, tiles=chosen)
        grads = backward(self.grad_out, self.query, self.key, self.value, self.out, self.lse, self.spec, tiles=chosen)
        return grads[1:3] if self.case.kernel == "dkdv" else grads[:1]


def best(case, runner=Runner, time=milliseconds):
    """(tiles, its milliseconds, the milliseconds of what is chosen now); tiles is None where no candidate is faster than noise.

    A candidate that does not compile, does not fit, or gives other results than what is chosen now is left out. The fastest and that
    are measured once more, one after the other: a GPU that grows warm is slower at the end than at the beginning.
    """
    run = runner(case)
    expected = run()
    times = {}
    for tiles in CANDIDATES[case.kernel]:
        try:
            if all(map(_agree, run(tiles), expected)):
                times[tiles] = time(lambda tiles=tiles: run(tiles))
        except Exception:  # whatever a compiler or a driver says of tiles that it cannot have
            continue
    before = time(run)
    if not times:
        return None, before, before
    fastest = min(times, key=times.get)
    now = time(lambda: run(fastest))
    return (fastest, now, before) if now < BAND * before else (None, before, before)


def _agree(result, expected):
    """Whether two results differ by no more than a few roundings of their dtype."""
    allowed = 8 * torch.finfo(result.dtype).eps * expected.abs().max().item()
    return bool((result.float() - expected.float()).abs().max() <= allowed)  # NaN never agrees


def call_of(case):
    """A case as `flashlab.kernels.tuned` names it."""
    return case.kernel, case.head_dim, str(case.dtype).removeprefix("torch."), case.banded, case.few_keys
