"""Speed beside every peer: one problem at a time, each output checked before it is timed, all of them taking turns."""

from dataclasses import asdict

import torch

from flashlab.bench import peers as known
from flashlab.bench.peak import peak_bytes
from flashlab.bench.timing import ROUND_MS, ROUNDS, interleaved

LARGEST_ERROR = 0.05  # of an output whose values are near 1


def measure(problem, peers, device="cuda", rounds=ROUNDS, round_ms=ROUND_MS):
    """One row: the problem, and for each peer its times, peak bytes and error, or why it did not run."""
    leaves, grad_out = problem.tensors(device)
    attends, results = {}, {}
    for peer in peers:
        try:
            attends[peer.name], results[peer.name] = _checked(peer, problem, leaves, grad_out, device)
        except known.Refused as refusal:
            results[peer.name] = dict(refused=str(refusal))
        except (RuntimeError, NotImplementedError, TypeError, ImportError) as error:  # what a peer says where it has no kernel
            results[peer.name] = dict(refused=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}")
    for way, works in _works(attends, leaves, grad_out).items():
        for name, times in interleaved(works, device, rounds, round_ms).items():
            results[name][way] = times._asdict()
    return asdict(problem) | dict(batch=problem.batch, heads=problem.heads, kind=problem.kind, flops=problem.flops, peers=results)


def tflops(row, name, way):
    """TFLOP/s of a peer in a row, or None where it did not run; way: "forward", "backward" or "both"."""
    ms = milliseconds(row, name, way)
    return ms and row["flops"] * {"forward": 1.0, "backward": 2.5, "both": 3.5}[way] / ms / 1e9


def ratio(row, name, way):
    """How many times as long as flashlab a peer takes; above 1, flashlab is faster. None where it did not run."""
    ms = milliseconds(row, name, way)
    return ms and ms / milliseconds(row, "flashlab", way)


def milliseconds(row, name, way):
    """The median of a peer in a row, or None where it did not run; "both" is a forward pass and then a backward pass."""
    result = row["peers"].get(name, {})
    if "forward" not in result:
        return None
    return sum(result[part]["median"] for part in (("forward", "backward") if way == "both" else (way,)))


def _checked(peer, problem, leaves, grad_out, device):
    """(what attends, its error and peak bytes), or an error."""
    attend = peer.prepare(problem, *leaves)
    error = problem.error(attend(), *leaves)
    if not error < LARGEST_ERROR:
        raise known.Refused(f"wrong result: the error is {error:.3g}, so it is not timed")
    # Compiles, and refuses where there is no backward pass. FlexAttention compiles one that can be repeated only if the first is to be.
    torch.autograd.grad(attend(), leaves, grad_out, retain_graph=True)
    return attend, dict(error=error, peak_bytes=peak_bytes(lambda: torch.autograd.grad(attend(), leaves, grad_out), device))


def _works(attends, leaves, grad_out):
    """{way: {peer: work}}."""

    def backward(attend):
        out = attend()
        return lambda: torch.autograd.grad(out, leaves, grad_out, retain_graph=True)

    return {"forward": attends, "backward": {name: backward(attend) for name, attend in attends.items()}}
