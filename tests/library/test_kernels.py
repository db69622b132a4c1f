"""The Triton kernels: in the interpreter here, compiled where there is a GPU."""

import math

import pytest
import torch

from flashlab import reference, remembered
from flashlab.remembered import Remembered
from flashlab.spec import Spec
from tests.protocol import FEATURE_CASES, PLAIN_CASES, Case, assert_as_good_as_plain

pytest.importorskip("triton")  # no build for macOS

from flashlab.kernels import launch  # noqa: E402
from flashlab.kernels.backward import backward  # noqa: E402
from flashlab.kernels.forward import forward  # noqa: E402
from flashlab.kernels.hopper import backward as hopper_backward  # noqa: E402
from flashlab.kernels.mask_gradient import mask_gradient  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BAND = 3  # rows and columns of guard around a tensor


def run(case, tensors):
    """What `attention_and_gradients` gives, straight from the kernels."""
    query, key, value, grad_out = tensors
    options = case.options(query.dtype, query.device)
    _, _, _, spec, extras = case.described(query, key, value)
    out, lse = forward(query, key, value, spec, extras)
    *grads, delta = backward(grad_out, query, key, value, out, lse, spec, None, extras)
    results = {"out": out} | dict(zip(("grad_query", "grad_key", "grad_value"), grads, strict=True))
    mask = options.get("attn_mask")
    if mask is not None and mask.is_floating_point():
        results["grad_attn_mask"] = mask_gradient(grad_out, query, key, value, lse, delta, spec, extras).reshape(mask.shape)
    if extras.sinks is not None:
        from flashlab.ops import _sinks_gradient

        results["grad_sinks"] = _sinks_gradient(extras.sinks, lse, delta)
    return results


@pytest.mark.parametrize("case", PLAIN_CASES + FEATURE_CASES, ids=str)
def test_error_is_at_most_twice_that_of_plain_torch(case):
    tensors = case.tensors(torch.float32, DEVICE)
    assert_as_good_as_plain(case, run(case, tensors), tensors)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_error_is_at_most_twice_that_of_plain_torch_in_float16(case):
    tensors = case.tensors(torch.float16, DEVICE)
    assert_as_good_as_plain(case, run(case, tensors), tensors)


def test_a_call_is_planned_once_for_all_calls_like_it(monkeypatch):
    plans, seen = Remembered(), []
    monkeypatch.setattr(launch, "_plans", plans)

    def call(seqlen=33, dtype=torch.float32, spec=Spec(0.3), first=0, lay_out=lambda x: x):  # noqa: B008 (a Spec is frozen)
        tensors = [lay_out(torch.randn(1, 2, seqlen, 16 + first, device=DEVICE).to(dtype))[..., first:] for _ in range(3)]
        out, _ = forward(*tensors, spec)
        truth, _ = reference.attention(*tensors, spec)
        torch.testing.assert_close(out.double(), truth, atol=5e-3, rtol=5e-3)
        seen.append(len(plans))

    call()
    call()  # other numbers alone: nothing new
    assert seen == [1, 1]
    call(seqlen=34)
    call(dtype=torch.float16)
    call(spec=Spec(0.3, True))
    call(lay_out=lambda x: x.mT.contiguous().mT)
    call(first=1)  # begins at an address that is no multiple of 16
    assert seen == [1, 1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(remembered, "MOST", 6)
    call(seqlen=35)
    assert seen[-1] == 1


def test_a_lambda_is_refused_in_words():
    tensors = [torch.randn(1, 1, 9, 16, device=DEVICE) for _ in range(3)]
    with pytest.raises(ValueError, match="is a lambda, whose source Triton cannot read"):
        forward(*tensors, Spec(0.3, mask_mod=lambda batch, head, i, j: j <= i))


@pytest.mark.parametrize("features", [(), ("bottom_right", "left_window"), ("softcap", "sinks")], ids=str)
def test_the_gradient_that_reaches_lse(features):
    case = Case(70, 45, 24, features=features, heads=4, heads_kv=2)
    query, key, value, grad_out = case.tensors(torch.float32, DEVICE)
    _, _, _, spec, extras = case.described(query, key, value)
    out, lse = forward(query, key, value, spec, extras)
    grad_lse = torch.randn(1, 70, 4, device=DEVICE).transpose(1, 2)  # any strides
    expected = reference.all_gradients(grad_out, query, key, value, spec, grad_lse, extras)
    for mine, truth in zip(backward(grad_out, query, key, value, out, lse, spec, grad_lse, extras)[:3], expected[:3], strict=True):
        torch.testing.assert_close(mine.double(), truth, atol=1e-4, rtol=1e-4)


def guarded(x, fill):
    """The same values in the middle of a larger buffer that is full of `fill`."""
    batch, heads, seqlen, head_dim = x.shape
    buffer = torch.full((batch, heads, seqlen + 2 * BAND, head_dim + 2 * BAND), fill, dtype=x.dtype, device=x.device)
    inside = buffer[:, :, BAND : BAND + seqlen, BAND : BAND + head_dim]
    inside.copy_(x)
    return buffer, inside


GUARDED = [
    *(Case(*shape, is_causal) for shape in ((33, 47, 20), (64, 64, 16), (5, 70, 64)) for is_causal in (False, True)),
    Case(70, 90, 20, features=("window",)),
    Case(70, 90, 20, value_dim=36, features=("jagged_blocks",)),
    Case(40, 150, 8, True, features=("bottom_right", "sinks")),
]


@pytest.mark.parametrize("case", GUARDED, ids=str)
def test_nothing_outside_the_inputs_is_read_into_the_result(case):
    tensors = case.tensors(torch.float32, DEVICE)
    surrounded = [guarded(x, float("nan"))[1] for x in tensors]
    plain, ours = run(case, tensors), run(case, surrounded)
    assert all(torch.equal(plain[name], ours[name]) for name in plain)


@pytest.mark.parametrize("shared", [False, True])
def test_nothing_outside_a_mask_is_read(shared):
    case = Case(70, 90, 20, batch=2)
    query, key, value, grad_out = case.tensors(torch.float32, DEVICE)
    mask = torch.randn(1 if shared else 2, 1 if shared else 2, 70, 90, device=DEVICE)
    expected = None
    for attn_mask in (mask, guarded(mask, float("nan"))[1]):
        from flashlab.attention import described

        _, _, _, spec, extras = described(query, key, value, attn_mask=attn_mask)
        out, lse = forward(query, key, value, spec, extras)
        *grads, delta = backward(grad_out, query, key, value, out, lse, spec, None, extras)
        results = [out, *grads, mask_gradient(grad_out, query, key, value, lse, delta, spec, extras)]
        expected = expected or results
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("case", GUARDED, ids=str)
def test_nothing_outside_the_outputs_is_written(case, monkeypatch):
    sentinel, buffers = 12345.0, []

    def guarded_empty_like(x, *_, **__):
        if x.dim() != 4:
            return torch.empty(x.shape, dtype=x.dtype, device=x.device)
        buffer, inside = guarded(torch.full(x.shape, float("nan"), dtype=x.dtype, device=x.device), sentinel)
        buffers.append((buffer, inside))
        return inside

    tensors = case.tensors(torch.float32, DEVICE)
    case.described(*tensors[:3])  # a block mask allocates too
    monkeypatch.setattr(
        "flashlab.layout.empty_out",
        lambda query, value: guarded_empty_like(query[..., :1].expand(*query.shape[:3], value.shape[3])),
    )
    monkeypatch.setattr(torch, "empty_like", guarded_empty_like)
    results = run(case, tensors)
    assert len(buffers) == 4  # out and three gradients
    assert all(x.isfinite().all() for x in results.values())  # every element was written
    for buffer, inside in buffers:
        inside.fill_(sentinel)
        assert (buffer == sentinel).all()


@pytest.mark.parametrize("features", [(), ("bias", "dropout"), ("document_blocks",)], ids=str)
def test_backward_gives_the_same_bits_every_time(features):
    case = Case(100, 120, 32, "document_blocks" not in features, heads=4, heads_kv=2, features=features)
    tensors = case.tensors(torch.float16, DEVICE)
    first, second = run(case, tensors), run(case, tensors)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_gpu_drops_the_pairs_that_a_cpu_drops():
    from flashlab import attention

    case = Case(70, 90, 16, features=("dropout",))
    tensors = case.tensors(torch.float32, DEVICE)
    expected = attention(*(x.cpu() for x in tensors[:3]), dropout_p=0.25, seed=7)
    torch.testing.assert_close(run(case, tensors)["out"].cpu(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("features", [(), ("alibi",), ("padding",)], ids=str)
@pytest.mark.parametrize(("seqlen", "head_dim"), [(70, 64), (70, 128), (130, 64), (128, 64)])
def test_two_numbers_of_each_row_as_the_hopper_kernel_wants_them(features, seqlen, head_dim):
    """Where something is added to scores, rows past the end are there to the end of their tile: p of such a row might be infinite."""
    case = Case(seqlen, seqlen, head_dim, True, features=features)
    query, key, value, grad_out = case.tensors(torch.float32, DEVICE)
    *_, spec, extras = case.described(query, key, value)
    out, lse = forward(query, key, value, spec, extras)
    walked = hopper_backward.WALKED[head_dim]
    padded = -(-seqlen // walked) * walked if features else -(-seqlen // 4) * 4
    rows, delta = lse.new_full((1, 2, 2, padded), torch.nan), torch.empty_like(lse)
    to_rows, _ = hopper_backward.plan(query, key, value, grad_out, out, lse, None, spec, extras, None)
    to_rows(out, grad_out, lse, None, delta, rows, torch.empty_like(query), None)
    expected = (lse / math.log(2)).masked_fill(lse == -torch.inf, torch.inf)
    if "alibi" in features:
        expected += (torch.arange(seqlen, device=DEVICE) % walked) * extras.alibi_slopes[0, :, None] / math.log(2)
    torch.testing.assert_close(rows[0, :, 0, :seqlen], expected[0])
    torch.testing.assert_close(rows[0, :, 1, :seqlen], (out * grad_out).sum(-1)[0])
    assert (rows[0, :, 0, seqlen:] == torch.inf).all() and (rows[0, :, 1, seqlen:] == 0).all()
