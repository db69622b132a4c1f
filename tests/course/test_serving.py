"""What lessons 12 and 14 stand on: the split kernels, a cache that changes nothing, a server's memory, experiments."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flashlab.course import experiments, gpt, paging, serving
from flashlab.course.memory import GPUS

TINY = gpt.Size(layers=2, heads=2, width=32, context=48)


@pytest.fixture(scope="module")
def model():
    return gpt.new_model(TINY, experiments.FLASH, seed=0, device="cpu")


def test_a_cache_gives_the_logits_that_reading_everything_gives(model):
    tokens = torch.randint(256, (3, 20), generator=torch.Generator().manual_seed(0))
    cache, found = gpt.new_cache(model, batch=3), []
    with torch.no_grad():
        for part in tokens.split((7, 1, 12), dim=1):  # a prompt, a token, a chunk
            found.append(model(part, cache))
        torch.testing.assert_close(torch.cat(found, dim=1), model(tokens), atol=2e-5, rtol=2e-5)
    assert cache.lengths.tolist() == [20, 20, 20]


def test_text_is_the_same_with_and_without_a_cache(model):
    assert gpt.generate(model, b"def ", 30, seed=3) == gpt.generate_with_cache(model, b"def ", 30, seed=3)
    with pytest.raises(ValueError, match="4 \\+ 45 bytes, and this model's cache has room for 48"):
        gpt.generate_with_cache(model, b"def ", 45)


@pytest.mark.parametrize(("rows", "keys", "head_dim", "splits"), [(1, 1, 16, 1), (4, 100, 64, 3), (16, 77, 24, 5)])
def test_split_kernels_are_attention_also_in_pages(rows, keys, head_dim, splits):
    pytest.importorskip("triton")
    from flashlab.course.steps import split_decode

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    Q, K, V = (torch.randn(2, n, head_dim, generator=generator, device=device) for n in (rows, keys, keys))
    expected = F.scaled_dot_product_attention(Q[None], K[None], V[None])[0]
    page, count = 16, -(-keys // 16)
    table = torch.randperm(count + 2, generator=generator, device=device)[:count].to(torch.int32)
    j = torch.arange(keys, device=device)
    at = table[j // page].long() * page + j % page
    pools = [torch.full((2, (count + 2) * page, head_dim), torch.nan, device=device) for _ in range(2)]
    for pool, x in zip(pools, (K, V), strict=True):
        pool[:, at] = x
    whole = split_decode.decode(Q, K, V, splits)
    torch.testing.assert_close(whole, expected, atol=2e-6, rtol=2e-5)
    assert torch.equal(split_decode.decode(Q, *pools, splits, seqlen_k=keys, table=table, page=page), whole)


def test_a_servers_memory_is_never_given_twice_and_every_way_serves_the_same_requests():
    for way in paging.WAYS:
        for snapshot in paging.serve(way, steps=80):
            assert not snapshot.filled[snapshot.owner == paging.FREE].any()
            assert len(np.unique(snapshot.owner[snapshot.owner != paging.FREE])) == snapshot.running
    reserved, foreseen, paged = (paging.serve(way) for way in paging.WAYS)
    assert reserved[-1].done < foreseen[-1].done < paged[-1].done
    waste = paged[150].owner != paging.FREE
    assert (waste & ~paged[150].filled).sum() < paging.PAGE * paged[150].running  # at most the rest of one page each


def test_published_shapes_give_published_caches():
    assert serving.MODELS["Llama 2 7B"].cache_bytes(1) == 512 * 1024
    assert serving.MODELS["Llama 3 8B"].cache_bytes(1) == 128 * 1024
    assert serving.most_sequences(serving.MODELS["Llama 3 70B"], GPUS["H200"], 8192) == 0


def test_a_step_costs_its_bytes():
    llama, h200 = serving.MODELS["Llama 3 8B"], GPUS["H200"]
    flops, moved = serving.decode_step(llama, 1, 8192)
    assert moved == llama.weight_bytes() + llama.cache_bytes(8192)
    assert h200.seconds(flops, moved) == moved / 4.8e12  # bound by memory
    assert h200.seconds(*serving.prefill(llama, 8192)) > moved / 4.8e12  # bound by arithmetic


def test_fp8_keeps_the_largest_number_and_halves_the_bytes():
    cache = torch.randn(1, 2, 16, 8).to(torch.float16)
    small, scale = experiments.to_fp8(cache)
    assert small.nbytes * 2 == cache.nbytes and scale.shape == (2,)
    torch.testing.assert_close(small.float() * scale[:, None, None], cache.float(), atol=0, rtol=2**-3.5)


def test_pairs_begin_alike_and_stay_close():
    tiny = dataclasses.replace(TINY, context=16)
    runs = experiments.train_pairs(tiny, seeds=(0, 1), steps=4, batch=2, device="cpu")
    assert [(run["attention"], run["seed"]) for run in runs] == [("naive", 0), ("flashlab", 0), ("naive", 1), ("flashlab", 1)]
    for naive, flash in zip(runs[::2], runs[1::2], strict=True):
        assert naive["losses"] == pytest.approx(flash["losses"], abs=1e-4)
    assert runs[0]["losses"] != runs[2]["losses"]


def test_every_phase_has_its_cost():
    rows = experiments.phase_costs(TINY, "cpu", batch=2, sequences=(1, 4))
    assert [(row["phase"], row["batch"]) for row in rows] == [
        ("training", 2), ("prefill", 1), ("writing, all anew", 1), ("writing", 1), ("writing", 4),
    ]  # fmt: skip
    assert all(row["microseconds"] > 0 for row in rows)
