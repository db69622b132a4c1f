"""torch custom operators: CPU and CUDA dispatch, shapes for the compiler, and the tie between forward and backward."""

import torch
from torch import Tensor

from flashlab import blockwise
from flashlab.spec import Spec


@torch.library.custom_op("flashlab::attention_forward", mutates_args=(), device_types="cpu")
def attention_forward(query: Tensor, key: Tensor, value: Tensor, scale: float, is_causal: bool) -> tuple[Tensor, Tensor]:
    """(out, lse) of `flashlab.attention`, whose arguments have been checked."""
    return blockwise.forward(query, key, value, Spec(scale, is_causal))


@torch.library.custom_op("flashlab::attention_backward", mutates_args=(), device_types="cpu")
def attention_backward(
    grad_out: Tensor, grad_lse: Tensor | None, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor,
    scale: float, is_causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(grad_query, grad_key, grad_value) for the gradients that reach out and lse."""
    return blockwise.backward(grad_out, query, key, value, out, lse, Spec(scale, is_causal), grad_lse)


@attention_forward.register_kernel("cuda")
def _forward_on_cuda(query, key, value, scale, is_causal):
    _require_triton()
    from flashlab.kernels.forward import forward

    with torch.cuda.device_of(query):
        return forward(query, key, value, Spec(scale, is_causal))


@attention_backward.register_kernel("cuda")
def _backward_on_cuda(grad_out, grad_lse, query, key, value, out, lse, scale, is_causal):
    from flashlab.kernels.backward import backward

    with torch.cuda.device_of(query):
        return backward(grad_out, query, key, value, out, lse, Spec(scale, is_causal), grad_lse)


@attention_forward.register_fake
def _forward_shapes(query, key, value, scale, is_causal):
    lse_dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=lse_dtype)


@attention_backward.register_fake
def _backward_shapes(grad_out, grad_lse, query, key, value, out, lse, scale, is_causal):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save_for_backward(ctx, inputs, output):
    query, key, value, ctx.scale, ctx.is_causal = inputs
    ctx.save_for_backward(query, key, value, *output)
    ctx.set_materialize_grads(False)  # most callers drop lse: its gradient stays None instead of a tensor of zeros


def _backward(ctx, grad_out, grad_lse):
    query, key, value, out, lse = ctx.saved_tensors
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    grads = attention_backward(grad_out, grad_lse, query, key, value, out, lse, ctx.scale, ctx.is_causal)
    return *grads, None, None


attention_forward.register_autograd(_backward, setup_context=_save_for_backward)


def _require_triton():
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "CUDA tensors need Triton, which is not installed: pip install triton (on Windows: triton-windows). "
            "`flashlab doctor` says what else this machine needs."
        ) from error
