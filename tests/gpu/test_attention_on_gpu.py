"""`flashlab.attention` through the compiled kernels: right in every dtype, lean, deterministic, compilable."""

import functools
import itertools

import pytest
import torch

from flashlab import attention, ops
from flashlab.bench.peak import peak_bytes
from tests.protocol import CASES, Case, assert_as_good_as_plain, attention_and_gradients

HEAD_DIMS = (1, 3, 16, 32, 40, 59, 64, 80, 96, 111, 128)
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
# Lengths and pairs in the spirit of flash-attention's own tests: odd, prime, one more and one less than a tile.
LARGE = [
    *(Case(sq, sk, 64, is_causal) for (sq, sk), is_causal in itertools.product(
        [(113, 203), (128, 217), (113, 211), (108, 256), (256, 512), (512, 256), (1024, 1024), (1023, 1024), (1024, 1023), (2048, 2048)],
        (False, True),
    )),
    *(Case(257, 259, d, is_causal, heads=4, heads_kv=4) for d in HEAD_DIMS for is_causal in (False, True)),
    *(Case(500, 600, 128, is_causal, heads=8, heads_kv=h, batch=2) for h in (1, 2, 4) for is_causal in (False, True)),
]  # fmt: skip


def attend(case):
    return functools.partial(attention, is_causal=case.is_causal, enable_gqa=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES + LARGE, ids=str)
def test_error_is_at_most_twice_that_of_plain_torch(case, dtype):
    tensors = case.tensors(dtype, "cuda")
    assert_as_good_as_plain(case, attention_and_gradients(attend(case), tensors), tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_inputs_give_the_same_bits(dtype):
    packed = torch.randn(2, 300, 3, 4, 64, dtype=dtype, device="cuda")  # (B, S, 3, H, D), as a fused projection leaves it
    strided = [x.transpose(1, 2) for x in packed.unbind(2)]
    grad_out = torch.randn(2, 300, 4, 64, dtype=dtype, device="cuda").transpose(1, 2)
    ours = attention_and_gradients(attention, [*strided, grad_out])
    expected = attention_and_gradients(attention, [x.contiguous() for x in (*strided, grad_out)])
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_inputs_with_holes_and_expanded_gradients():
    wide = torch.randn(1, 4, 200, 128, dtype=torch.float16, device="cuda")[:, ::2, :, ::2].detach().requires_grad_()
    attention(wide, wide, wide).sum().backward()
    assert wide.grad.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
def test_fifty_runs_give_the_same_bits(dtype, is_causal):
    case = Case(1025, 1027, 128, is_causal, heads=8, heads_kv=2, batch=2)
    tensors = case.tensors(dtype, "cuda")
    first = attention_and_gradients(attend(case), tensors)
    for _ in range(50):
        assert all(torch.equal(a, b) for a, b in zip(first, attention_and_gradients(attend(case), tensors), strict=True))


def test_rows_that_see_no_key():
    query, key = torch.randn(1, 2, 70, 64, device="cuda", requires_grad=True), torch.randn(1, 2, 0, 64, device="cuda")
    out, lse = attention(query, key, key, return_lse=True)
    out.sum().backward()
    assert (out == 0).all() and (lse == -torch.inf).all() and (query.grad == 0).all()


def test_gradient_of_lse():
    query, key, value, _ = Case(130, 150, 64, True).tensors(torch.float32, "cuda")
    query.requires_grad_()
    attention(query, key, value, is_causal=True, return_lse=True)[1].sum().backward()
    expected = query.detach().double().cpu().requires_grad_()
    attention(expected, key.double().cpu(), value.double().cpu(), is_causal=True, return_lse=True)[1].sum().backward()
    torch.testing.assert_close(query.grad.double().cpu(), expected.grad, rtol=1e-4, atol=1e-5)


def test_extra_memory_grows_linearly_to_64k():
    def extra(seqlen):
        tensors = [torch.randn(1, 4, seqlen, 64, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in range(3)]
        return peak_bytes(lambda: attention(*tensors, is_causal=True).sum().backward(), "cuda")

    extra(1024)  # compile before measuring
    sizes = {seqlen: extra(seqlen) for seqlen in (8192, 16384, 32768, 65536)}
    for seqlen in (8192, 16384, 32768):
        assert sizes[2 * seqlen] < 2.1 * sizes[seqlen], sizes


def test_operators_are_well_formed():
    query, key, value, grad_out = Case(90, 110, 64, heads=4, heads_kv=2).tensors(torch.float32, "cuda")
    leaves = [x.requires_grad_() for x in (query, key, value)]
    torch.library.opcheck(ops.attention_forward, (*leaves, 0.3, True))
    out, lse = ops.attention_forward(*leaves, 0.3, True)
    torch.library.opcheck(ops.attention_backward, (grad_out, None, *[x.detach() for x in (query, key, value, out, lse)], 0.3, True))


def test_torch_compile_in_one_graph():
    tensors = Case(300, 300, 64, True).tensors(torch.bfloat16, "cuda")
    causal = functools.partial(attention, is_causal=True)
    for mine, truth in zip(
        attention_and_gradients(torch.compile(causal, fullgraph=True), tensors), attention_and_gradients(causal, tensors), strict=True
    ):
        torch.testing.assert_close(mine, truth)


def test_a_model_trains_the_same_on_both_attentions():
    from flashlab.course import gpt

    size = gpt.Size(layers=2, heads=4, width=256, context=256)
    text = b"attention is a weighted sum of values, and the weights are a softmax. " * 200
    losses = [
        gpt.train(gpt.new_model(size, attend, 0, "cuda"), gpt.batches(text, size, 4, 20, 1, "cuda"))
        for attend in (gpt.naive_attention, functools.partial(attention, is_causal=True))
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_float64_is_refused():
    x = torch.zeros(1, 1, 4, 8, dtype=torch.float64, device="cuda")
    with pytest.raises(ValueError, match="float64.*on cuda.*float16, bfloat16, float32"):
        attention(x, x, x)
