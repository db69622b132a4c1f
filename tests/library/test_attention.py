"""The public function on the CPU: right, lean, differentiable, compilable, and helpful when it refuses."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo import compiled_autograd
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from flashlab import attention, block_mask, blockwise, checks, ops, reference
from flashlab.attention import described
from flashlab.bench.peak import peak_bytes
from flashlab.layout import allows_tf32
from flashlab.masks import documents
from flashlab.spec import NO_EXTRAS, Spec
from tests.protocol import CASES, FEATURES, Case, assert_as_good_as_plain, attention_and_gradients, differentiable


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_error_is_at_most_twice_that_of_plain_torch(case, dtype):
    tensors = case.tensors(dtype)
    assert_as_good_as_plain(case, attention_and_gradients(attention, tensors, case.options(dtype)), tensors)


SMALL = [Case(5, 7, 3, is_causal, heads=4, heads_kv=2) for is_causal in (False, True)] + [
    Case(5, 7, 3, heads=4, heads_kv=2, value_dim=2, features=features)
    for features in (*((name,) for name in FEATURES), ("bias", "sinks", "softcap", "dropout"), ("bottom_right", "window", "alibi"))
]


def in_float64(case):
    """attention of a small case as a function of its differentiable arguments, and those."""
    leaves, options = differentiable(case.tensors(torch.float64), case.options(torch.float64))
    leaves = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}

    def attend(*tensors):
        out, lse = attention(**dict(zip(leaves, tensors, strict=True)), **options, return_lse=True)
        return out, lse.masked_fill(lse == -torch.inf, 0.0)  # a constant, whose gradient is 0

    return attend, tuple(leaves.values())


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_gradients_by_finite_differences(case):
    assert torch.autograd.gradcheck(*in_float64(case))


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_second_derivatives_by_finite_differences(case):
    assert torch.autograd.gradgradcheck(*in_float64(case))


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
    assert all(x.isfinite().all() for x in results.values())
    largest = (query @ key.mT).abs().max().item() * case.spec.scale
    rounding = torch.finfo(torch.float32).eps * max(1.0, largest)  # a float32 score is known to this much
    truth = reference.attention(query, key, value, case.spec)[0]
    torch.testing.assert_close(results["out"].double(), truth, rtol=0, atol=4 * rounding * value.abs().max().item())


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


def test_one_huge_score_takes_all():
    query, key, value, grad_out = Case(30, 40, 8).tensors(torch.float32)
    query, key = torch.ones_like(query), key / 100
    key[:, :, 17] = 1e4
    results = attention_and_gradients(attention, (query, key, value, grad_out))
    torch.testing.assert_close(results["out"], value[:, :, 17:18].expand_as(results["out"]))
    assert all(x.isfinite().all() for x in results.values())


@pytest.mark.parametrize("features", [(), *((name,) for name in FEATURES)], ids=str)
def test_backward_gives_the_same_bits_every_time(features):
    case = Case(130, 140, 16, True, heads=4, heads_kv=2, features=() if "blocks" in str(features) else features)
    tensors, options = case.tensors(torch.float32), case.options(torch.float32)
    first, second = (attention_and_gradients(attention, tensors, options) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_memory_grows_linearly_with_sequence_length():
    def forward_and_backward(seqlen):
        query, key, value = (torch.randn(1, 2, seqlen, 32, requires_grad=True) for _ in range(3))
        return peak_bytes(lambda: attention(query, key, value).sum().backward())

    short, middle, long = (forward_and_backward(seqlen) for seqlen in (1024, 2048, 4096))
    assert long - middle < 3 * (middle - short)  # twice the difference is linear, four times quadratic
    assert long < 2 * 4 * 4096 * 4096 / 10  # a tenth of one float32 S×S matrix for two heads


@pytest.mark.parametrize("features", [(), ("bias", "sinks", "dropout"), ("document_blocks", "alibi")], ids=str)
def test_operators_are_well_formed(features):
    case = Case(9, 11, 8, heads=4, heads_kv=2, features=features)
    query, key, value, grad_out = case.tensors(torch.float32)
    arguments = ops.flatten(*case.described(query, key, value)[3:])
    torch.library.opcheck(ops.attention_forward.registered, (query, key, value, *arguments))
    out, lse = ops.attention_forward(query, key, value, *arguments)
    for grad_lse in (None, torch.randn_like(lse)):
        torch.library.opcheck(ops.attention_backward.registered, (grad_out, grad_lse, query, key, value, out, lse, *arguments))
    if "bias" in features:
        torch.library.opcheck(ops.attention_mask_gradient.registered, (grad_out, query, key, value, lse, torch.randn_like(lse), *arguments))


@pytest.mark.parametrize("features", [(), *((name,) for name in FEATURES)], ids=str)
def test_compiles_into_one_graph(features):
    case = Case(17, 19, 8, heads=4, heads_kv=2, features=features)
    tensors, options = case.tensors(torch.float32), case.options(torch.float32)
    attend = functools.partial(attention, **{name: x for name, x in options.items() if not isinstance(x, torch.Tensor)})
    options = {name: x for name, x in options.items() if isinstance(x, torch.Tensor)}
    expected = attention_and_gradients(attend, tensors, options)
    torch.compiler.reset()
    compiled = attention_and_gradients(torch.compile(attend, fullgraph=True, backend="aot_eager"), tensors, options)
    for name, truth in expected.items():
        torch.testing.assert_close(compiled[name], truth)


def test_compiles_with_lengths_that_change():
    compiled = torch.compile(functools.partial(attention, is_causal=True, window=(9, 0)), fullgraph=True, backend="aot_eager", dynamic=True)
    for seqlen in (17, 23, 40):
        query = torch.randn(1, 2, seqlen, 8)
        torch.testing.assert_close(compiled(query, query, query), attention(query, query, query, is_causal=True, window=(9, 0)))


def test_what_is_compiled_does_not_ask_which_calls_came_before():
    query, compiled = torch.randn(1, 2, 16, 8), []
    attention(query, query, query)
    torch.compiler.reset()
    attend = torch.compile(lambda x: attention(x, x, x), fullgraph=True, backend=lambda graph, _: compiled.append(graph) or graph.forward)
    for seqlen in (31, 37, 41):
        attend(query)
        attention(*[torch.randn(1, 2, seqlen, 8)] * 3)
    assert len(compiled) == 1


@pytest.mark.parametrize("where", ["outside", "inside", "jit"])
def test_a_mask_that_the_compiler_sees_first_is_kept(where):
    def diagonal(batch, head, i, j):
        return j <= i

    outside = pytest.importorskip("triton").jit(diagonal) if where == "jit" else diagonal

    def attend(x):
        return attention(x, x, x, mask_mod=(lambda batch, head, i, j: j <= i) if where == "inside" else outside)

    query = torch.randn(1, 2, 16, 4, requires_grad=True)
    torch.compiler.reset()
    outs = [f(query) for f in (torch.compile(attend, fullgraph=True, backend="aot_eager"), lambda x: attention(x, x, x, is_causal=True))]
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(*(torch.autograd.grad(out.sin().sum(), query) for out in outs))


def test_gradients_lie_as_the_compiler_is_told():
    """Most models have (batch, sequence, heads, head_dim), transposed."""
    x = torch.randn(2, 7, 4, 8, requires_grad=True)
    query = x.transpose(1, 2)
    features = ops.flatten(Spec(8**-0.5, True), NO_EXTRAS)
    out, lse = ops.attention_forward.registered(query, query, query, *features)
    arguments = (torch.randn_like(out), None, *(y.detach() for y in (query, query, query, out, lse)), *features)
    torch.library.opcheck(ops.attention_backward.registered, arguments, test_utils="test_faketensor")
    for grad in ops.attention_backward.registered(*arguments)[:3]:
        assert grad.stride() == torch.empty_like(query).stride()


def test_gradients_by_transforms_are_right_where_they_are_compiled_or_traced():
    query, key, value = torch.randn(3, 1, 2, 6, 8, dtype=torch.float64).unbind()
    gradient = torch.func.grad(lambda query: attention(query, key, value).sin().sum())
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(gradient, fullgraph=True, backend="aot_eager")(query), gradient(query))
    gradient = torch.func.grad(lambda x: attention(x, x, x).sin().sum())
    torch.testing.assert_close(make_fx(gradient, tracing_mode="symbolic")(query)(query), gradient(query))


def test_a_trace_is_right_for_other_lengths():
    short, long = (torch.randn(1, 2, seqlen, 8) for seqlen in (300, 1000))
    attend = functools.partial(attention, window=(400, 400))
    traced = torch.jit.trace(lambda x: attend(x, x, x), short, check_trace=False)
    torch.testing.assert_close(traced(long), attend(long, long, long))


def test_compiles_where_the_model_draws_its_own_dropout():
    query = torch.randn(1, 2, 64, 8, requires_grad=True)
    compiled = torch.compile(functools.partial(attention, dropout_p=0.5), fullgraph=True, backend="aot_eager")
    first, second = compiled(query, query, query), compiled(query, query, query)
    assert not torch.equal(first, second)
    second.sum().backward()
    assert query.grad.isfinite().all()


def test_what_the_caller_allows_reaches_the_kernels(monkeypatch):
    query, seen = torch.randn(1, 2, 9, 8, requires_grad=True), []
    backward = blockwise.backward

    def listening(grad_out, query, key, value, out, lse, spec, grad_lse, extras):
        seen.append(spec.deterministic)
        return backward(grad_out, query, key, value, out, lse, spec, grad_lse, extras)

    monkeypatch.setattr(blockwise, "backward", listening)
    for allowed in ({}, dict(deterministic=True), dict(deterministic=False)):
        attention(query, query, query, **allowed).sum().backward()
    torch.use_deterministic_algorithms(True)
    try:
        attention(query, query, query, deterministic=False).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [True, True, False, True]


def test_a_call_like_an_earlier_one_is_not_checked_again(monkeypatch):
    query, key, value = torch.randn(3, 1, 2, 5, 23).unbind()
    looked, specs = [], []
    monkeypatch.setattr(checks, "tensors", lambda *arguments, **options: looked.append(arguments))
    on_cpu = ops.attention_forward.by_device["cpu"]
    monkeypatch.setitem(ops.attention_forward.by_device, "cpu", lambda *call: specs.append(call[3]) or on_cpu(*call))

    def call(window=(2, 0), deterministic=True, x=query, **options):
        out = attention(x, key, value, window=window, deterministic=deterministic, **options)
        assert (specs[-1].window, specs[-1].deterministic) == (window, deterministic)
        torch.testing.assert_close(out, attention(x.double(), key.double(), value.double(), window=window, **options).float())
        seen = len(looked)
        looked.clear()
        return seen

    assert call() == 2
    assert call() == call(x=2 * query) == call(x=query.clone().requires_grad_()) == 0
    assert call(window=(2, 1)) == 2
    assert call(deterministic=False) == 1  # the other's default is known
    assert call(sinks=torch.zeros(2)) == call(sinks=torch.ones(2)) == 2  # what a tensor holds may be another every time
    with pytest.raises(ValueError, match="window's left side is 2.0"):
        call(window=(2.0, 0))  # equal to (2, 0), and not allowed
    torch.use_deterministic_algorithms(True)
    try:
        attention(query, key, value, window=(2, 0), deterministic=False)
        assert specs[-1].deterministic
    finally:
        torch.use_deterministic_algorithms(False)


def test_both_of_torchs_switches_for_tf32_are_heard():
    """After the newer one, torch raises when the older one is asked."""
    query, matmul = torch.randn(1, 2, 9, 8), torch.backends.cuda.matmul
    expected, heard = attention(query, query, query), []
    try:
        torch.set_float32_matmul_precision("high")
        heard.append(allows_tf32())
        torch.set_float32_matmul_precision("highest")
        heard.append(allows_tf32())
        for precision in ("tf32", "ieee") if hasattr(matmul, "fp32_precision") else ():  # since torch 2.9
            matmul.fp32_precision = precision
            heard.append(allows_tf32())
            assert torch.equal(attention(query, query, query), expected)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert heard == [True, False] * (len(heard) // 2)


def test_what_is_left_of_a_tensor_of_torch_func():
    query, kept = torch.randn(1, 2, 9, 8), []

    def loss(x):
        kept.append(2 * x)
        return attention(kept[0], kept[0], kept[0]).sum()

    torch.func.grad(loss)(query)
    torch.testing.assert_close(attention(query, kept[0], kept[0]), attention(query, 2 * query, 2 * query))


def test_what_a_bias_reads_keeps_no_graph():
    query, table = torch.randn(1, 2, 9, 8), torch.randn(9, requires_grad=True)
    assert not attention(query, query, query, bias_mod=lambda batch, head, i, j: table[(i - j).abs()]).requires_grad


def test_views_that_mean_the_negative_go_through_torch_which_resolves_them(monkeypatch):
    x = torch.randn(1, 2, 9, 8, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    monkeypatch.setitem(ops.attention_forward.by_device, "cpu", lambda *arguments: "straight")
    plain = x.resolve_neg()
    assert ops.attention_forward.of(Spec(8**-0.5), NO_EXTRAS, plain, plain, plain) == "straight"
    for arguments in ((x, plain, plain), (plain, plain, x)):
        out, _ = ops.attention_forward.of(Spec(8**-0.5), NO_EXTRAS, *arguments)
        torch.testing.assert_close(out, F.scaled_dot_product_attention(*arguments))


def test_operators_are_seen_by_whoever_intercepts_them():
    query, names = torch.randn(1, 2, 9, 8, requires_grad=True), []

    class Listener(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(str(function))
            return function(*args, **(kwargs or {}))

    with Listener():
        attention(query, query, query).sum().backward()
    assert {"flashlab.attention_forward.default", "flashlab.attention_backward.default"} <= set(names)


def test_vmap_is_a_loop_over_calls():
    query, key, value = (torch.randn(3, 2, 2, 9, 4) for _ in range(3))
    mask, sinks = torch.randn(3, 9, 9), torch.randn(2)

    def attend(query, key, value, mask):
        return attention(query, key, value, attn_mask=mask, sinks=sinks, is_causal=True, return_lse=True)

    out, lse = torch.func.vmap(attend)(query, key, value, mask)
    for n in range(3):
        expected = attend(query[n], key[n], value[n], mask[n])
        assert torch.equal(out[n], expected[0]) and torch.equal(lse[n], expected[1])


def test_vmap_over_gradients():
    query, key, value = (torch.randn(3, 1, 2, 9, 4) for _ in range(3))

    def loss(query, key, value):
        return attention(query, key, value, is_causal=True).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)))(query, key, value)
    for n in range(3):
        for grad, expected in zip(grads, torch.func.grad(loss, argnums=(0, 1, 2))(query[n], key[n], value[n]), strict=True):
            torch.testing.assert_close(grad[n], expected)


@pytest.mark.parametrize("features", [dict(), dict(sinks=torch.zeros(2))], ids=str)
def test_a_backward_pass_that_alone_is_compiled(features):
    query, key = torch.randn(1, 2, 9, 8, requires_grad=True), torch.randn(1, 2, 9, 8)
    [expected] = torch.autograd.grad(attention(query, key, key, **features).sum(), query)
    out = attention(query, key, key, **features)
    with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        out.sum().backward()
    torch.testing.assert_close(query.grad, expected)


def test_forward_mode_raises_and_is_not_silently_zero():
    query = torch.randn(1, 1, 4, 4)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda x: attention(x, x, x), (query,), (torch.ones_like(query),))
    for keeps_gradients in (True, False):  # without them the compiler once saw no reason to raise, and tangents were 0
        derivative = torch.compile(torch.func.jacfwd(lambda x: attention(x, x, x)), backend="aot_eager")
        with torch.set_grad_enabled(keeps_gradients), pytest.raises(NotImplementedError, match="jvp"):
            derivative(query)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        dual = torch.autograd.forward_ad.make_dual(query, torch.ones_like(query))
        attention(dual, dual, dual)


def test_second_derivatives_are_not_compiled_to_zeros():
    query, key = torch.randn(2, 1, 1, 3, 4, dtype=torch.float64).unbind()

    def hessian_times_ones(x):
        gradient = torch.func.grad(lambda y: attention(y, key, key).square().sum())
        return torch.func.grad(lambda y: gradient(y).sum())(x)

    expected = hessian_times_ones(query)
    assert expected.abs().max() > 0.01
    with pytest.raises(Exception, match="transforms of torch.func"):
        torch.compile(hessian_times_ones, backend="aot_eager", fullgraph=True)(query)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(hessian_times_ones, backend="aot_eager")(query), expected)


def test_a_batch_of_gradients_is_refused_in_words():
    query = torch.randn(1, 1, 3, 4, requires_grad=True)
    out = attention(query, query, query)
    with pytest.raises(NotImplementedError, match="use torch.func.jacrev"):
        torch.autograd.grad(out, query, torch.randn(2, *out.shape), is_grads_batched=True)


def test_a_hessian_of_one_tensor_in_three_places():
    query = torch.randn(1, 1, 3, 2, dtype=torch.float64)

    def plain(x):
        return (torch.softmax(x @ x.mT * 2**-0.5, -1) @ x).square().sum()

    ours = torch.func.jacrev(torch.func.jacrev(lambda x: attention(x, x, x).square().sum()))(query)
    torch.testing.assert_close(ours, torch.func.hessian(plain)(query))


def test_third_derivatives():
    query, key, value, _ = Case(3, 4, 2).tensors(torch.float64)
    query.requires_grad_()

    def third(attend):
        (x,) = torch.autograd.grad(attend(query, key, value).square().sum(), query, create_graph=True)
        (x,) = torch.autograd.grad(x.square().sum(), query, create_graph=True)
        return torch.autograd.grad(x.square().sum(), query)[0]

    torch.testing.assert_close(third(attention), third(lambda q, k, v: torch.softmax(q @ k.mT * 2**-0.5, -1) @ v))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_in_the_dtype_that_was_chosen(dtype):
    query, key, value, _ = Case(20, 20, 8).tensors(torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        out = attention(query, key.to(dtype), value)
    assert out.dtype == dtype
    assert torch.equal(out, attention(*(x.to(dtype) for x in (query, key, value))))


def test_tf32_is_the_users_own_switch():
    kept = torch.get_float32_matmul_precision()
    pytest.importorskip("triton")
    from flashlab.kernels.configs import dot_precision

    try:
        torch.set_float32_matmul_precision("highest")
        assert dot_precision() == "ieee"
        torch.set_float32_matmul_precision("high")
        assert dot_precision() == "tf32"
    finally:
        torch.set_float32_matmul_precision(kept)


def test_dropout_is_the_share_it_says_and_the_same_every_time():
    query = torch.zeros(2, 4, 256, 8)
    value = torch.eye(256).expand(2, 4, 256, 256)  # out is the matrix of probabilities itself
    key = torch.zeros(2, 4, 256, 8)
    kept = attention(query, key, value, dropout_p=0.3, seed=11) * 256 * 0.7
    torch.testing.assert_close(kept, kept.round(), atol=1e-5, rtol=0)  # 0 or 1 / (1 − p)
    assert torch.equal(kept, attention(query, key, value, dropout_p=0.3, seed=11) * 256 * 0.7)
    mask = kept.round()
    assert abs(mask.mean().item() - 0.7) < 4 * (0.21 / mask.numel()) ** 0.5
    rows = mask.flatten(0, 2) - 0.7
    for other in (rows.roll(1, 0), rows.roll(1, 1), rows.roll(256, 0), rows.roll(7, 1)):  # next row, next key, next head, seven keys on
        assert abs((rows * other).mean().item()) < 4 * 0.21 / rows.numel() ** 0.5
    triples = (rows * rows.roll(1, 1) * rows.roll(2, 1)).mean().item()
    assert abs(triples) < 4 * 0.21**1.5 / rows.numel() ** 0.5
    counts = mask.sum(-1)
    assert counts.var().item() == pytest.approx(256 * 0.21, rel=0.15)  # as many kept a row as coin flips give
    torch.manual_seed(5)
    drawn = attention(query, key, value, dropout_p=0.3)
    torch.manual_seed(5)
    assert torch.equal(drawn, attention(query, key, value, dropout_p=0.3))
    assert not torch.equal(drawn, attention(query, key, value, dropout_p=0.3))


def test_a_block_mask_says_what_it_skips():
    labels = torch.arange(1024, dtype=torch.int32)[None] // 256
    mask = block_mask(documents, 1024, 1024, query_labels=labels, key_labels=labels)
    assert mask.visible_share == 4 * 10 / 256  # four documents of 4 × 4 blocks, of which six are above the diagonal
    assert "24 full, 16 partial" in repr(mask)
    seen = mask.row_blocks[0, 0, 6]
    assert seen[:2].tolist() == [1, 3] and seen[2:5].tolist() == [6, 4, 5]  # partial first
    seen = mask.key_blocks[0, 0, 2]  # keys 256 … 383, of the rows' blocks 4 … 7
    assert seen[:2].tolist() == [2, 4] and seen[2:6].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("mod", [lambda b, h, i, j: j < 70, lambda b, h, i, j: i < 70, lambda b, h, i, j: h < 1], ids=["j", "i", "head"])
def test_a_block_mask_of_a_mod_that_reads_one_of_its_arguments(mod):
    query, mask = torch.randn(1, 2, 128, 8), block_mask(mod, 128, 128, heads=2)
    torch.testing.assert_close(attention(query, query, query, block_mask=mask), attention(query, query, query, mask_mod=mod))
    assert (mask.row_blocks[..., 0] < mask.row_blocks[..., 1]).any()  # some blocks are full


def test_a_mask_in_any_broadcast_shape_gives_what_sdpa_gives():
    query, key, value, _ = Case(12, 17, 8, heads=3, heads_kv=3, batch=2).tensors(torch.float32)
    for shape in ((17,), (1,), (12, 1), (12, 17), (3, 1, 1), (3, 12, 17), (2, 1, 1, 17), (2, 3, 12, 17), (1, 1, 12, 17)):
        mask = torch.randn(shape)
        torch.testing.assert_close(
            attention(query, key, value, attn_mask=mask),
            F.scaled_dot_product_attention(query, key, value, attn_mask=mask.expand(12, 17) if mask.dim() < 2 else mask),
        )


def test_a_window_wider_than_any_sequence_has_no_edge():
    """Kernels add positions and sides in 32 bits: 2³¹ − 1 beside a position would be negative."""
    x = torch.randn(1, 1, 70, 8)
    wide, all_keys = (described(x, x, x, window=window)[3] for window in ((2**31 - 1, 0), (None, 0)))
    assert wide == all_keys and described(x, x, x, window=(2**30 - 1, 0))[3] != all_keys
    assert torch.equal(attention(x, x, x, window=(2**31 - 1, 2**31 - 1)), attention(x, x, x))
