"""The Triton kernels: in the interpreter here, compiled where there is a GPU."""

import pytest
import torch

from tests.protocol import CASES, Case, assert_as_good_as_plain

pytest.importorskip("triton")  # no build for macOS

from flashlab.kernels.backward import backward  # noqa: E402
from flashlab.kernels.forward import forward  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BAND = 3  # rows and columns of guard around a tensor


def run(case, tensors):
    query, key, value, grad_out = tensors
    out, lse = forward(query, key, value, case.spec)
    return (out, *backward(grad_out, query, key, value, out, lse, case.spec))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_error_is_at_most_twice_that_of_plain_torch(case, dtype):
    tensors = case.tensors(dtype, DEVICE)
    assert_as_good_as_plain(case, run(case, tensors), tensors)


def guarded(x, fill):
    """The same values in the middle of a larger buffer that is full of `fill`."""
    batch, heads, seqlen, head_dim = x.shape
    buffer = torch.full((batch, heads, seqlen + 2 * BAND, head_dim + 2 * BAND), fill, dtype=x.dtype, device=x.device)
    inside = buffer[:, :, BAND : BAND + seqlen, BAND : BAND + head_dim]
    inside.copy_(x)
    return buffer, inside


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shape", [(33, 47, 20), (64, 64, 16), (5, 70, 64)])
def test_nothing_outside_the_inputs_is_read_into_the_result(shape, is_causal):
    case = Case(*shape, is_causal)
    tensors = case.tensors(torch.float32, DEVICE)
    surrounded = [guarded(x, float("nan"))[1] for x in tensors]
    for plain, ours in zip(run(case, tensors), run(case, surrounded), strict=True):
        assert torch.equal(plain, ours)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shape", [(33, 47, 20), (64, 64, 16), (5, 70, 64)])
def test_nothing_outside_the_outputs_is_written(shape, is_causal, monkeypatch):
    case, sentinel, buffers = Case(*shape, is_causal), 12345.0, []

    def guarded_empty_like(x):
        if x.dim() != 4:
            return torch.empty(x.shape, dtype=x.dtype, device=x.device)
        buffer, inside = guarded(torch.full_like(x, float("nan")), sentinel)
        buffers.append((buffer, inside))
        return inside

    monkeypatch.setattr(torch, "empty_like", guarded_empty_like)
    results = run(case, case.tensors(torch.float32, DEVICE))
    assert len(buffers) == 4  # out and three gradients
    assert all(x.isfinite().all() for x in results)  # every element was written
    for buffer, inside in buffers:
        inside.fill_(sentinel)
        assert (buffer == sentinel).all()


def test_backward_gives_the_same_bits_every_time():
    case = Case(100, 120, 32, True, heads=4, heads_kv=2)
    tensors = case.tensors(torch.float16, DEVICE)
    first, second = run(case, tensors), run(case, tensors)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
