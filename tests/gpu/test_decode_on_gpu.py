"""Decoding on a real GPU: 16-bit caches, long ones, graphs, the compiler, and calls of `attention` that have few rows."""

import pytest
import torch

from flashlab import attention, attention_decode, explain
from tests.library.test_decode import assert_right, oracle, paged, problem
from tests.protocol import Case, assert_as_good_as_plain, attention_and_gradients

LENGTHS = (4096, 1, 0, 1000, 2049)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [64, 72, 128, 256])
@pytest.mark.parametrize("seqlen_q", [1, 5, 40])
def test_16_bits_and_long_caches(dtype, head_dim, seqlen_q):
    inputs = problem(LENGTHS, heads=8, heads_kv=2, seqlen_q=seqlen_q, head_dim=head_dim, dtype=dtype)
    for features in ({}, dict(window=(300, 0)), dict(softcap=5.0)):
        truth = oracle(*inputs, **features)
        for splits in (None, 1, 7):
            assert_right(attention_decode(*inputs, **features, splits=splits, return_lse=True), truth, inputs[0])


@pytest.mark.parametrize("page", [16, 64, 256])
def test_16_bits_in_pages(page):
    query, k_cache, v_cache, lengths = problem(LENGTHS, heads=8, heads_kv=2, head_dim=128, dtype=torch.bfloat16)
    *pages, table = paged(k_cache, v_cache, lengths, page)
    found = attention_decode(query, *pages, lengths, block_table=table, return_lse=True)
    assert_right(found, oracle(query, k_cache, v_cache, lengths), query)


def test_a_cuda_graph_stays_right_as_lengths_grow():
    query, k_cache, v_cache, lengths = problem((4000, 30), head_dim=64, capacity=4096, dtype=torch.bfloat16)
    key, value = torch.randn(2, 2, 2, 1, 64, device="cuda", dtype=torch.bfloat16)

    def step():
        return attention_decode(query, k_cache, v_cache, lengths, key=key, value=value, return_lse=True)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    for _ in range(5):
        for x in (query, key, value):
            x.normal_()
        graph.replay()
        lengths += 1
        assert_right(found, oracle(query, k_cache, v_cache, lengths), query)


def test_it_compiles_in_one_graph():
    inputs = problem((700, 30), head_dim=64, dtype=torch.bfloat16)
    torch.testing.assert_close(torch.compile(attention_decode, fullgraph=True)(*inputs), attention_decode(*inputs))


def test_fifty_runs_give_the_same_bits():
    inputs = problem(LENGTHS, heads=8, heads_kv=2, head_dim=128, dtype=torch.bfloat16)
    first = attention_decode(*inputs)
    assert all(torch.equal(first, attention_decode(*inputs)) for _ in range(50))


FEATURES = [
    (),
    ("bias",),
    ("bool_mask",),
    ("padding",),
    ("alibi", "softcap", "sinks"),
    ("window",),
    ("bottom_right",),
    ("bias_mod",),
    ("jagged",),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("features", FEATURES, ids=str)
def test_attention_of_few_rows_is_split(features, is_causal, dtype):
    case = Case(4, 1200, 64, is_causal, heads=8, heads_kv=2, batch=2, features=features)
    tensors = case.tensors(dtype, "cuda")
    options = case.options(dtype, tensors[0].device)
    assert "decode" in explain(*tensors[:3], **options).tiles
    assert_as_good_as_plain(case, attention_and_gradients(attention, tensors, options), tensors)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("side", [None, "left"])
def test_transformers_writes_the_same_on_from_a_long_prompt(cache, side, monkeypatch):
    pytest.importorskip("transformers")
    from flashlab.integrations.transformers import register
    from flashlab.kernels import decode
    from tests.library.test_integrations import models, padded

    decoded, decoding = [], decode.decode
    monkeypatch.setattr(decode, "decode", lambda *arguments, **named: decoded.append(1) or decoding(*arguments, **named))
    ids, mask = padded(side, lengths=(700, 650, 530))
    arguments = dict(do_sample=False, max_new_tokens=20, min_new_tokens=20)
    if cache == "static":
        arguments |= dict(cache_implementation="static", disable_compile=True)
    theirs, ours = (model.generate(ids, attention_mask=mask, **arguments) for model in models("llama", register()))
    assert torch.equal(ours, theirs)
    assert len(decoded) >= 19, "calls of one row were to be split over the keys"
