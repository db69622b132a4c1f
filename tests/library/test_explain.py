"""`flashlab.explain`: which path a call takes, and why."""

import pytest
import torch

from flashlab import block_mask, explain, masks
from flashlab.attention import described
from flashlab.explain import _visited
from flashlab.spec import Spec
from tests.protocol import jagged


def test_it_says_the_path_and_the_reason():
    query = torch.randn(1, 4, 300, 16)
    found = explain(query, query, query)
    assert found.path == "blockwise" and "cpu" in found.reason and found.features == () and found.tiles == {}
    assert found.visited == "all 300 × 300 pairs"
    assert found.extra_bytes == 4 * 300 * 4  # lse
    assert str(found).startswith("path      blockwise: query is on cpu")


def test_it_names_every_feature_that_is_on():
    query, key, value = torch.randn(1, 4, 30, 16), torch.randn(1, 2, 40, 16), torch.randn(1, 2, 40, 8)
    found = explain(
        query, key, value, enable_gqa=True, softcap=3.0, alibi_slopes=torch.ones(4), sinks=torch.ones(4), dropout_p=0.1, seed=1,
        attn_mask=torch.ones(30, 40, dtype=torch.bool), window=(5, 2), alignment="bottom_right", return_lse=True,
    )  # fmt: skip
    assert [feature.split()[0] for feature in found.features] == ["grouped", "value", "softcap", "ALiBi", "attn_mask", "sinks", "dropout"]
    assert "left 5, right 2; it is aligned bottom right" in found.visited


def test_it_says_what_a_mask_mod_costs_and_what_would_be_cheaper():
    query = torch.randn(1, 1, 256, 8)
    assert "block_mask would skip empty tiles" in explain(query, query, query, mask_mod=jagged).visited
    assert "% of the tiles" in explain(query, query, query, block_mask=block_mask(jagged, 256, 256)).visited


@pytest.mark.parametrize("path, tested", [("triton", "full ones are not tested"), ("blockwise", "mask_mod is tested on each pair")])
def test_only_the_kernels_leave_full_tiles_untested(path, tested):
    query = torch.randn(1, 1, 256, 8)
    query, key, _, spec, extras = described(query, query, query, block_mask=block_mask(masks.dilated, 256, 256))
    assert tested in _visited(path, query, key, spec, extras)


def test_a_block_mask_on_the_meta_device():
    query = torch.empty(1, 2, 256, 8, device="meta")
    mask = block_mask(masks.dilated, 256, 256, device="meta")
    assert explain(query, query, query, block_mask=mask).visited.startswith("an unknown share (block_mask is on meta) of the tiles")


def test_nothing_is_computed():
    query = torch.empty(1, 1, 2**20, 8, device="meta")
    assert explain(query, query, query, is_causal=True).path == "blockwise"


def test_no_seed_is_drawn():
    query, before = torch.randn(1, 2, 5, 8), torch.get_rng_state()
    assert "dropout" in str(explain(query, query, query, dropout_p=0.5))
    assert torch.equal(torch.get_rng_state(), before)


def test_on_a_gpu_it_names_the_tiles(monkeypatch):
    pytest.importorskip("triton")
    from flashlab.explain import _tiles
    from flashlab.kernels import configs

    monkeypatch.setattr(configs, "target_of", lambda query: (9, 0))
    query = torch.randn(1, 2, 30, 64, dtype=torch.bfloat16)
    mask = torch.randn(30, 30, requires_grad=True)
    tiles = _tiles(*described(query, query, query, attn_mask=mask))
    assert set(tiles) == {"forward", "dkdv", "dq", "mask_gradient"} and tiles["forward"] == (64, 64, 4, 3)


def test_longer_calls_have_the_tiles_that_descriptors_allow(monkeypatch):
    pytest.importorskip("triton")
    from flashlab.explain import _tiles
    from flashlab.kernels import configs

    monkeypatch.setattr(configs, "target_of", lambda query: (9, 0))
    query = torch.randn(1, 2, 512, 64, dtype=torch.bfloat16)
    assert _tiles(*described(query, query, query))["dkdv"] == (128, 64, 4, 2)
    assert _tiles(*described(query, query, query, softcap=5.0))["dkdv"] == (64, 64, 4, 3)
    unaligned = torch.randn(1, 2, 512, 65, dtype=torch.bfloat16)[..., :64]
    assert _tiles(*described(unaligned, unaligned, unaligned))["dkdv"] == (64, 64, 4, 3)


def test_on_a_t4_it_says_whether_tensor_cores_serve(monkeypatch):
    pytest.importorskip("triton")
    from flashlab.explain import _on_turing
    from flashlab.kernels import configs

    query = torch.randn(1, 2, 30, 64)
    assert _on_turing(query, query) == ""
    monkeypatch.setattr(configs, "target_of", lambda query: (7, 5))
    assert _on_turing(query.half(), query.half()) == ", through Turing's tensor cores"
    for other in (query, query.bfloat16(), torch.randn(1, 2, 30, 160).half()):
        assert "scaled_dot_product_attention (its memory-efficient backend) is faster here" in _on_turing(other, other)


def test_the_splits_of_a_decoding_are_counted(monkeypatch):
    pytest.importorskip("triton")  # no build for macOS
    from flashlab.explain import _part_bytes
    from flashlab.kernels import decode

    query, value = torch.empty(2, 8, 3, 64), torch.empty(2, 2, 4096, 40)
    asked = []
    monkeypatch.setattr(decode, "how_many_splits", lambda *arguments: asked.append(arguments[:2]) or 5)
    spec = Spec(1.0, True, (99, -1))  # a row sees 100 keys, and three in a row 102
    assert _part_bytes(query, value, Spec(1.0)) == _part_bytes(query, value, spec) == 5 * (2 * 8 * 3 * 40 + 2 * 8 * 3) * 4
    assert asked == [(2 * 2, 4096), (2 * 2, 102)]
    monkeypatch.setattr(decode, "how_many_splits", lambda *_: 1)
    assert _part_bytes(query, value, spec) == 0
