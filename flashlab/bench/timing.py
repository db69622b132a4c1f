"""How long GPU work takes: medians of events, the L2 cache flushed between runs."""

import torch


def milliseconds(work):
    from triton.testing import do_bench

    return do_bench(work, warmup=25, rep=100, return_mode="median")


def forward_and_backward(attend, leaves, grad_out):
    """(forward, backward) in milliseconds of a function without arguments that returns the output for `leaves`."""
    out = attend()
    return milliseconds(attend), milliseconds(lambda: torch.autograd.grad(out, leaves, grad_out, retain_graph=True))
