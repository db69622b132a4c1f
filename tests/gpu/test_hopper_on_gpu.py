"""The kernels that are scheduled by hand for Hopper GPUs: the library's proof, once more through them."""

import gc
import itertools
import math
import os
import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashlab import attention, explain
from flashlab.attention import described
from flashlab.bench.peak import peak_bytes
from flashlab.kernels import forward as portable
from flashlab.kernels import hopper
from tests.protocol import Case, assert_as_good_as_plain, attention_and_gradients

pytestmark = pytest.mark.skipif(torch.cuda.get_device_capability() != (9, 0), reason="a Hopper GPU's kernels")

MANY = int(os.environ.get("FLASHLAB_FUZZ", "60"))
BANDS = [(), ("bottom_right",), ("window",), ("left_window",), ("narrow_window",), ("window", "bottom_right")]
SHAPED = [
    ("sinks",),
    ("alibi",),
    ("padding",),
    ("key_bias",),
    ("sinks", "alibi", "padding", "bottom_right"),
    ("sinks", "padding", "window"),
]
# One less and one more than a tile of either kind, primes, and lengths where many rows see nothing.
LENGTHS = [(1, 1), (1, 130), (63, 65), (127, 129), (128, 128), (191, 193), (257, 113), (113, 257), (331, 512), (512, 331), (1031, 1033)]
CASES = [
    *(Case(sq, sk, d, is_causal=n % 2 == 1) for (n, (sq, sk)), d in itertools.product(enumerate(LENGTHS * 2), (64, 128))),
    *(Case(sq, sk, d, True, features=bands) for (sq, sk), d, bands in itertools.product(
        [(300, 300), (203, 407), (407, 203)], (64, 128), BANDS)),
    *(Case(300, 500, d, is_causal, heads=8, heads_kv=h, batch=2) for d in (64, 128) for h in (1, 4) for is_causal in (False, True)),
    *(Case(600, 700, d, False, magnitude=10.0, heads=4, heads_kv=2) for d in (64, 128)),
    *(Case(*lengths, d, True, heads=4, heads_kv=h, batch=2, features=features) for d in (64, 128) for h in (2, 4)
      for lengths in [(300, 500), (331, 203)] for features in SHAPED),
    *(Case(300, 413, d, False, heads=4, heads_kv=2, batch=2, features=features) for d in (64, 128) for features in SHAPED
      if "alibi" not in features),
    *(Case(260, 390, d, True, heads=4, magnitude=10.0, features=("alibi", "padding", "sinks")) for d in (64, 128)),
    # Forward, more jobs than there are multiprocessors, and not all as long.
    *(Case(300, 413, d, True, heads=140, heads_kv=70, features=bands) for d in (64, 128) for bands in BANDS[:3]),
]  # fmt: skip


@pytest.fixture
def at_any_length(monkeypatch):
    """Short calls, too, take these kernels."""
    monkeypatch.setattr(hopper, "FEWEST_QUERIES", 1)
    monkeypatch.setattr(hopper, "FEWEST_OPERATIONS", 0)
    monkeypatch.setattr(hopper, "FEWEST_KEYS", dict.fromkeys(hopper.FEWEST_KEYS, 0))
    monkeypatch.setattr(hopper, "MOST_KEYS_IN_ANY_ORDER", {})
    monkeypatch.setattr("flashlab.kernels.decode.suits", lambda *call: False)


def by_hand(query, key, value, **options):
    """`attention`, seen to take these kernels."""
    reason = explain(query, key, value, **options).reason
    assert "forward, kernels that are scheduled by hand" in reason and "backward, kernels that are scheduled by hand" in reason
    return attention(query, key, value, **options)


def in_any_order(query, key, value, **options):
    """`by_hand`, where programs add to query's gradient as they come by."""
    assert "query's gradient is summed in any order" in explain(query, key, value, **options, deterministic=False).reason
    return by_hand(query, key, value, **options, deterministic=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_error_is_at_most_twice_that_of_plain_torch(case, dtype, at_any_length):
    tensors = case.tensors(dtype, "cuda")
    ours = attention_and_gradients(by_hand, tensors, case.options(dtype, "cuda"))
    assert_as_good_as_plain(case, ours, tensors, degenerate=min(case.seqlen_q, case.seqlen_k) < 64)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_error_of_sums_in_any_order(case, at_any_length):
    tensors = case.tensors(torch.bfloat16, "cuda")
    ours = attention_and_gradients(in_any_order, tensors, case.options(torch.bfloat16, "cuda"))
    assert_as_good_as_plain(case, ours, tensors, degenerate=min(case.seqlen_q, case.seqlen_k) < 64)


@st.composite
def drawn_cases(draw):
    heads_kv = draw(st.integers(1, 3))
    bands = draw(st.sampled_from([(), ("window",), ("left_window",), ("narrow_window",)]))
    shaped = draw(st.sampled_from([(), *SHAPED[:4], ("padding", "sinks")]))
    return Case(
        seqlen_q=draw(st.integers(1, 700)),
        seqlen_k=draw(st.integers(2, 700)),  # of one key a mask is alike for all keys
        head_dim=draw(st.sampled_from([64, 128])),
        is_causal="alibi" in shaped or draw(st.booleans()),
        heads=heads_kv * draw(st.integers(1, 2)),
        heads_kv=heads_kv,
        batch=draw(st.integers(1, 2)),
        magnitude=draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
        features=bands + draw(st.sampled_from([(), ("bottom_right",)])) + shaped,
    )


@settings(
    max_examples=MANY, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    case=drawn_cases(), dtype=st.sampled_from([torch.float16, torch.bfloat16]), sequence_first=st.booleans(),
    attend=st.sampled_from([by_hand, in_any_order]),
)  # fmt: skip
def test_shapes_bands_and_strides_together(case, dtype, sequence_first, attend, at_any_length):
    tensors = case.tensors(dtype, "cuda")
    if sequence_first:
        tensors = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors]
    ours = attention_and_gradients(attend, tensors, case.options(dtype, "cuda"))
    assert_as_good_as_plain(case, ours, tensors, degenerate=True)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("attend", [by_hand, in_any_order])
def test_keys_past_the_end_do_not_reach_rows_whose_scores_are_all_low(attend, head_dim, at_any_length):
    """A key past the end would have a score of 0, far above those that are there: its exponential is infinite in float16."""
    query, key, value, grad_out = Case(512, 520, head_dim, False).tensors(torch.float16, "cuda")
    away = 2.0 * torch.ones(head_dim, dtype=torch.float16, device="cuda")
    tensors = [query + away, key - away, value, grad_out]
    ours = attention_and_gradients(attend, tensors)
    assert all(x.isfinite().all() for x in ours.values())
    assert_as_good_as_plain(Case(512, 520, head_dim, False), ours, tensors)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("rise", [1.0, 7.5, 8.5, 60.0])
def test_scores_that_rise_along_the_walk(rise, is_causal, head_dim, at_any_length):
    """m follows them only where they rise by more than 8, in base 2. Every third row's scores fall, among others in a warp that rise."""
    case = Case(1030, 1030, head_dim, is_causal)
    query, key, value, grad_out = case.tensors(torch.bfloat16, "cuda")
    tile = torch.arange(1030, device="cuda") // 128  # the walk is from the last one to the first
    query[..., 0] = torch.where(torch.arange(1030, device="cuda") % 3 == 0, 1.0, -1.0)
    key[..., 0] = tile * rise * math.log(2) * head_dim**0.5
    tensors = [query, key, value, grad_out]
    assert_as_good_as_plain(case, attention_and_gradients(by_hand, tensors, dict(is_causal=is_causal)), tensors)


def test_scores_so_high_that_8_more_is_no_other_number(at_any_length):
    """Beyond 2²⁷ the next float32 is 16 away: p of a score that m does not follow there would be 2¹⁶, which float16 does not hold."""
    query, key, value = (torch.zeros(1, 1, 8192, 64, dtype=torch.float16, device="cuda") for _ in range(3))
    query[..., 0], query[..., 1] = 28704, 1
    key[:, :, -100, 0] = 26000  # the walk begins at the last tile
    key[:, :, 300, 0], key[:, :, 300, 1] = 26000, 64  # higher by 11.5 in base 2
    value[:, :, -100] = 1
    value[:, :, 300] = 2
    out = by_hand(query, key, value)
    assert out.isfinite().all() and (out - 2).abs().max() < 0.01


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("slope", [3.0, -3.0])
def test_rows_past_the_end_add_nothing_whatever_alibi_adds_there(slope, head_dim, at_any_length):
    """p of such a row might be infinite, and infinity times 0 be NaN."""
    case = Case(300, 500, head_dim, True)
    tensors, slopes = case.tensors(torch.float16, "cuda"), torch.full((2,), slope, device="cuda")
    ours = attention_and_gradients(by_hand, tensors, dict(is_causal=True, alibi_slopes=slopes))
    truth = attention_and_gradients(attention, [x.double().cpu() for x in tensors], dict(is_causal=True, alibi_slopes=slopes.cpu()))
    for name, mine in ours.items():
        torch.testing.assert_close(mine.double().cpu(), truth[name], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_rows_past_the_end_add_nothing_however_high_a_bias_is(head_dim, at_any_length):
    case = Case(300, 500, head_dim, False)
    query, key, value, grad_out = case.tensors(torch.float16, "cuda")
    high = attention_and_gradients(by_hand, [query, key, value, grad_out], dict(attn_mask=torch.full((1, 1, 1, 500), 200.0, device="cuda")))
    none = attention_and_gradients(by_hand, [query, key, value, grad_out])
    for name, mine in none.items():  # softmax does not notice what is added to all scores of a row
        torch.testing.assert_close(high[name], mine, rtol=1e-2, atol=1e-3)


def test_a_sink_far_above_all_scores_or_far_below_them(at_any_length):
    query, key, value, _ = Case(300, 300, 64, True, heads=3).tensors(torch.bfloat16, "cuda")
    query, key, value = (x[:, :1].expand(1, 3, -1, -1).contiguous() for x in (query, key, value))
    sinks = torch.tensor([-math.inf, -1e30, 1e30], device="cuda")
    out, lse = by_hand(query, key, value, is_causal=True, sinks=sinks, return_lse=True)
    expected, expected_lse = by_hand(query, key, value, is_causal=True, return_lse=True)
    assert torch.equal(out[:, :2], expected[:, :2]) and torch.equal(lse[:, :2], expected_lse[:, :2])
    assert (out[:, 2] == 0).all() and torch.allclose(lse[:, 2], torch.tensor(1e30, device="cuda"))


@pytest.mark.parametrize("head_dim", [64, 128])
def test_lse_and_its_gradient(head_dim, at_any_length):
    query, key, value, _ = Case(530, 590, head_dim, True, heads=4).tensors(torch.bfloat16, "cuda")
    query.requires_grad_()
    lse = by_hand(query, key, value, is_causal=True, return_lse=True, enable_gqa=True)[1]
    lse.sum().backward()
    expected = query.detach().double().cpu().requires_grad_()
    truth = attention(expected, key.double().cpu(), value.double().cpu(), is_causal=True, return_lse=True, enable_gqa=True)[1]
    truth.sum().backward()
    torch.testing.assert_close(lse.double().cpu(), truth, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(query.grad.double().cpu(), expected.grad, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_strided_inputs_give_the_same_bits(head_dim, at_any_length):
    packed = torch.randn(2, 700, 3, 4, head_dim, dtype=torch.bfloat16, device="cuda")  # as a fused projection leaves it
    strided = [*(x.transpose(1, 2) for x in packed.unbind(2)), torch.randn(2, 700, 4, head_dim, device="cuda").bfloat16().transpose(1, 2)]
    ours = attention_and_gradients(by_hand, strided)
    expected = attention_and_gradients(by_hand, [x.contiguous() for x in strided])
    assert all(torch.equal(ours[name], expected[name]) for name in ours)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("features", [(), ("window",)], ids=str)
@pytest.mark.parametrize("attend", [by_hand, in_any_order])
def test_nothing_outside_is_read_or_written(attend, head_dim, features, monkeypatch, at_any_length):
    """NaN lies around the inputs, sentinels around the outputs."""
    around, sentinel, buffers = 96, 12345.0, []

    def guarded(x, fill):
        buffer = torch.full((*x.shape[:2], x.shape[2] + 2 * around, x.shape[3]), fill, dtype=x.dtype, device=x.device)
        inside = buffer[:, :, around:-around]
        inside.copy_(x)
        return buffer, inside

    case = Case(521, 577, head_dim, True, heads=4, heads_kv=2, features=features)
    tensors, options = case.tensors(torch.bfloat16, "cuda"), case.options(torch.bfloat16, "cuda")
    expected = attention_and_gradients(attend, tensors, options)
    empty_like = torch.empty_like

    def guarded_empty_like(x, dtype=None, **_):
        if x.dim() != 4:
            return empty_like(x)
        buffers.append(guarded(torch.full(x.shape, float("nan"), dtype=dtype or x.dtype, device=x.device), sentinel))
        return buffers[-1][1]

    monkeypatch.setattr(torch, "empty_like", guarded_empty_like)
    ours = attention_and_gradients(attend, [guarded(x, float("nan"))[1] for x in tensors], options)
    for name in ours:  # a sum in any order rounds in any way
        torch.testing.assert_close(ours[name], expected[name], **(dict() if attend is in_any_order else dict(rtol=0, atol=0)))
    assert len(buffers) == 5  # out, three gradients, the sum in float32
    for buffer, _ in buffers:
        assert (buffer[:, :, :around] == sentinel).all() and (buffer[:, :, -around:] == sentinel).all()


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("options", [dict(), dict(window=(700, 0)), dict(is_causal=True, enable_gqa=True)], ids=str)
def test_250_large_runs_give_the_same_bits(head_dim, options, at_any_length):
    """A race shows as a bit that moves: in windows, crafts of one program walk over different tiles; in dQ, who adds after whom."""
    heads_kv = 4 if "enable_gqa" in options else 16
    shapes = [(2, heads, 4001, head_dim) for heads in (16, heads_kv, heads_kv, 16)]
    query, key, value, grad_out = (torch.randn(shape, dtype=torch.bfloat16, device="cuda") for shape in shapes)
    leaves, first = [x.requires_grad_() for x in (query, key, value)], None
    for _ in range(250):
        out = attention(*leaves, **options)
        results = (out.detach(), *torch.autograd.grad(out, leaves, grad_out))
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(first, results, strict=True))


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("window", [(None, None), (700, 0)], ids=str)
def test_in_any_order_only_the_gradient_of_query_moves(head_dim, window, at_any_length):
    query, key, value, grad_out = (torch.randn(2, 16, 4001, head_dim, dtype=torch.bfloat16, device="cuda") for _ in range(4))
    leaves, first = [x.requires_grad_() for x in (query, key, value)], None
    for _ in range(100):
        out = attention(*leaves, window=window, deterministic=False)
        results = (out.detach(), *torch.autograd.grad(out, leaves, grad_out))
        first = first or results
        for place, (a, b) in enumerate(zip(first, results, strict=True)):
            torch.testing.assert_close(a, b) if place == 1 else torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("is_causal", [False, True])
def test_more_programs_that_take_turns_than_multiprocessors(is_causal, at_any_length):
    """The last of a head begin when others have ended: none may wait for one that is not there yet."""
    query, key, value, grad_out = (torch.randn(1, 2, 24_000, 64, dtype=torch.bfloat16, device="cuda") for _ in range(4))
    assert torch.cuda.get_device_properties(0).multi_processor_count < 24_000 / 128
    leaves = [x.requires_grad_() for x in (query, key, value)]
    out = by_hand(*leaves, is_causal=is_causal)
    first, second = (torch.autograd.grad(out, leaves, grad_out, retain_graph=True) for _ in range(2))
    other = torch.autograd.grad(in_any_order(*leaves, is_causal=is_causal), leaves, grad_out)
    for a, b, c in zip(first, second, other, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)


BUSY = """
import torch
a = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
print("busy", flush=True)
while True:
    b = a @ a
    torch.cuda.synchronize()
"""


@pytest.fixture
def busy_gpu():
    """Two other processes keep the GPU busy: it turns from one to the other in the midst of a kernel."""
    with ExitStack() as others:
        for _ in range(2):
            other = others.enter_context(subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE))
            others.callback(other.kill)
            assert other.stdout.readline() == b"busy\n"
        yield


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("deterministic", [True, False])
def test_where_processes_share_the_gpu_bits_are_the_same(head_dim, deterministic, busy_gpu, at_any_length):
    query, key, value, grad_out = (torch.randn(1, 2, 24_000, head_dim, dtype=torch.bfloat16, device="cuda") for _ in range(4))
    leaves, first = [x.requires_grad_() for x in (query, key, value)], None
    for _ in range(30):
        out = by_hand(*leaves, deterministic=deterministic)
        results = (out.detach(), *torch.autograd.grad(out, leaves, grad_out))
        first = first or results
        for place, (a, b) in enumerate(zip(first, results, strict=True)):
            torch.testing.assert_close(a, b) if place == 1 and not deterministic else torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_memory_is_what_it_must_be_to_the_byte(at_any_length):
    """As of the portable kernels, and how many jobs are taken; two numbers of each row, the sum of dQ in float32, and whose turn it is."""
    query, key, value = (torch.randn(1, 6, n, 128, dtype=torch.bfloat16, device="cuda", requires_grad=True) for n in (1001, 777, 777))
    out = by_hand(query, key, value)
    grad_out, kept = torch.randn_like(out), []
    torch.autograd.grad(out, (query, key, value), grad_out)  # compile before measuring
    out = None
    gc.collect()
    out_bytes, lse_bytes, kv_bytes = 6 * 1001 * 128 * 2, 6 * 1001 * 4, 6 * 777 * 128 * 2
    assert peak_bytes(lambda: kept.append(attention(query, key, value)), "cuda") == out_bytes + lse_bytes + 4
    rows_bytes = 6 * 2 * 1004 * 4
    fused_bytes = lse_bytes + rows_bytes + out_bytes + 2 * kv_bytes + 2 * out_bytes
    used = peak_bytes(lambda: torch.autograd.grad(kept[0], (query, key, value), grad_out), "cuda")
    assert used == fused_bytes + 6 * 16 * 4

    out = attention(query, key, value, deterministic=False)
    torch.autograd.grad(out, (query, key, value), grad_out, retain_graph=True)
    gc.collect()  # what compiling left holds gradients
    used = peak_bytes(lambda: torch.autograd.grad(out, (query, key, value), grad_out, retain_graph=True), "cuda")
    assert used == fused_bytes


def test_more_than_two_to_the_31_elements(at_any_length):
    query = torch.randn(1, 2, 2**17 + 5, 64, dtype=torch.float16, device="cuda").repeat_interleave(130, dim=0)
    assert query.numel() > 2**31
    key = query[:, :, :600]
    out = by_hand(query, key, key)
    assert torch.equal(out[-1], out[0]) and out[-1].isfinite().all()


@pytest.mark.parametrize("deterministic", [True, False])
def test_torch_compile_in_one_graph_and_a_cuda_graph(deterministic, at_any_length):
    case = Case(600, 600, 128, True, heads=4, heads_kv=2)
    tensors, options = case.tensors(torch.bfloat16, "cuda"), case.options(torch.bfloat16, "cuda") | dict(deterministic=deterministic)
    expected = attention_and_gradients(by_hand, tensors, options)
    torch.compiler.reset()
    compiled = attention_and_gradients(torch.compile(attention, fullgraph=True), tensors, options)
    for name, truth in expected.items():
        torch.testing.assert_close(compiled[name], truth)

    leaves = [x.requires_grad_() for x in tensors[:3]]

    def run():
        return torch.autograd.grad(attention(*leaves, **options), leaves, tensors[3])

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what autograd sets up at a first backward pass cannot be captured
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        grads = run()
    with torch.no_grad():
        leaves[0].mul_(2)
    graph.replay()
    for a, b in zip(grads, run(), strict=True):
        torch.testing.assert_close(a, b, **(dict(rtol=0, atol=0) if deterministic else dict()))


@pytest.mark.parametrize(("head_dim", "seqlen", "dtype", "options", "why"), [
    (128, 2048, torch.bfloat16, {}, "forward, kernels that are scheduled by hand"),
    (128, 4096, torch.bfloat16, dict(window=(1100, 0)), "forward, kernels that are scheduled by hand"),
    (128, 400, torch.bfloat16, {}, "400 queries"),
    (64, 1024, torch.float16, {}, "fewer than 2048 keys"),
    (64, 2048, torch.float16, {}, "forward, kernels that are scheduled by hand"),
    (96, 4096, torch.bfloat16, {}, "head dim 96 (served: 64, 128)"),
    (128, 1024, torch.float32, {}, "float32"),
    (128, 1024, torch.bfloat16, dict(softcap=3.0), "a feature beyond"),
])  # fmt: skip
def test_explain_says_which_kernels_and_why(head_dim, seqlen, dtype, options, why):
    query = torch.empty(8, 32, seqlen, head_dim, dtype=dtype, device="cuda")
    assert why in explain(query, query, query, **options).reason


def test_long_rows_of_head_dim_64_have_equal_bits_all_the_same():
    """In any order would not be faster there."""
    query, key, value, grad_out = (torch.randn(1, 8, 8192, 64, dtype=torch.bfloat16, device="cuda") for _ in range(4))
    leaves = [x.requires_grad_() for x in (query, key, value)]
    assert "deterministic all the same" in explain(*leaves, deterministic=False).reason
    in_turns, asked = (torch.autograd.grad(attention(*leaves, deterministic=choice), leaves, grad_out) for choice in (True, False))
    assert all(map(torch.equal, in_turns, asked))


def test_portable_and_by_hand_agree(at_any_length):
    query, key, value, _ = Case(1024, 1024, 128, True, heads=4, heads_kv=4).tensors(torch.bfloat16, "cuda")
    spec, extras = described(query, key, value, is_causal=True)[3:]
    ours, lse = by_hand(query, key, value, is_causal=True, return_lse=True)
    out, other_lse = portable.forward(query, key, value, spec, extras)
    torch.testing.assert_close(ours, out, rtol=2e-2, atol=4e-3)
    torch.testing.assert_close(lse, other_lse)
