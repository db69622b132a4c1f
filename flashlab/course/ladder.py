"""The ladder measured: every rung on the same problem, from NumPy on the CPU to the library's kernels. Time, peak memory, bytes moved."""

import importlib
import time
import tracemalloc

import torch

from flashlab import attention
from flashlab.bench.peak import peak_bytes
from flashlab.bench.timing import interleaved
from flashlab.course import memory
from flashlab.course.steps import RUNGS, fast_forward, naive, tiled
from flashlab.kernels import configs
from flashlab.spec import NO_EXTRAS, Spec

HEADS, SEQLEN, HEAD_DIM = 16, 1024, 64
NUMPY_RUNGS = ("naive", "online", "tiled")  # float32 on one core, head after head


def measure(device="cuda", heads=HEADS, seqlen=SEQLEN, head_dim=HEAD_DIM):
    """Rows, one a rung: milliseconds of the forward and the backward pass, peak bytes of each, and bytes that the forward pass moves.

    NumPy rungs take one head after another, so their peak is that of one head; their bytes are those of a GPU that would run them.
    """
    draw = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, heads, seqlen, head_dim, generator=draw) for _ in range(4)]
    rows = [_numpy_rung(rung, [x[0].numpy() for x in tensors]) for rung in NUMPY_RUNGS]
    tensors = [x.to(device, torch.float16) for x in tensors]
    works = {rung: _works(rung, *tensors) for rung in RUNGS if rung not in NUMPY_RUNGS} | {"flashlab": _library_works(*tensors)}
    times = [interleaved({name: pair[n] for name, pair in works.items() if pair[n]}, device) for n in (0, 1)]
    for name, pair in works.items():
        ways = dict(zip(("forward", "backward"), pair, strict=True))
        row = dict(rung=name, device=device, dtype="float16")
        row |= {f"{way}_ms": times[n][name].median if work else None for n, (way, work) in enumerate(ways.items())}
        row |= {f"{way}_peak_bytes": peak_bytes(work, device) if work else None for way, work in ways.items()}
        rows.append(row | dict(bytes_moved=heads * _bytes_of_tiles(_rows_of_a_tile(name, tensors), seqlen, head_dim, itemsize=2)))
    return [dict(heads=heads, seqlen=seqlen, head_dim=head_dim) | row for row in rows]


def _numpy_rung(rung, tensors):
    module = importlib.import_module(f"flashlab.course.steps.{rung}")
    heads = list(zip(*tensors, strict=True))
    row = dict(rung=rung, device="cpu", dtype="float32")
    start = time.perf_counter()
    results = [module.forward(q, k, v) for q, k, v, _ in heads]
    middle = time.perf_counter()
    for (q, k, v, grad_out), result in zip(heads, results, strict=True):
        module.backward(grad_out, q, k, v, *result)
    row |= dict(forward_ms=1e3 * (middle - start), backward_ms=1e3 * (time.perf_counter() - middle))
    q, k, v, grad_out = heads[0]
    row |= dict(forward_peak_bytes=_traced(lambda: module.forward(q, k, v)))
    row |= dict(backward_peak_bytes=_traced(lambda: module.backward(grad_out, q, k, v, *results[0])))
    return row | dict(bytes_moved=_counted(rung, q, k, v, len(heads)))


def _traced(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _counted(rung, q, k, v, heads):
    """Bytes between HBM and SRAM if this rung's forward pass were a GPU's kernels, counted by running it. None: it has no such form."""
    hbm = memory.HBM()
    Q, K, V, out = (*map(hbm.array, (q, k, v)), hbm.empty(q.shape))
    if rung == "naive":
        naive.forward_through_hbm(Q, K, V, hbm.empty((len(q), len(k))), hbm.empty((len(q), len(k))), out)
    elif rung == "tiled":
        tiled.forward_kernel(
            Q, K, V, out, hbm.empty(len(q)), is_causal=False, scale=q.shape[-1] ** -0.5, BLOCK_M=tiled.BLOCK_M, BLOCK_N=tiled.BLOCK_N
        )
    else:
        return None
    return heads * hbm.bytes_moved


def _bytes_of_tiles(block_m, seqlen, head_dim, itemsize):
    """Q read and out written once, K and V read once for each tile of rows, lse written in float32."""
    return (2 + 2 * -(-seqlen // block_m)) * seqlen * head_dim * itemsize + 4 * seqlen


def _rows_of_a_tile(name, tensors):
    if name == "fast_forward":
        return fast_forward.FAST.BLOCK_M
    if name != "flashlab":
        return importlib.import_module(f"flashlab.course.steps.{'triton_forward' if name == 'triton_backward' else name}").BLOCK_M
    query, key, value, _ = tensors
    spec = Spec(query.shape[-1] ** -0.5)
    described = configs.can_describe("forward", (key, value), spec, NO_EXTRAS)
    return configs.choose("forward", query, value, spec, NO_EXTRAS, described).BLOCK_M


def _works(rung, query, key, value, grad_out):
    """(forward, backward) of a rung on (B, H, S, D) tensors; None where it has no backward pass."""
    module = importlib.import_module(f"flashlab.course.steps.{rung}")
    result = module.forward(query, key, value)
    backward = getattr(module, "backward", None)
    return (
        lambda: module.forward(query, key, value),
        backward and (lambda: backward(grad_out, query, key, value, *result)),
    )


def _library_works(query, key, value, grad_out):
    leaves = [x.clone().requires_grad_() for x in (query, key, value)]
    out = attention(*leaves)
    return lambda: attention(query, key, value), lambda: torch.autograd.grad(out, leaves, grad_out, retain_graph=True)


def measure_changes(head_dim, is_causal, device="cuda", tokens=16384, width=2048, seqlen=4096):
    """Rows of lesson 10: each change on top of those before it, the last version without each of them, and the library. float16."""
    heads = width // head_dim
    query, key, value = (torch.randn(tokens // seqlen, heads, seqlen, head_dim, dtype=torch.float16, device=device) for _ in range(3))
    kernels = {("with", name): choices for name, choices in fast_forward.versions().items()}
    kernels |= {("without", name): choices for name, choices in fast_forward.all_but_one().items()}
    works = {
        kernel: lambda choices=choices: fast_forward.forward(query, key, value, is_causal=is_causal, choices=choices)
        for kernel, choices in kernels.items()
    }
    works["library", "flashlab"] = lambda: attention(query, key, value, is_causal=is_causal)
    times = interleaved(works, device)
    problem = dict(head_dim=head_dim, is_causal=is_causal, seqlen=seqlen, heads=heads, batch=tokens // seqlen, dtype="float16")
    return [problem | dict(how=how, change=change, forward_ms=times[how, change].median) for how, change in works]
