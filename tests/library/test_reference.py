"""The oracle itself, against torch's own float64 attention and autograd."""

import pytest
import torch
import torch.nn.functional as F

from flashlab import reference
from tests.protocol import Case


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("heads_kv", [1, 2, 4])
def test_agrees_with_torch_in_float64(is_causal, heads_kv):
    case = Case(17, 23, 8, is_causal, heads=4, heads_kv=heads_kv, batch=2)
    query, key, value, grad_out = case.tensors(torch.float64)
    leaves = [x.requires_grad_() for x in (query, key, value)]
    theirs = F.scaled_dot_product_attention(*leaves, is_causal=is_causal, enable_gqa=True)
    ours, _ = reference.attention(query, key, value, case.spec)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(theirs, leaves, grad_out)
    for mine, truth in zip(reference.attention_backward(grad_out, query, key, value, case.spec), expected, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-11, atol=1e-12)


def test_lse_and_its_gradient():
    case = Case(9, 14, 8, True)
    query, key, value, grad_out = case.tensors(torch.float64)
    query.requires_grad_()
    scores = (query @ key.mT * case.spec.scale).masked_fill(torch.ones(9, 14, dtype=torch.bool).triu(1), -torch.inf)
    lse = torch.logsumexp(scores, -1)
    torch.testing.assert_close(reference.attention(query, key, value, case.spec)[1], lse)
    grad_lse = torch.randn_like(lse)
    (expected,) = torch.autograd.grad(lse, query, grad_lse)
    ours = reference.attention_backward(torch.zeros_like(grad_out), query, key, value, case.spec, grad_lse)[0]
    torch.testing.assert_close(ours, expected)


def test_rows_that_see_no_key_are_zero_and_not_nan():
    query, key = torch.randn(1, 1, 3, 4), torch.randn(1, 1, 0, 4)
    out, lse = reference.attention(query, key, key, Case(3, 0, 4).spec)
    assert (out == 0).all() and (lse == -torch.inf).all()
