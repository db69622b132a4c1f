"""Which kernels a call on a GPU takes: those for few rows, those scheduled by hand for a Hopper GPU, or the portable ones."""

import functools
from dataclasses import replace

from flashlab.kernels import decode, hopper


def forward_like(query, key, value, spec, extras):
    """What serves this call, and any whose tensors lie as these do: (query, key, value) → (out, lse)."""
    if decode.suits(query, key, spec, extras):
        return functools.partial(decode.decode, spec=spec, extras=extras)
    if hopper.serves("forward", query, key, value, spec, extras):
        from flashlab.kernels.hopper.forward import forward_like  # imports Gluon, which only they need
    else:
        from flashlab.kernels.forward import forward_like
    return forward_like(query, key, value, spec, extras)


def backward(query, key, value, spec, extras, grad_out):
    """What serves its backward pass: (grad_out, query, key, value, out, lse, grad_lse=…) → (grad_query, grad_key, grad_value, delta)."""
    if hopper.serves("backward", query, key, value, spec, extras, grad_out):
        from flashlab.kernels.hopper.backward import backward

        if not spec.deterministic and not hopper.sums_in_any_order(query, key, spec, extras):
            spec = replace(spec, deterministic=True)
    else:
        from flashlab.kernels.backward import backward
    return functools.partial(backward, spec=spec, extras=extras)
