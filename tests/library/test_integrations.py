"""flashlab behind other libraries' names: flash-attn's functions, torch's, and Hugging Face's models. Same answers, same gradients."""

import copy
import inspect
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from flashlab.integrations import flash_attn, sdpa

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16] + ([torch.float64] if DEVICE == "cpu" else [])


def assert_close(name, ours, truth, units=8, dtype=None):
    """The largest error, in units of rounding of the largest true number, in ours' dtype or another."""
    dtype = dtype or ours.dtype
    assert ours.shape == truth.shape, f"{name}: {tuple(ours.shape)}, expected {tuple(truth.shape)}"
    if truth.numel() == 0:
        return
    dead = truth == -torch.inf
    assert torch.equal(ours == -torch.inf, dead), f"{name}: −inf elsewhere"
    error = (ours.double() - truth.double()).masked_fill(dead, 0).abs().max().item()
    size = truth.double().masked_fill(dead, 0).abs().max().item()
    allowed = units * torch.finfo(dtype).eps * max(size, 1e-3)
    assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g} ({dtype})"


def draw(*shapes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes]


def gradients(out, leaves, grad_out):
    return torch.autograd.grad(out, leaves, grad_out)


# flash-attn


def formula(q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None):
    """(out, lse) by flash-attn's documentation, in its layout and in float64."""
    group = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    seqlen_q, seqlen_k = q.shape[1], k.shape[1]
    i, j = torch.arange(seqlen_q, device=q.device)[:, None], torch.arange(seqlen_k, device=q.device)
    right_of_diagonal = j - (i + seqlen_k - seqlen_q)
    if alibi_slopes is not None:
        scores = scores - alibi_slopes.double().reshape(-1, q.shape[2], 1, 1) * right_of_diagonal.abs()
    left, right = window_size
    hidden = (right_of_diagonal > 0) & causal
    hidden |= (right_of_diagonal < -left) & (left >= 0)
    hidden |= (right_of_diagonal > right) & (right >= 0)
    scores = scores.masked_fill(hidden, -torch.inf)
    blind = hidden.all(-1, keepdim=True)
    probs = scores.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0)
    return torch.einsum("bhij,bjhd->bihd", probs, v), scores.detach().logsumexp(-1)


SLOPES = torch.tensor([[0.5, 0.25, 0.125, 0.0], [1.0, 0.375, 0.1875, 0.0625]])  # exact: also for float64 they are float32
CASES = {
    "plain": dict(),
    "scale": dict(softmax_scale=0.3),
    "causal": dict(causal=True),
    "causal, window": dict(causal=True, window_size=(7, 3)),
    "window": dict(window_size=(5, 2)),
    "one side": dict(window_size=(-1, 4)),
    "softcap": dict(softcap=1.5),
    "alibi": dict(alibi_slopes=SLOPES[0]),
    "alibi of each batch": dict(alibi_slopes=SLOPES, causal=True),
    "everything": dict(alibi_slopes=SLOPES, causal=True, window_size=(9, -1), softcap=2.0, softmax_scale=0.5),
}


def on_device(case):
    return {name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in case.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sq, sk, heads_kv", [(33, 33, 4), (9, 70, 2), (70, 21, 1)])
@pytest.mark.parametrize("case", CASES)
def test_flash_attn_func_is_flash_attns_formula(case, sq, sk, heads_kv, dtype):
    arguments = on_device(CASES[case])
    *tensors, grad_out = draw((2, sq, 4, 16), (2, sk, heads_kv, 16), (2, sk, heads_kv, 16), (2, sq, 4, 16), dtype=dtype)
    leaves, exact = [x.requires_grad_() for x in tensors], [x.detach().double().requires_grad_() for x in tensors]
    out, lse, probs = flash_attn.flash_attn_func(*leaves, **arguments, deterministic=True, return_attn_probs=True)
    true_out, true_lse = formula(*exact, **arguments)
    assert probs is None and out.is_contiguous() and out.dtype == dtype
    assert_close("out", out, true_out)
    assert_close("softmax_lse", lse, true_lse, dtype=dtype)
    truth = gradients(true_out, exact, grad_out.double())
    for name, ours, true in zip("qkv", gradients(out, leaves, grad_out), truth, strict=True):
        assert_close(f"gradient of {name}", ours, true, units=16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_packed_sequences_are_each_alone(case, dtype):
    arguments = on_device(CASES[case])
    lengths_q, lengths_k = [5, 0, 40, 3, 1], [7, 4, 33, 0, 90]
    if arguments.get("alibi_slopes") is not None and arguments["alibi_slopes"].dim() == 2:
        arguments["alibi_slopes"] = torch.cat([arguments["alibi_slopes"]] * 3)[:5]
    *tensors, grad_out = draw((49, 4, 16), (134, 2, 16), (134, 2, 16), (49, 4, 16), dtype=dtype)
    leaves, exact = [x.requires_grad_() for x in tensors], [x.detach().double().requires_grad_() for x in tensors]
    starts = [F.pad(torch.tensor(x).cumsum(0), (1, 0)).to(DEVICE, torch.int32) for x in (lengths_q, lengths_k)]
    out, lse, probs = flash_attn.flash_attn_varlen_func(*leaves, *starts, 40, 90, **arguments, return_attn_probs=True)

    alone = []
    for number, parts in enumerate(zip(exact[0].split(lengths_q), *(x.split(lengths_k) for x in exact[1:]), strict=True)):
        slopes = arguments.get("alibi_slopes")
        own = arguments | ({} if slopes is None else {"alibi_slopes": slopes if slopes.dim() == 1 else slopes[number]})
        alone.append(formula(*(x[None] for x in parts), **own))
    true_out = torch.cat([x[0] for x, _ in alone])
    assert probs is None and out.is_contiguous() and out.dtype == dtype
    assert_close("out", out, true_out)
    assert_close("softmax_lse", lse, torch.cat([x[0] for _, x in alone], dim=-1), dtype=dtype)
    truth = gradients(true_out, exact, grad_out.double())
    for name, ours, true in zip("qkv", gradients(out, leaves, grad_out), truth, strict=True):
        assert_close(f"gradient of {name}", ours, true, units=16)


@pytest.mark.parametrize("varlen", [False, True])
def test_packed_arguments_change_nothing(varlen):
    arguments = dict(causal=True, window_size=(9, 0), softcap=3.0)
    starts = [torch.tensor([0, 11, 30], dtype=torch.int32, device=DEVICE)]
    shape, where = ((30, 3, 4, 16), 1) if varlen else ((2, 15, 3, 4, 16), 2)
    (qkv,) = draw(shape)
    qkv.requires_grad_()
    q, k, v = qkv.unbind(where)
    kv = qkv.narrow(where, 1, 2)
    if varlen:
        separate = flash_attn.flash_attn_varlen_func(q, k, v, *starts * 2, 19, 19, **arguments)
        kvpacked = flash_attn.flash_attn_varlen_kvpacked_func(q, kv, *starts * 2, 19, 19, **arguments)
        qkvpacked = flash_attn.flash_attn_varlen_qkvpacked_func(qkv, *starts, 19, **arguments)
    else:
        separate = flash_attn.flash_attn_func(q, k, v, **arguments)
        kvpacked = flash_attn.flash_attn_kvpacked_func(q, kv, **arguments)
        qkvpacked = flash_attn.flash_attn_qkvpacked_func(qkv, **arguments)
    (grad_out,) = draw(separate.shape, seed=1)
    (expected,) = gradients(separate, [qkv], grad_out)
    for out in (kvpacked, qkvpacked):
        assert torch.equal(out, separate) and out.is_contiguous()
        assert torch.equal(*gradients(out, [qkv], grad_out), expected)


def test_dropout_follows_torchs_generator():
    q, k, v = draw((1, 20, 2, 16), (1, 20, 2, 16), (1, 20, 2, 16))

    def dropped(seed):
        torch.manual_seed(seed)
        return flash_attn.flash_attn_func(q, k, v, 0.3)

    assert torch.equal(dropped(0), dropped(0))
    assert not torch.equal(dropped(0), dropped(1))
    many = torch.stack([dropped(seed) for seed in range(300)]).double()
    spread = many.std(0).max().item() / 300**0.5
    assert (many.mean(0) - flash_attn.flash_attn_func(q, k, v).double()).abs().max().item() < 6 * spread


@pytest.mark.parametrize("deterministic", [True, False])
def test_flash_attns_functions_ask_for_equal_bits_where_they_are_told_to(deterministic, monkeypatch):
    seen = []
    for name in ("attention", "attention_varlen"):
        function = getattr(flash_attn, name)
        monkeypatch.setattr(flash_attn, name, lambda *a, function=function, **o: seen.append(o["deterministic"]) or function(*a, **o))
    x, starts = torch.randn(1, 6, 3, 2, 16), torch.tensor([0, 2, 6], dtype=torch.int32)
    q, kv, packed = x[:, :, 0], x[:, :, 1:], x[0]
    flash_attn.flash_attn_func(q, *kv.unbind(2), deterministic=deterministic)
    flash_attn.flash_attn_kvpacked_func(q, kv, deterministic=deterministic)
    flash_attn.flash_attn_qkvpacked_func(x, deterministic=deterministic)
    flash_attn.flash_attn_varlen_func(*packed.unbind(1), starts, starts, 4, 4, deterministic=deterministic)
    flash_attn.flash_attn_varlen_kvpacked_func(packed[:, 0], packed[:, 1:], starts, starts, 4, 4, deterministic=deterministic)
    flash_attn.flash_attn_varlen_qkvpacked_func(packed, starts, 4, deterministic=deterministic)
    assert seen == [deterministic] * 6


COMMON = ["dropout_p", "softmax_scale", "causal", "window_size", "softcap", "alibi_slopes", "deterministic", "return_attn_probs"]
KVCACHE = [
    "q", "k_cache", "v_cache", "k", "v", "rotary_cos", "rotary_sin", "cache_seqlens", "cache_batch_idx", "cache_leftpad", "block_table",
    "softmax_scale", "causal", "window_size", "softcap", "rotary_interleaved", "alibi_slopes", "num_splits", "return_softmax_lse",
]  # fmt: skip
LENGTHS = ["cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k"]


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("flash_attn_func", ["q", "k", "v", *COMMON]),
        ("flash_attn_kvpacked_func", ["q", "kv", *COMMON]),
        ("flash_attn_qkvpacked_func", ["qkv", *COMMON]),
        ("flash_attn_varlen_func", ["q", "k", "v", *LENGTHS, *COMMON, "block_table"]),
        ("flash_attn_varlen_kvpacked_func", ["q", "kv", *LENGTHS, *COMMON]),
        ("flash_attn_varlen_qkvpacked_func", ["qkv", "cu_seqlens", "max_seqlen", *COMMON]),
    ],
)
def test_signatures_are_those_of_flash_attn_2_8(name, parameters):
    signature = inspect.signature(getattr(flash_attn, name)).parameters
    assert list(signature) == parameters
    assert all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in signature.values())
    defaults = [signature[argument].default for argument in COMMON]
    assert defaults == [0.0, None, False, (-1, -1), 0.0, None, False, False]


def test_the_signature_of_flash_attn_with_kvcache():
    signature = inspect.signature(flash_attn.flash_attn_with_kvcache).parameters
    assert list(signature) == KVCACHE and all(x.default is None for x in list(signature.values())[3:12])
    assert [x.default for x in list(signature.values())[12:]] == [False, (-1, -1), 0.0, True, None, 0, False]


def test_flash_attn_with_kvcache_is_decoding_in_its_layout():
    q, k_cache, v_cache = (torch.randn(2, s, h, 16, device=DEVICE) for s, h in ((2, 4), (12, 2), (12, 2)))
    k, v = (torch.randn(2, 2, 2, 16, device=DEVICE) for _ in range(2))
    whole = [x.clone() for x in (k_cache, v_cache)]
    for cache, x in zip(whole, (k, v), strict=True):
        cache[:, 7:9] = x
    truth = flash_attn.flash_attn_func(q, *(x[:, :9] for x in whole), causal=True, window_size=(4, 0))
    arguments = dict(k=k, v=v, causal=True, window_size=(4, 0))
    out, lse = flash_attn.flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens=7, return_softmax_lse=True, **arguments)
    torch.testing.assert_close(out, truth, rtol=1e-5, atol=1e-5)
    assert lse.shape == (2, 4, 2) and all(torch.equal(x, y) for x, y in zip((k_cache, v_cache), whole, strict=True))
    swapped = torch.tensor([1, 0], dtype=torch.int32, device=DEVICE)
    other = flash_attn.flash_attn_with_kvcache(
        q.flip(0), k_cache, v_cache, cache_seqlens=9, cache_batch_idx=swapped, causal=True, window_size=(4, 0)
    )
    torch.testing.assert_close(other.flip(0), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("value_dim", [16, 24])
def test_out_lies_as_q_does(rows, value_dim):
    q, k, v = draw((2, rows, 4, 16), (2, 12, 2, 16), (2, 12, 2, value_dim))
    starts = torch.tensor([0, rows], dtype=torch.int32, device=DEVICE)
    cos, sin = draw((20, 6), (20, 6))
    outs = [
        flash_attn.flash_attn_func(q, k, v),
        flash_attn.flash_attn_varlen_func(q[0], k[0, :rows], v[0, :rows], starts, starts, rows, rows),
        flash_attn.flash_attn_with_kvcache(q, k, v, cache_seqlens=7, causal=True),
        flash_attn.flash_attn_with_kvcache(q, k, v, cache_seqlens=7, causal=True, rotary_cos=cos, rotary_sin=sin),
    ]
    assert all(out.is_contiguous() for out in outs)


@pytest.mark.parametrize(
    "wrong, came",
    [
        ([1, 0], "a list"),
        (torch.tensor([1, 0]), r"torch.int64, \(2,\)"),
        (torch.tensor([1.5, 0.0]), r"torch.float32, \(2,\)"),
        (torch.tensor([[1, 0]], dtype=torch.int32), r"torch.int32, \(1, 2\)"),
        (torch.tensor([1], dtype=torch.int32), r"torch.int32, \(1,\)"),
        (torch.tensor([1, 3], dtype=torch.int32), "3 at sequence 1: k_cache has caches 0 to 2"),
        (torch.tensor([-1, 0], dtype=torch.int32), "-1 at sequence 0: k_cache has caches 0 to 2"),
    ],
)
def test_cache_batch_idx_is_looked_at(wrong, came):
    q, k_cache, v_cache = torch.randn(2, 1, 4, 8), torch.randn(3, 7, 2, 8), torch.randn(3, 7, 2, 8)
    with pytest.raises(ValueError, match=f"cache_batch_idx is {came}"):
        flash_attn.flash_attn_with_kvcache(q, k_cache, v_cache, cache_batch_idx=wrong)


def test_flash_attn_errors_say_what_to_do():
    q, k, v = draw((2, 5, 4, 8), (2, 6, 2, 8), (2, 6, 2, 8))
    starts = torch.tensor([0, 5], dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match=r"q is \(5, 4, 8\): .*\(batch, sequence, heads, head_dim\)"):
        flash_attn.flash_attn_func(q[0], k, v)
    with pytest.raises(ValueError, match="k is a list"):
        flash_attn.flash_attn_func(q, [], v)
    with pytest.raises(ValueError, match=r"kv is \(2, 6, 2, 8\): .*\(batch, sequence, 2, heads, head_dim\)"):
        flash_attn.flash_attn_kvpacked_func(q, k)
    with pytest.raises(ValueError, match=r"qkv is \(5, 2, 4, 8\): .*\(total, 3, heads, head_dim\)"):
        flash_attn.flash_attn_varlen_qkvpacked_func(torch.stack([q[0], q[0]], dim=1), starts, 5)
    with pytest.raises(ValueError, match="use flash_attn_with_kvcache"):
        flash_attn.flash_attn_varlen_func(q[0], k[0], v[0], starts, starts + 1, 5, 6, block_table=starts)


# torch


SHAPES = {  # query, key, value, enable_gqa
    "usual": ((2, 4, 37, 16), (2, 4, 29, 16), (2, 4, 29, 16), False),
    "value of its own width": ((2, 2, 9, 16), (2, 2, 12, 16), (2, 2, 12, 8), False),
    "gqa": ((2, 4, 9, 16), (2, 2, 70, 16), (2, 2, 70, 16), True),
    "(S, D)": ((9, 16), (12, 16), (12, 16), False),
    "(H, S, D)": ((3, 9, 16), (3, 12, 16), (3, 12, 16), False),
    "(H, S, D), gqa": ((4, 9, 16), (2, 12, 16), (2, 12, 16), True),
    "five": ((2, 3, 2, 9, 16), (2, 3, 2, 12, 16), (2, 3, 2, 12, 16), False),
    "five, gqa": ((2, 3, 4, 9, 16), (2, 3, 2, 12, 16), (2, 3, 2, 12, 16), True),
    "broadcast batch": ((1, 2, 9, 16), (3, 2, 12, 16), (3, 2, 12, 16), False),
    "broadcast heads": ((2, 4, 9, 16), (2, 1, 12, 16), (1, 4, 12, 16), False),
    "broadcast both ways": ((2, 1, 2, 9, 16), (1, 3, 2, 12, 16), (2, 3, 2, 12, 16), False),
    "missing dims": ((2, 9, 16), (3, 2, 12, 16), (12, 16), False),
    "no batch": ((0, 2, 9, 16), (0, 2, 12, 16), (0, 2, 12, 16), False),
    "no rows": ((2, 2, 0, 16), (2, 2, 12, 16), (2, 2, 12, 16), False),
}


def masks(out_shape, seqlen_k, dtype):
    """By name: masks of several shapes that torch accepts for an output of this shape."""
    lead, seqlen_q = out_shape[:-2], out_shape[-2]
    generator = torch.Generator().manual_seed(5)
    bias = torch.randn(*lead, seqlen_q, seqlen_k, generator=generator).to(DEVICE, dtype)
    seen = (torch.rand(*lead, seqlen_q, seqlen_k, generator=generator) < 0.6).to(DEVICE)
    seen[..., 0] = True  # no row is blind: torch's own answer for such rows has changed over its versions
    shared = bias.flatten(0, -3).sum(0) if lead else bias
    return {"none": None, "bool": seen, "bias": bias, "(1, …)": bias[:1] if lead else bias, "(Sq, Sk)": shared, "keys": bias[..., :1, :]}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", ["none", "causal", "bool", "bias", "(1, …)", "(Sq, Sk)", "keys"])
@pytest.mark.parametrize("shape", SHAPES)
def test_sdpa_swaps_torchs(shape, mask, dtype):
    *shapes, enable_gqa = SHAPES[shape]
    arguments = dict(enable_gqa=enable_gqa, is_causal=mask == "causal", scale=0.4)
    tensors = draw(*shapes, dtype=dtype)
    leaves, exact = [x.requires_grad_() for x in tensors], [x.detach().double().requires_grad_() for x in tensors]
    out_shape = F.scaled_dot_product_attention(*exact, **arguments).shape
    bias = exact_bias = masks(out_shape, shapes[1][-2], dtype)["none" if mask == "causal" else mask]
    if bias is not None and bias.dtype != torch.bool:
        bias, exact_bias = bias.detach().requires_grad_(), bias.detach().double().requires_grad_()
        if exact[0].numel():  # torch leaves the mask out of an empty graph
            leaves, exact = [*leaves, bias], [*exact, exact_bias]

    out = sdpa.scaled_dot_product_attention(*leaves[:3], bias, **arguments)
    truth = F.scaled_dot_product_attention(*exact[:3], exact_bias, **arguments)
    assert out.dtype == dtype
    assert_close("out", out, truth)
    (grad_out,) = draw(out_shape, dtype=dtype, seed=1)
    true = gradients(truth, exact, grad_out.double())
    for name, ours, theirs in zip(("query", "key", "value", "mask"), gradients(out, leaves, grad_out), true, strict=False):
        assert_close(f"gradient of {name}", ours, theirs, units=24)


def test_sdpa_reads_a_mask_whose_batch_is_only_partly_one():
    query, mask = draw((2, 3, 2, 9, 16), (2, 1, 1, 9, 9), dtype=torch.float32)
    ours, theirs = (f(query, query, query, mask) for f in (sdpa.scaled_dot_product_attention, F.scaled_dot_product_attention))
    assert_close("out", ours, theirs)


def test_sdpa_has_torchs_arguments():
    parameters = inspect.signature(sdpa.scaled_dot_product_attention).parameters
    assert list(parameters) == ["query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"]
    assert F.scaled_dot_product_attention.__doc__.lstrip().startswith(
        "scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0,"
    )
    assert [parameters[name].kind for name in ("scale", "enable_gqa")] == [inspect.Parameter.KEYWORD_ONLY] * 2


def test_sdpa_errors_say_what_to_do():
    (x,) = draw((2, 3, 5, 8))
    attention = sdpa.scaled_dot_product_attention
    with pytest.raises(ValueError, match=r"attn_mask and is_causal=True.*tril"):
        attention(x, x, x, torch.ones(5, 5, dtype=torch.bool), is_causal=True)
    with pytest.raises(ValueError, match=r"query has shape \(8,\)"):
        attention(x[0, 0, 0], x, x)
    with pytest.raises(ValueError, match="value is a list"):
        attention(x, x, [])
    with pytest.raises(ValueError, match="key is a nested tensor.*attention_varlen"):
        attention(x, torch.nested.nested_tensor([x[0], x[1]], layout=torch.jagged), x)
    with pytest.raises(ValueError, match="enable_gqa=True"):
        attention(torch.cat([x, x], dim=1), x, x)
    with pytest.raises(ValueError, match="batch sizes differ"):
        attention(x, x.repeat(2, 1, 1, 1), x)
    with pytest.raises(ValueError, match=r"attn_mask is \(3, 1, 1, 5, 5\)"):
        attention(x[None], x[None], x[None], torch.ones(3, 1, 1, 5, 5, dtype=torch.bool, device=DEVICE))


# Hugging Face: small models with random weights. Large weights, so that attention is far from uniform and every mask matters.


TINY = dict(
    vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    max_position_embeddings=128, initializer_range=0.25, pad_token_id=0, bos_token_id=1, eos_token_id=None, attention_dropout=0.0,
)  # fmt: skip
MODELS = {  # the config, what it adds to TINY, what transformers itself is asked for
    "llama": ("LlamaConfig", dict(), "sdpa"),
    "mistral": ("MistralConfig", dict(sliding_window=4), "sdpa"),
    "gemma2": (
        "Gemma2Config",
        dict(sliding_window=4, attn_logit_softcapping=2.0, query_pre_attn_scalar=16, layer_types=["sliding_attention", "full_attention"]),
        "eager",
    ),
    "gpt-oss": (
        "GptOssConfig",
        dict(sliding_window=4, num_local_experts=2, num_experts_per_tok=1, layer_types=["sliding_attention", "full_attention"]),
        "eager",
    ),
    "gemma4": (
        "Gemma4TextConfig",
        dict(
            sliding_window=4, num_hidden_layers=4, num_kv_shared_layers=2, global_head_dim=16, hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=97, layer_types=["sliding_attention", "full_attention"] * 2,
        ),
        "sdpa",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def implementation():
    pytest.importorskip("transformers")
    from flashlab.integrations.transformers import register

    return register()


def models(name, implementation):
    """(theirs, ours): one model with two attentions."""
    import transformers

    config, more, reference = MODELS[name]
    if not hasattr(transformers, config):
        pytest.skip(f"transformers {transformers.__version__} has no {config}")
    torch.manual_seed(0)
    config = getattr(transformers, config)(**TINY | more)
    theirs = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=reference)
    ours = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=implementation)
    ours.load_state_dict(theirs.state_dict())
    assert ours.config._attn_implementation == implementation and theirs.config._attn_implementation == reference
    return theirs.to(DEVICE).eval(), ours.to(DEVICE).eval()


def padded(side, lengths=(17, 12, 6)):
    """(input_ids, attention_mask) of sentences of several lengths; side None: of one length."""
    ids = torch.randint(2, 97, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths if side else ()):
        mask[row, slice(length, None) if side == "right" else slice(None, max(lengths) - length)] = 0
    return (ids * mask).to(DEVICE), mask.to(DEVICE)


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_and_learns_the_same(name, side, implementation):
    theirs, ours = models(name, implementation)
    ids, mask = padded(side)
    results = []
    for model in (ours, theirs):
        logits = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        (weights,) = draw(logits.shape)
        (logits * weights).sum().backward()
        results.append((logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (logits, grads), (true_logits, true_grads) = results
    assert_close("logits", logits, true_logits, units=200)
    assert grads.keys() == true_grads.keys() and len(grads) > 10
    for parameter, grad in grads.items():
        assert_close(f"gradient of {parameter}", grad, true_grads[parameter], units=2000)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("side", [None, "left"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_generates_the_same_tokens(name, side, cache, implementation):
    ids, mask = padded(side)
    arguments = dict(do_sample=False, max_new_tokens=20, min_new_tokens=20)
    if cache == "static":
        arguments |= dict(cache_implementation="static", disable_compile=True)
    theirs, ours = (model.generate(ids, attention_mask=mask, **arguments) for model in models(name, implementation))
    assert theirs.shape == (3, 37)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("keep", [1, 3])
def test_rows_that_a_model_drops_leave_the_others_in_place(keep, static, implementation):
    theirs, ours = models("gemma4", implementation)  # the last layers compute the rows whose logits are asked for, and no others
    ids, _ = padded(None)
    cache = {}
    if static:
        from transformers import StaticCache

        name = "cache" if "cache" in inspect.signature(ours.forward).parameters else "past_key_values"
        cache = {name: StaticCache(config=ours.config, max_cache_len=64)}
    assert_close("logits", ours(ids, logits_to_keep=keep, **cache).logits, theirs(ids).logits[:, -keep:], units=200)


def test_an_encoder_sees_both_ways(implementation):
    import transformers

    if not transformers.BertModel._supports_attention_backend:
        pytest.skip(f"BERT of transformers {transformers.__version__} computes its own attention")
    config = transformers.BertConfig(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.25
    )
    torch.manual_seed(0)
    theirs, ours = (transformers.AutoModel.from_config(copy.deepcopy(config), attn_implementation=x) for x in ("sdpa", implementation))
    ours.load_state_dict(theirs.state_dict())
    ids, mask = padded("right")
    ours, theirs = (x.to(DEVICE).eval()(input_ids=ids, attention_mask=mask)[0][mask.bool()] for x in (ours, theirs))
    assert_close("hidden state", ours, theirs, units=200)


def test_a_learned_position_bias_learns(implementation):
    import transformers

    if not getattr(transformers.T5ForConditionalGeneration, "_supports_sdpa", False):
        pytest.skip(f"T5 of transformers {transformers.__version__} computes its own attention")
    config = transformers.T5Config(
        vocab_size=97,
        d_model=64,
        d_kv=16,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        initializer_factor=1.0,
    )
    torch.manual_seed(0)
    theirs, ours = (
        transformers.AutoModelForSeq2SeqLM.from_config(copy.deepcopy(config), attn_implementation=x) for x in ("eager", implementation)
    )
    ours.load_state_dict(theirs.state_dict())
    ids, mask = padded("right")
    results = []
    for model in (ours.to(DEVICE), theirs.to(DEVICE)):
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids).logits[mask.bool()]
        (weights,) = draw(logits.shape)
        (logits * weights).sum().backward()
        biases = {name: p.grad for name, p in model.named_parameters() if "relative_attention_bias" in name}
        results.append((logits, biases))
    (logits, grads), (true_logits, true_grads) = results
    assert_close("logits", logits, true_logits, units=200)
    assert len(grads) == 2
    for parameter, grad in grads.items():
        assert_close(f"gradient of {parameter}", grad, true_grads[parameter], units=2000)


def test_the_mask_is_left_out_only_where_the_last_row_meets_the_last_key(implementation):
    from transformers.masking_utils import sdpa_mask

    from flashlab.integrations.transformers import attention_mask

    rows = "q_length" if "q_length" in inspect.signature(sdpa_mask).parameters else "cache_position"
    for queries, keys, expected in ((5, 5, None), (1, 9, None), (5, 9, (1, 1, 5, 9))):
        count = queries if rows == "q_length" else torch.arange(queries)
        mask = attention_mask(sdpa_mask, batch_size=1, kv_length=keys, **{rows: count})
        assert (None if mask is None else mask.shape) == expected


def test_transformers_errors_say_what_to_do(implementation):
    from flashlab.integrations.transformers import attention_forward, register

    with pytest.raises(ValueError, match="name is 'flashlab': .*'flash'"):
        register("flashlab")
    (x,) = draw((1, 2, 5, 8))
    for name, given in (("output_attentions", True), ("indices", torch.zeros(1)), ("sinks", torch.zeros(1, 2, 5, 1))):
        with pytest.raises(ValueError, match=f"{name} .*attn_implementation='eager'"):
            attention_forward(torch.nn.Identity(), x, x, x, None, **{name: given})


def test_transformers_is_imported_by_register_alone():
    code = """
import sys
import flashlab, flashlab.integrations.flash_attn, flashlab.integrations.sdpa, flashlab.integrations.transformers as ours
assert "transformers" not in sys.modules
sys.modules["transformers"] = None  # import raises ImportError
try:
    ours.register()
except ImportError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'transformers>=4.53'" in said
