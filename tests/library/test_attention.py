"""The public function on the CPU: right, lean, differentiable, compilable, and helpful when it refuses."""

import functools

import pytest
import torch
import torch.nn.functional as F

from flashlab import attention, ops, reference
from flashlab.bench.peak import peak_bytes
from tests.protocol import CASES, Case, assert_as_good_as_plain, attention_and_gradients


def attend(case):
    return functools.partial(attention, is_causal=case.is_causal, enable_gqa=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_error_is_at_most_twice_that_of_plain_torch(case, dtype):
    tensors = case.tensors(dtype)
    assert_as_good_as_plain(case, attention_and_gradients(attend(case), tensors), tensors)


@pytest.mark.parametrize("is_causal", [False, True])
def test_gradients_by_finite_differences(is_causal):
    query, key, value, _ = Case(5, 7, 3, heads=4, heads_kv=2).tensors(torch.float64)
    leaves = [x.requires_grad_() for x in (query, key, value)]
    both = functools.partial(attention, is_causal=is_causal, enable_gqa=True, return_lse=True)
    assert torch.autograd.gradcheck(both, leaves)


def test_agrees_with_sdpa_where_names_coincide():
    query, key, value, _ = Case(33, 41, 16).tensors(torch.float32)
    for options in ({}, {"is_causal": True}, {"scale": 0.3}, {"scale": -0.3}, {"scale": 0.0}):
        torch.testing.assert_close(attention(query, key, value, **options), F.scaled_dot_product_attention(query, key, value, **options))


def test_lse_is_float32_natural_log():
    case = Case(37, 41, 16, True)
    query, key, value, _ = case.tensors(torch.float16)
    _, lse = attention(query, key, value, is_causal=True, return_lse=True)
    assert lse.dtype == torch.float32
    torch.testing.assert_close(lse.double(), reference.attention(query, key, value, case.spec)[1], rtol=1e-5, atol=1e-5)


def test_no_keys_gives_zero_and_no_nan():
    query, key = torch.randn(1, 2, 3, 8, requires_grad=True), torch.randn(1, 2, 0, 8)
    out, lse = attention(query, key, key, return_lse=True)
    out.sum().backward()
    assert (out == 0).all() and (lse == -torch.inf).all() and (query.grad == 0).all()


@pytest.mark.parametrize("magnitude", [0.0, 100.0])
def test_scores_that_are_all_equal_or_beyond_ten_thousand(magnitude):
    case = Case(40, 50, 16, magnitude=magnitude)
    tensors = case.tensors(torch.float32)
    query, key, value, _ = tensors
    results = attention_and_gradients(attention, tensors)
    assert all(x.isfinite().all() for x in results)
    largest = (query @ key.mT).abs().max().item() * case.spec.scale
    rounding = torch.finfo(torch.float32).eps * max(1.0, largest)  # a float32 score is known to this much
    truth = reference.attention(query, key, value, case.spec)[0]
    torch.testing.assert_close(results[0].double(), truth, rtol=0, atol=4 * rounding * value.abs().max().item())


def test_strided_inputs_give_the_same_bits():
    packed = torch.randn(2, 50, 3, 4, 16)  # (B, S, 3, H, D), as a fused projection leaves it
    query, key, value = (x.transpose(1, 2) for x in packed.unbind(2))
    assert not query.is_contiguous()
    expected = attention(query.contiguous(), key.contiguous(), value.contiguous())
    assert torch.equal(attention(query, key, value), expected)
    assert torch.equal(attention(query, key.flip(3).flip(3), value), expected)


def test_expanded_gradients_are_accepted():
    query = torch.randn(1, 2, 9, 8, requires_grad=True)
    attention(query, query, query).sum().backward()  # the gradient of sum() has stride 0
    assert query.grad.isfinite().all()


def test_backward_gives_the_same_bits_every_time():
    tensors = Case(130, 140, 32, True, heads=4, heads_kv=2).tensors(torch.float32)
    first, second = (attention_and_gradients(attend(Case(130, 140, 32, True)), tensors) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_memory_grows_linearly_with_sequence_length():
    def forward_and_backward(seqlen):
        query, key, value = (torch.randn(1, 2, seqlen, 32, requires_grad=True) for _ in range(3))
        return peak_bytes(lambda: attention(query, key, value).sum().backward())

    short, middle, long = (forward_and_backward(seqlen) for seqlen in (1024, 2048, 4096))
    assert long - middle < 3 * (middle - short)  # twice the difference is linear, four times quadratic
    assert long < 2 * 4 * 4096 * 4096 / 10  # a tenth of one float32 S×S matrix for two heads


def test_operators_are_well_formed():
    query, key, value, grad_out = Case(9, 11, 8, heads=4, heads_kv=2).tensors(torch.float32)
    leaves = [x.requires_grad_() for x in (query, key, value)]
    torch.library.opcheck(ops.attention_forward, (*leaves, 0.3, True))
    out, lse = ops.attention_forward(*leaves, 0.3, True)
    saved = [x.detach() for x in (query, key, value, out, lse)]
    for grad_lse in (None, torch.randn_like(lse.detach())):
        torch.library.opcheck(ops.attention_backward, (grad_out, grad_lse, *saved, 0.3, True))


def test_compiles_into_one_graph():
    tensors = Case(17, 19, 8, True).tensors(torch.float32)
    compiled = torch.compile(functools.partial(attention, is_causal=True), fullgraph=True, backend="aot_eager")
    expected = attention_and_gradients(functools.partial(attention, is_causal=True), tensors)
    for mine, truth in zip(attention_and_gradients(compiled, tensors), expected, strict=True):
        torch.testing.assert_close(mine, truth)


def test_second_derivatives_are_refused_not_wrong():
    query = torch.randn(1, 1, 4, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(attention(query, query, query).sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        grad.sum().backward()


def tensor(*shape, **options):
    return torch.zeros(*shape, **options)


GOOD = (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (([1.0], tensor(GOOD), tensor(GOOD)), {}, ["query", "list", "torch.Tensor"]),
        ((tensor(2, 4, 8), tensor(GOOD), tensor(GOOD)), {}, ["query", "3 dimensions", "(2, 4, 8)", "unsqueeze"]),
        ((tensor(GOOD), tensor(GOOD, dtype=torch.float16), tensor(GOOD)), {}, ["key", "float16", "float32", ".to(query.dtype)"]),
        ((tensor(GOOD), tensor(GOOD), tensor(GOOD, device="meta")), {}, ["value", "meta", "cpu", ".to(query.device)"]),
        ((tensor(GOOD, dtype=torch.int64),) * 3, {}, ["query", "int64", "float16", "bfloat16", "float32"]),
        ((tensor(2, 2, 4, 8), tensor(GOOD), tensor(GOOD)), {}, ["batch", "(2, 2, 4, 8)"]),
        ((tensor(GOOD), tensor(1, 2, 5, 8), tensor(GOOD)), {}, ["same sequence length", "(1, 2, 5, 8)"]),
        ((tensor(GOOD), tensor(1, 2, 4, 6), tensor(1, 2, 4, 6)), {}, ["head dims differ", "(1, 2, 4, 6)"]),
        ((tensor(1, 2, 4, 129),) * 3, {}, ["head_dim is 129", "1 to 128", "more heads"]),
        ((tensor(1, 2, 4, 0),) * 3, {}, ["head_dim is 0", "1 to 128"]),
        ((tensor(1, 12, 4, 8), tensor(1, 5, 4, 8), tensor(1, 5, 4, 8)), {"enable_gqa": True}, ["5 heads", "12", "1, 2, 3, 4, 6, 12"]),
        ((tensor(1, 4, 4, 8), tensor(GOOD), tensor(GOOD)), {}, ["2 heads", "4", "enable_gqa=True"]),
        ((tensor(GOOD),) * 3, {"scale": float("nan")}, ["scale", "nan", "finite"]),
        ((tensor(GOOD),) * 3, {"scale": "big"}, ["scale", "'big'", "None"]),
    ],
)  # fmt: skip
def test_refusals_say_what_came_and_what_to_do(arguments, options, words):
    with pytest.raises(ValueError) as refusal:
        attention(*arguments, **options)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)
