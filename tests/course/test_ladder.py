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


def test_only_the_forward_rungs_lack_a_backward_pass():
    pytest.importorskip("triton")
    without = [r for r in RUNGS if not hasattr(importlib.import_module(f"flashlab.course.steps.{r}"), "backward")]
    assert without == ["triton_forward", "real_forward", "fast_forward"]


@pytest.mark.parametrize("rung", ["triton_forward", "triton_backward", "real_forward"])
def test_heads_and_batches_are_kept_apart(rung):
    tensors = [torch.randn(2, 3, 35, 16, device=DEVICE) for _ in range(4)]
    together = run(rung, tensors)
    alone = run(rung, [x[1:, 2:] for x in tensors])
    for a, b in zip(together, alone, strict=True):
        assert a is None or torch.equal(a[1:, 2:], b)


@pytest.mark.parametrize("bottom_right", [False, True], ids=["top left", "bottom right"])
@pytest.mark.parametrize("window", [(-1, -1), (0, 0), (5, -1), (-1, 3), (40, 7)], ids=str)
@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("size", [(1, 70), (70, 45), (45, 70)], ids=str)
def test_the_real_rung_agrees_with_the_oracle_on_every_mask(size, is_causal, window, bottom_right):
    pytest.importorskip("triton")
    from flashlab.course.steps import real_forward

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, h, s, 16, generator=generator).to(DEVICE) for h, s in ((4, size[0]), (2, size[1]), (2, size[1])))
    mask = dict(is_causal=is_causal, window=window, bottom_right=bottom_right)
    for mine, expected in zip(
        real_forward.forward(query, key, value, **mask), reference.attention(query, key, value, Spec(0.25, **mask)), strict=True
    ):
        torch.testing.assert_close(mine.double(), expected, rtol=2e-5, atol=2e-5)


def test_the_walk_visits_what_is_seen_and_masks_what_is_cut():
    pytest.importorskip("triton")
    from flashlab.course.steps.real_forward import walk

    rng = np.random.default_rng(0)
    for _ in range(2000):
        first, rows, seqlen_k, block, width = (int(n) for n in rng.integers((0, 1, 1, 1, 0), (30, 10, 40, 10, 50)))
        lowest = int(rng.integers(-45, 46))
        begin, full_begin, full_end, end = walk.fn(first, first + rows - 1, seqlen_k, lowest, lowest + width, block)
        i, cut, whole = np.arange(first, first + rows)[:, None], [], []
        for start in range(0, seqlen_k, block):
            j = np.arange(start, start + block)
            seen = (j < seqlen_k) & (j >= i + lowest) & (j <= i + lowest + width)
            if seen.any():
                (whole if seen.all() else cut).append(start)
        assert [*range(begin, full_begin, block), *range(full_end, end, block)] == cut
        assert [*range(full_begin, full_end, block)] == whole


def test_a_planted_fault_changes_a_copy_and_only_where_it_says():
    pytest.importorskip("triton")
    from flashlab.course.faults import plant
    from flashlab.course.steps import real_forward

    query, key, value = (torch.randn(1, h, 40, 16, device=DEVICE) for h in (4, 2, 2))
    right = real_forward.forward(query, key, value)[0]
    broken = plant(real_forward, "head // GROUP  #", "head % (tl.num_programs(1) // GROUP)  #")
    same = [torch.equal(a, b) for a, b in zip(right[0], broken.forward(query, key, value)[0][0], strict=True)]
    assert same == [True, False, False, True]
    assert torch.equal(right, real_forward.forward(query, key, value)[0])
    for text in ("no such text", "seqlen_k"):
        with pytest.raises(ValueError, match="stands there once"):
            plant(real_forward, text, "")
