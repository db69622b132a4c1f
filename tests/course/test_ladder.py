"""Every rung of the ladder, one test: the float64 oracle."""

import importlib

import numpy as np
import pytest
import torch

from flashlab import reference
from flashlab.course.steps import RUNGS
from flashlab.spec import Spec

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [(1, 1, 8), (1, 70, 16), (33, 33, 40), (64, 64, 64), (70, 45, 16), (45, 70, 128)]
NUMPY_RUNGS = ("naive", "online", "tiled")
CASES = [
    *((rung, dtype) for rung in NUMPY_RUNGS for dtype in (torch.float64, torch.float32)),
    *((rung, dtype) for rung in RUNGS if rung not in NUMPY_RUNGS for dtype in (torch.float32, torch.float16)),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 1e-2}


def run(rung, tensors, **options):
    """Out, lse, dQ, dK, dV of one rung, as tensors (B, H, S, D); a rung without a backward pass gives None for its gradients."""
    if rung not in NUMPY_RUNGS:
        pytest.importorskip("triton")  # no build for macOS
    module = importlib.import_module(f"flashlab.course.steps.{rung}")
    if rung not in NUMPY_RUNGS:
        query, key, value, grad_out = tensors
        out, lse = module.forward(query, key, value, **options)
        grads = module.backward(grad_out, query, key, value, out, lse, **options) if hasattr(module, "backward") else (None,) * 3
        return out, lse, *grads
    query, key, value, grad_out = (x[0, 0].numpy() for x in tensors)
    out, lse = module.forward(query, key, value, **options)
    results = out, lse, *module.backward(grad_out, query, key, value, out, lse, **options)
    return tuple(torch.from_numpy(np.asarray(x))[None, None] for x in results)


@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("rung", "dtype"), CASES, ids=str)
def test_agrees_with_the_oracle(rung, dtype, size, is_causal):
    seqlen_q, seqlen_k, head_dim = size
    heads = 1 if rung in NUMPY_RUNGS else 2
    generator = torch.Generator().manual_seed(seqlen_q * seqlen_k)
    tensors = [torch.randn(1, heads, s, head_dim, generator=generator).to(dtype) for s in (seqlen_q, seqlen_k, seqlen_k, seqlen_q)]
    if rung not in NUMPY_RUNGS:
        tensors = [x.to(DEVICE) for x in tensors]
    query, key, value, grad_out = tensors
    spec = Spec(0.3, is_causal)
    truth = (*reference.attention(query, key, value, spec), *reference.attention_backward(grad_out, query, key, value, spec))
    ours = run(rung, tensors, is_causal=is_causal, scale=spec.scale)
    for name, mine, expected in zip(("out", "lse", "dQ", "dK", "dV"), ours, truth, strict=True):
        if mine is None:
            continue
        torch.testing.assert_close(mine.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], msg=lambda m, n=name: f"{n}: {m}")
        if dtype != torch.float16:
            assert mine.dtype == dtype, f"{name} came back as {mine.dtype}"


def test_only_the_forward_rung_lacks_a_backward_pass():
    pytest.importorskip("triton")
    assert [r for r in RUNGS if not hasattr(importlib.import_module(f"flashlab.course.steps.{r}"), "backward")] == ["triton_forward"]


@pytest.mark.parametrize("rung", ["triton_forward", "triton_backward"])
def test_heads_and_batches_are_kept_apart(rung):
    tensors = [torch.randn(2, 3, 35, 16, device=DEVICE) for _ in range(4)]
    together = run(rung, tensors)
    alone = run(rung, [x[1:, 2:] for x in tensors])
    for a, b in zip(together, alone, strict=True):
        assert a is None or torch.equal(a[1:, 2:], b)
