"""`flashlab.attention` through the compiled kernels: right in every dtype, lean, deterministic, compilable."""

import functools
import itertools

import pytest
import torch

from flashlab import attention, explain, ops
from flashlab.bench.peak import peak_bytes
from tests.protocol import (
    CASES,
    FEATURES,
    Case,
    assert_as_good_as_plain,
    attention_and_gradients,
    differentiable,
    documents,
)  # fmt: skip

HEAD_DIMS = (1, 3, 16, 32, 40, 59, 64, 80, 96, 111, 128, 160, 192, 224, 256)
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
# Lengths and pairs in the spirit of flash-attention's own tests: odd, prime, one more and one less than a tile.
LARGE = [
    *(Case(sq, sk, 64, is_causal) for (sq, sk), is_causal in itertools.product(
        [(113, 203), (128, 217), (113, 211), (108, 256), (256, 512), (512, 256), (1024, 1024), (1023, 1024), (1024, 1023), (2048, 2048)],
        (False, True),
    )),
    *(Case(sq, sk, 64, True, features=("bottom_right",)) for sq, sk in [(113, 203), (203, 113), (1023, 1024), (1024, 1023), (1, 800)]),
    *(Case(257, 259, d, is_causal, heads=4, heads_kv=4) for d in HEAD_DIMS for is_causal in (False, True)),
    *(Case(500, 600, 128, is_causal, heads=8, heads_kv=h, batch=2) for h in (1, 2, 4) for is_causal in (False, True)),
    *(Case(300, 400, d, True, value_dim=dv) for d, dv in ((192, 128), (64, 256), (40, 72))),
    *(Case(70, 119, d, heads=h, heads_kv=h, value_dim=dv) for d, dv in ((18, 2), (17, 12), (72, 18), (2, 40), (200, 72)) for h in (1, 2)),
]  # fmt: skip
FEATURES_AT_SIZE = [Case(300, 333, d, heads=4, heads_kv=2, batch=2, features=(feature,)) for feature in FEATURES for d in (64, 128, 256)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES + LARGE + FEATURES_AT_SIZE, ids=str)
def test_error_is_at_most_twice_that_of_plain_torch(case, dtype):
    tensors = case.tensors(dtype, "cuda")
    assert_as_good_as_plain(case, attention_and_gradients(attention, tensors, case.options(dtype, "cuda")), tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_inputs_give_the_same_bits(dtype):
    packed = torch.randn(2, 300, 3, 4, 64, dtype=dtype, device="cuda")  # (B, S, 3, H, D), as a fused projection leaves it
    strided = [x.transpose(1, 2) for x in packed.unbind(2)]
    grad_out = torch.randn(2, 300, 4, 64, dtype=dtype, device="cuda").transpose(1, 2)
    ours = attention_and_gradients(attention, [*strided, grad_out])
    expected = attention_and_gradients(attention, [x.contiguous() for x in (*strided, grad_out)])
    assert all(torch.equal(ours[name], expected[name]) for name in ours)


def test_inputs_with_holes_and_expanded_gradients():
    wide = torch.randn(1, 4, 200, 128, dtype=torch.float16, device="cuda")[:, ::2, :, ::2].detach().requires_grad_()
    attention(wide, wide, wide).sum().backward()
    assert wide.grad.isfinite().all()


@pytest.mark.parametrize("magnitude", [0.0, 100.0])
def test_scores_that_are_all_equal_or_beyond_ten_thousand(magnitude):
    case = Case(200, 300, 64, magnitude=magnitude)
    for dtype in DTYPES:
        results = attention_and_gradients(attention, case.tensors(dtype, "cuda"))
        assert all(x.isfinite().all() for x in results.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", [(), ("bias", "dropout", "sinks"), ("document_blocks",)], ids=str)
def test_fifty_runs_give_the_same_bits(dtype, features):
    case = Case(1025, 1027, 128, "document_blocks" not in features, heads=8, heads_kv=2, batch=2, features=features)
    tensors, options = case.tensors(dtype, "cuda"), case.options(dtype, "cuda")
    first = attention_and_gradients(attention, tensors, options)
    for _ in range(50):
        again = attention_and_gradients(attention, tensors, options)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_250_large_runs_give_the_same_bits(head_dim):
    """A race shows as a bit that moves."""
    query, key, value, grad_out = (torch.randn(2, 16, 4096, head_dim, dtype=torch.bfloat16, device="cuda") for _ in range(4))
    leaves = [x.requires_grad_() for x in (query, key, value)]
    first = None
    for _ in range(250):
        out = attention(*leaves, is_causal=True)
        results = (out.detach(), *torch.autograd.grad(out, leaves, grad_out))
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(first, results, strict=True))


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


@pytest.mark.parametrize("features", [("bias", "sinks", "softcap"), ("documents", "alibi")], ids=str)
def test_second_derivatives(features):
    case = Case(150, 170, 32, heads=4, heads_kv=2, features=features)
    second = {}
    for device, dtype in (("cuda", torch.float32), ("cpu", torch.float64)):
        tensors = [x.to(device, dtype) for x in case.tensors(torch.float32)]
        options = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in case.options(torch.float32).items()}
        leaves, options = differentiable(tensors, options)
        out = attention(**leaves, **options)
        grads = torch.autograd.grad(out, list(leaves.values()), tensors[3], create_graph=True)
        second[device] = torch.autograd.grad(sum(x.square().sum() for x in grads), list(leaves.values()))
    for mine, truth in zip(second["cuda"], second["cpu"], strict=True):
        torch.testing.assert_close(mine.cpu().double(), truth.double(), rtol=1e-3, atol=1e-3 * truth.abs().max().item())


def test_memory_is_what_it_must_be_to_the_byte():
    """out and lse, then delta and the gradients."""

    def bytes_of(*tensors):
        return sum(x.numel() * x.element_size() for x in tensors)

    query, key, value = (
        torch.randn(1, heads, seqlen, 64, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        for heads, seqlen in ((6, 1001), (2, 777), (2, 777))
    )
    attend = functools.partial(attention, query, key, value, is_causal=True, window=(300, 0), softcap=20.0, enable_gqa=True)
    out = attend()
    grad_out, lse = torch.randn_like(out), torch.empty(1, 6, 1001, device="cuda")
    torch.autograd.grad(out, (query, key, value), grad_out)  # compile before measuring
    out = None
    kept = []
    assert peak_bytes(lambda: kept.append(attend()), "cuda") == bytes_of(grad_out, lse)
    delta = lse
    assert peak_bytes(lambda: torch.autograd.grad(kept[0], (query, key, value), grad_out), "cuda") == bytes_of(delta, query, key, value)


def test_extra_memory_grows_linearly_to_64k():
    def extra(seqlen):
        tensors = [torch.randn(1, 4, seqlen, 64, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in range(3)]
        return peak_bytes(lambda: attention(*tensors, is_causal=True).sum().backward(), "cuda")

    extra(1024)  # compile before measuring
    sizes = {seqlen: extra(seqlen) for seqlen in (8192, 16384, 32768, 65536)}
    for seqlen in (8192, 16384, 32768):
        assert sizes[2 * seqlen] < 2.1 * sizes[seqlen], sizes


def test_more_than_two_to_the_31_elements():
    query = torch.randn(1, 2, 2**17 + 5, 8, dtype=torch.float16, device="cuda").repeat_interleave(1030, dim=0)  # 2.16e9
    assert query.numel() > 2**31
    key = query[:, :, :40]
    out = attention(query, key, key)
    for batch in (0, 1029):
        torch.testing.assert_close(out[batch, :, -9:], attention(query[:1, :, -9:], key[:1], key[:1])[0])
    assert torch.equal(out[0], out[-1])


def test_a_mask_of_more_than_two_to_the_31_elements():
    query = torch.randn(1, 1, 50_000, 16, dtype=torch.float16, device="cuda")
    mask = torch.zeros(50_000, 50_000, dtype=torch.bool, device="cuda")
    mask[:, -3:] = True  # only the last three keys
    out = attention(query, query, query, attn_mask=mask)
    torch.testing.assert_close(out, attention(query, query[:, :, -3:], query[:, :, -3:]), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("features", [(), ("bias", "sinks", "dropout")], ids=str)
def test_operators_are_well_formed(features):
    case = Case(90, 110, 64, heads=4, heads_kv=2, features=features)
    query, key, value, grad_out = case.tensors(torch.float32, "cuda")
    arguments = ops.flatten(*case.described(query, key, value)[3:])
    torch.library.opcheck(ops.attention_forward.registered, (query, key, value, *arguments))
    out, lse = ops.attention_forward(query, key, value, *arguments)
    torch.library.opcheck(ops.attention_backward.registered, (grad_out, None, query, key, value, out, lse, *arguments))


@pytest.mark.parametrize("features", [(), ("bias", "sinks"), ("document_blocks",), ("jagged", "softcap")], ids=str)
def test_torch_compile_in_one_graph(features):
    case = Case(300, 300, 64, heads=4, heads_kv=2, features=features)
    tensors, options = case.tensors(torch.bfloat16, "cuda"), case.options(torch.bfloat16, "cuda")
    expected = attention_and_gradients(attention, tensors, options)
    torch.compiler.reset()
    compiled = attention_and_gradients(torch.compile(attention, fullgraph=True), tensors, options)
    for name, truth in expected.items():
        torch.testing.assert_close(compiled[name], truth)


def test_a_call_is_captured_into_a_cuda_graph():
    query = torch.randn(1, 4, 256, 64, dtype=torch.float16, device="cuda")
    expected = attention(query, query, query, is_causal=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attention(query, query, query, is_causal=True)
    query.mul_(2)
    graph.replay()
    assert torch.equal(out, attention(query, query, query, is_causal=True)) and not torch.equal(out, expected)


def test_a_training_step_is_captured_into_a_cuda_graph():
    query = torch.randn(1, 4, 256, 64, dtype=torch.float16, device="cuda", requires_grad=True)

    def step():
        return torch.autograd.grad(attention(query, query, query, is_causal=True).sum(), query)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what autograd sets up at a first backward pass cannot be captured
        first = step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        grad = step()
    with torch.no_grad():
        query.mul_(2)
    graph.replay()
    assert torch.equal(grad, step()) and not torch.equal(grad, first)


def test_what_follows_a_backward_pass_sees_all_of_it():
    """dq may overtake dkdv, which here has a few long walks; the next kernel in the stream may not."""
    query = torch.randn(1, 16, 16384, 64, dtype=torch.float16, device="cuda", requires_grad=True)
    key, value = (torch.randn(1, 1, 16384, 64, dtype=torch.float16, device="cuda", requires_grad=True) for _ in range(2))
    out = attention(query, key, value, is_causal=True, enable_gqa=True)
    for _ in range(5):
        stale = [torch.full_like(key, float("nan")) for _ in range(8)]  # memory that the gradients will take
        del stale
        grads = torch.autograd.grad(out, (key, value), out.detach(), retain_graph=True)
        seen = [grad.clone() for grad in grads]
        torch.cuda.synchronize()
        for grad, copy in zip(grads, seen, strict=True):
            assert torch.equal(grad, copy) and grad.isfinite().all()


def test_autocast_and_vmap():
    query = torch.randn(3, 1, 2, 40, 32, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = torch.func.vmap(lambda x: attention(x, x, x, is_causal=True))(query)
    assert out.dtype == torch.bfloat16
    half = query.bfloat16()
    for n in range(3):
        assert torch.equal(out[n], attention(half[n], half[n], half[n], is_causal=True))


def test_tf32_only_where_torch_allows_it():
    query = torch.randn(1, 2, 256, 64, device="cuda")
    truth = attention(*(query.double().cpu(),) * 3)
    errors = {}
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        errors[precision] = (attention(query, query, query).cpu().double() - truth).abs().max().item()
    torch.set_float32_matmul_precision("highest")
    assert errors["highest"] < 1e-5 < errors["high"]


def test_a_document_mask_by_labels_on_the_gpu_and_its_cpu_twin():
    labels = (torch.arange(700, dtype=torch.int32) // 90)[None]
    query = torch.randn(1, 2, 700, 64)
    expected = attention(query, query, query, mask_mod=documents, query_labels=labels, key_labels=labels)
    ours = attention(*(query.cuda(),) * 3, mask_mod=documents, query_labels=labels.cuda(), key_labels=labels.cuda())
    torch.testing.assert_close(ours.cpu(), expected, atol=1e-5, rtol=1e-4)


def test_a_model_trains_the_same_on_both_attentions():
    from flashlab.course import gpt

    size = gpt.Size(layers=2, heads=4, width=256, context=256)
    text = b"attention is a weighted sum of values, and the weights are a softmax. " * 200
    losses = [
        gpt.train(gpt.new_model(size, attend, 0, "cuda"), gpt.batches(text, size, 4, 20, 1, "cuda"))
        for attend in (gpt.naive_attention, functools.partial(attention, is_causal=True))
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_explain_says_what_runs():
    query = torch.zeros(1, 1, 64, 64, dtype=torch.float16, device="cuda")
    found = explain(query, query, query, is_causal=True)
    assert found.path == "triton" and set(found.tiles) == {"forward", "dkdv", "dq"}


def test_float64_is_refused():
    x = torch.zeros(1, 1, 4, 8, dtype=torch.float64, device="cuda")
    with pytest.raises(ValueError, match="float64.*on cuda.*float16, bfloat16, float32"):
        attention(x, x, x)
