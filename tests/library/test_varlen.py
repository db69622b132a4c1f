"""Packed sequences: each is computed as if it were alone, on every path."""

import pytest
import torch

from flashlab import attention, attention_varlen
from flashlab.attention import described
from flashlab.masks import documents
from tests.protocol import drawing, jagged, nearer

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
LENGTHS = [((5, 0, 130, 1), (7, 3, 64, 0)), ((70, 59), (70, 59)), ((0, 0), (0, 0)), ((129,), (1,))]
OPTIONS = {
    "plain": dict(),
    "causal": dict(is_causal=True),
    "bottom_right": dict(is_causal=True, alignment="bottom_right"),
    "window": dict(window=(9, 4), alignment="bottom_right"),
    "softcap": dict(softcap=2.0),
    "jagged": dict(mask_mod=jagged),
    "bias_mod": dict(bias_mod=nearer),
}


def starts(lengths, device="cpu"):
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).to(torch.int32).to(device)


def packed_tensors(lengths_q, lengths_k, dtype=torch.float32, device="cpu"):
    draw = drawing(3)
    total_q, total_k = sum(lengths_q), sum(lengths_k)
    shapes = ((total_q, 4, 24), (total_k, 2, 24), (total_k, 2, 40), (total_q, 4, 40))
    return [draw(*shape).to(device, dtype) for shape in shapes]


def one_by_one(query, key, value, lengths_q, lengths_k, **options):
    """The same by calls of `attention`, each its own sequence."""
    outs, lses, at_q, at_k = [], [], 0, 0
    for number, (length_q, length_k) in enumerate(zip(lengths_q, lengths_k, strict=True)):
        alone = [
            x[at : at + length].transpose(0, 1)[None]
            for x, at, length in ((query, at_q, length_q), (key, at_k, length_k), (value, at_k, length_k))
        ]
        own = dict(options)
        if own.get("mask_mod") is jagged:  # its batch index is the number of the sequence
            own["mask_mod"] = lambda batch, head, i, j, number=number: jagged(batch + number, head, i, j)
        if "alibi_slopes" in own and own["alibi_slopes"].dim() == 2:
            own["alibi_slopes"] = own["alibi_slopes"][number]
        out, lse = attention(*alone, enable_gqa=True, return_lse=True, **own)
        outs.append(out[0].transpose(0, 1))
        lses.append(lse[0])
        at_q, at_k = at_q + length_q, at_k + length_k
    return torch.cat(outs), torch.cat(lses, dim=1)


def assert_same(ours, expected, leaves, expected_leaves, grad_out):
    tolerance = dict(atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ours[0], expected[0].to(ours[0].device), **tolerance)
    torch.testing.assert_close(ours[1], expected[1].to(ours[1].device), **tolerance)
    grads = torch.autograd.grad(ours[0], leaves, grad_out)
    truths = torch.autograd.grad(expected[0], expected_leaves, grad_out.to(expected[0].device))
    for grad, truth in zip(grads, truths, strict=True):
        torch.testing.assert_close(grad, truth.to(grad.device), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(("lengths_q", "lengths_k"), LENGTHS)
def test_each_sequence_is_computed_as_if_alone(lengths_q, lengths_k, option, device):
    *tensors, grad_out = packed_tensors(lengths_q, lengths_k, device=device)
    leaves = [x.requires_grad_() for x in tensors]
    ours = attention_varlen(
        *leaves, starts(lengths_q, device), starts(lengths_k, device), enable_gqa=True, return_lse=True, **OPTIONS[option]
    )
    expected_leaves = [x.detach().cpu().requires_grad_() for x in tensors]
    expected = one_by_one(*expected_leaves, lengths_q, lengths_k, **OPTIONS[option])
    assert_same(ours, expected, leaves, expected_leaves, grad_out)


@pytest.mark.parametrize("device", DEVICES)
def test_slopes_labels_and_sinks(device):
    lengths = (40, 0, 75)
    *tensors, grad_out = packed_tensors(lengths, lengths, device=device)
    leaves = [x.requires_grad_() for x in tensors]
    slopes, sinks = drawing(5)(3, 4).abs(), drawing(6)(4)
    labels = torch.arange(115, dtype=torch.int32) // 13
    ours = attention_varlen(
        *leaves, starts(lengths, device), starts(lengths, device), enable_gqa=True, return_lse=True, alibi_slopes=slopes.to(device),
        sinks=sinks.to(device), mask_mod=documents, query_labels=labels.to(device), key_labels=labels.to(device),
    )  # fmt: skip
    expected_leaves = [x.detach().cpu().requires_grad_() for x in tensors]
    parts, at = [], 0
    for number, length in enumerate(lengths):
        own = labels[None, at : at + length]
        parts.append(one_by_one(
            *(x[at : at + length] for x in expected_leaves), (length,), (length,),
            alibi_slopes=slopes[number], sinks=sinks, mask_mod=documents, query_labels=own, key_labels=own,
        ))  # fmt: skip
        at += length
    expected = torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts], dim=1)
    assert_same(ours, expected, leaves, expected_leaves, grad_out)


@pytest.mark.parametrize("option", OPTIONS)
def test_the_kernels_in_the_interpreter(option):
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("compiled above")
    from flashlab import blockwise
    from flashlab.kernels.backward import backward
    from flashlab.kernels.forward import forward

    lengths_q, lengths_k = (5, 0, 70, 1), (7, 3, 64, 0)
    query, key, value, grad_out = (x.transpose(0, 1)[None] for x in packed_tensors(lengths_q, lengths_k))
    _, _, _, spec, extras = described(query, key, value, enable_gqa=True, **OPTIONS[option])
    extras = extras._replace(cu_seqlens_q=starts(lengths_q), cu_seqlens_k=starts(lengths_k))
    expected, expected_lse = blockwise.forward(query, key, value, spec, extras)
    out, lse = forward(query, key, value, spec, extras)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(lse, expected_lse, atol=2e-5, rtol=1e-4)
    truths = blockwise.backward(grad_out, query, key, value, expected, expected_lse, spec, None, extras)
    for grad, truth in zip(backward(grad_out, query, key, value, out, lse, spec, None, extras), truths, strict=True):
        torch.testing.assert_close(grad, truth, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_drops_the_same_pairs_as_in_a_batch(device):
    query = torch.randn(2, 4, 60, 16, device=device)
    out = attention(query, query, query, dropout_p=0.4, seed=3)
    packed = query.transpose(1, 2).flatten(0, 1)
    ours = attention_varlen(packed, packed, packed, starts((60, 60), device), starts((60, 60), device), dropout_p=0.4, seed=3)
    torch.testing.assert_close(ours.unflatten(0, (2, 60)).transpose(1, 2), out)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_into_one_graph(device):
    lengths = (30, 0, 45)
    *tensors, grad_out = packed_tensors(lengths, lengths, device=device)
    leaves, cu = [x.requires_grad_() for x in tensors], starts(lengths, device)

    def attend(query, key, value, cu):
        return attention_varlen(query, key, value, cu, cu, enable_gqa=True, is_causal=True)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for mine, truth in zip(
        torch.autograd.grad(compiled(*leaves, cu), leaves, grad_out),
        torch.autograd.grad(attend(*leaves, cu), leaves, grad_out),
        strict=True,
    ):
        torch.testing.assert_close(mine, truth)


@pytest.fixture
def uninitialised_is_nan():
    kept = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(kept)


PADDED, OWNED = (30, 0, 45), 75  # rows behind these belong to no sequence, as of a tensor of one size for all batches


@pytest.mark.parametrize("way", ["compiled", "vmap"])
@pytest.mark.parametrize("device", DEVICES)
def test_rows_that_no_sequence_owns_are_zero(way, device, uninitialised_is_nan):
    *tensors, grad_out = packed_tensors((OWNED + 9,), (OWNED + 5,), device=device)
    leaves, cu = [*(x.requires_grad_() for x in tensors), torch.zeros(4, device=device, requires_grad=True)], starts(PADDED, device)

    def attend(query, key, value, sinks, cu):
        return attention_varlen(query, key, value, cu, cu, enable_gqa=True, sinks=sinks, return_lse=True)

    if way == "compiled":
        out, lse = torch.compile(attend, fullgraph=True, backend="aot_eager")(*leaves, cu)
    else:
        out, lse = (x[0] for x in torch.func.vmap(lambda cu: attend(*leaves, cu))(cu[None]))
    grads = torch.autograd.grad(out, leaves, grad_out)
    owned = [*(x[:OWNED] for x in leaves[:3]), leaves[3]]
    expected, expected_lse = attend(*owned, cu)
    torch.testing.assert_close(out, torch.cat([expected, torch.zeros_like(out[OWNED:])]))
    torch.testing.assert_close(lse, torch.cat([expected_lse, torch.full_like(lse[:, OWNED:], -torch.inf)], dim=1))
    for grad, truth in zip(grads, torch.autograd.grad(expected, leaves, grad_out[:OWNED]), strict=True):
        torch.testing.assert_close(grad, truth, atol=1e-4, rtol=1e-4)  # slices have gradients of 0 outside


def test_rows_that_no_sequence_owns_are_zero_in_the_interpreter(uninitialised_is_nan):
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("compiled above")
    from flashlab import blockwise
    from flashlab.kernels.backward import backward
    from flashlab.kernels.forward import forward

    query, key, value, grad_out = (x.transpose(0, 1)[None] for x in packed_tensors((OWNED + 9,), (OWNED + 5,)))
    _, _, _, spec, extras = described(query, key, value, enable_gqa=True)
    extras = extras._replace(cu_seqlens_q=starts(PADDED), cu_seqlens_k=starts(PADDED))
    found = forward(query, key, value, spec, extras)
    for mine, truth in zip(found, blockwise.forward(query, key, value, spec, extras), strict=True):
        torch.testing.assert_close(mine, truth, atol=2e-5, rtol=1e-4)
    truths = blockwise.backward(grad_out, query, key, value, *found, spec, None, extras)
    for grad, truth in zip(backward(grad_out, query, key, value, *found, spec, None, extras), truths, strict=True):
        torch.testing.assert_close(grad, truth, atol=1e-4, rtol=1e-4)


def test_second_derivatives_are_refused_not_wrong():
    query = torch.randn(9, 2, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(attention_varlen(query, query, query, starts((4, 5)), starts((4, 5))).sum(), query, create_graph=True)
    with pytest.raises(NotImplementedError, match="attention_varlen"):
        grad.sum().backward()
