"""Which kernels a call on a GPU takes: those for few rows, those scheduled by hand for a Hopper GPU, or the portable ones."""

from flashlab.kernels import decode, hopper


def forward(query, key, value, spec, extras):
    """The function (query, key, value, spec, extras) → (out, lse) that serves this call."""
    if decode.suits(query, key, spec, extras):
        return decode.decode
    if hopper.serves("forward", query, key, value, spec, extras):
        from flashlab.kernels.hopper.forward import forward  # imports Gluon, which only they need
    else:
        from flashlab.kernels.forward import forward
    return forward


def backward(query, key, value, spec, extras, grad_out):
    """The function (grad_out, query, key, value, out, lse, spec, grad_lse, extras) → (grad_query, grad_key, grad_value, delta)."""
    if hopper.serves("backward", query, key, value, spec, extras, grad_out):
        from flashlab.kernels.hopper.backward import backward
    else:
        from flashlab.kernels.backward import backward
    return backward
