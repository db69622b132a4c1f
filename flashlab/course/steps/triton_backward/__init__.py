"""Rung 5: the backward pass as three Triton kernels: delta, then dK and dV, then dQ. Every output row has one owner, so nothing is
added atomically and every run gives the same bits.
"""

from flashlab.course.steps.triton_backward.delta import compute_delta
from flashlab.course.steps.triton_backward.dkdv import compute_dkdv
from flashlab.course.steps.triton_backward.dq import compute_dq
from flashlab.course.steps.triton_forward import forward

__all__ = ["backward", "forward"]


def backward(dOut, Q, K, V, Out, lse, *, is_causal=False, scale=None):
    """dQ, dK, dV for tensors (B, H, S, D) and lse (B, H, Sq)."""
    scale = Q.shape[-1] ** -0.5 if scale is None else scale
    dOut, Q, K, V, Out = (x.contiguous() for x in (dOut, Q, K, V, Out))
    Delta = compute_delta(dOut, Out)
    dK, dV = compute_dkdv(dOut, Q, K, V, lse, Delta, is_causal, scale)
    return compute_dq(dOut, Q, K, V, lse, Delta, is_causal, scale), dK, dV
