"""Counted memory: every byte, and an SRAM that is really small."""

import numpy as np
import pytest

from flashlab.course.memory import GPUS, HBM, SRAMOverflow, attention_flops, naive_bytes, paper_bytes, tiled_backward_bytes, tiled_bytes
from flashlab.course.steps import naive, tiled


def problem(hbm, seqlen_q, seqlen_k, head_dim, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = [(seqlen_q, head_dim), (seqlen_k, head_dim), (seqlen_k, head_dim), (seqlen_q, head_dim)]
    return [hbm.array(rng.normal(size=shape).astype(dtype)) for shape in shapes]


def test_reading_and_writing_slices_is_counted_placing_and_looking_is_not():
    hbm = HBM()
    x = hbm.array(np.zeros((10, 4), np.float32))
    out = hbm.empty((10, 4))
    assert hbm.bytes_moved == 0
    tile = x[2:5]
    assert (hbm.bytes_read, hbm.bytes_written) == (3 * 4 * 4, 0)
    out[0:3] = tile
    assert (hbm.bytes_read, hbm.bytes_written) == (48, 48)
    out.numpy()
    x[7]
    assert hbm.bytes_moved == 48 + 48 + 16


def test_what_is_computed_from_tiles_lives_in_sram_until_it_is_dropped():
    hbm = HBM()
    x = hbm.array(np.ones((8, 4), np.float32))
    tile = x[:]
    product = tile @ tile.T
    view = product[2:4]
    assert hbm.sram_used == 8 * 4 * 4 + 8 * 8 * 4  # the view costs nothing
    del tile, product
    assert hbm.sram_used == 8 * 8 * 4  # the view keeps its buffer
    del view
    assert hbm.sram_used == 0 and hbm.sram_peak == 8 * 4 * 4 + 8 * 8 * 4


def test_a_tile_is_a_copy():
    hbm = HBM()
    x = hbm.array(np.ones(4))
    tile = x[:]
    tile += 1
    assert (x.numpy() == 1).all()


def test_the_budget_raises_and_says_what_to_do():
    hbm = HBM(sram_bytes=1000)
    x = hbm.array(np.ones((64, 16), np.float32))
    assert x[0:8].nbytes == 512
    with pytest.raises(SRAMOverflow, match=r"4,096 bytes.*budget is 1,000.*smaller tiles"):
        x[:]


@pytest.mark.parametrize(
    ("seqlen_q", "seqlen_k", "head_dim", "block_m", "block_n"), [(128, 128, 64, 32, 16), (100, 70, 24, 32, 48), (1, 5, 8, 4, 4)]
)
def test_the_tiled_rung_moves_exactly_what_the_formula_says(seqlen_q, seqlen_k, head_dim, block_m, block_n):
    hbm = HBM()
    Q, K, V, dOut = problem(hbm, seqlen_q, seqlen_k, head_dim)
    Out, Lse, Delta = hbm.empty(Q.shape), hbm.empty(seqlen_q), hbm.empty(seqlen_q)
    dQ, dK, dV = hbm.empty(Q.shape), hbm.empty(K.shape), hbm.empty(V.shape)
    options = dict(is_causal=False, scale=0.1, BLOCK_M=block_m, BLOCK_N=block_n)
    tiled.forward_kernel(Q, K, V, Out, Lse, **options)
    assert hbm.bytes_moved == tiled_bytes(seqlen_q, seqlen_k, head_dim, block_m)
    np.testing.assert_allclose(Out.numpy(), naive.forward(Q.numpy(), K.numpy(), V.numpy(), scale=0.1)[0], rtol=2e-5, atol=2e-6)
    hbm.reset()
    tiled.delta_kernel(dOut, Out, Delta, BLOCK_M=block_m)
    tiled.dkdv_kernel(dOut, Q, K, V, Lse, Delta, dK, dV, **options)
    tiled.dq_kernel(dOut, Q, K, V, Lse, Delta, dQ, **options)
    assert hbm.bytes_moved == tiled_backward_bytes(seqlen_q, seqlen_k, head_dim, block_m, block_n)
    assert hbm.sram_used == 0


def test_naive_attention_moves_the_scores_four_times():
    hbm = HBM()
    Q, K, V, _ = problem(hbm, 96, 96, 16)
    S, P, Out = hbm.empty((96, 96)), hbm.empty((96, 96)), hbm.empty((96, 16))
    naive.forward_through_hbm(Q, K, V, S, P, Out)
    assert hbm.bytes_moved == naive_bytes(96, 16)


@pytest.mark.parametrize("sram_kib", [8, 16, 32, 64])
def test_traffic_follows_the_papers_formula_within_five_percent(sram_kib):
    seqlen, head_dim = 1024, 32
    rows = sram_kib * 1024 // 4 // (4 * head_dim)  # the paper's block: a quarter of SRAM for each of four tiles
    hbm = HBM()
    Q, K, V, _ = problem(hbm, seqlen, seqlen, head_dim)
    tiled.forward_kernel(Q, K, V, hbm.empty(Q.shape), hbm.empty(seqlen), is_causal=False, scale=1.0, BLOCK_M=rows, BLOCK_N=rows)
    assert abs(hbm.bytes_moved / paper_bytes(seqlen, head_dim, sram_kib * 1024) - 1) < 0.05


def test_causal_skipping_halves_the_traffic_of_keys():
    full, causal = HBM(), HBM()
    for hbm, is_causal in ((full, False), (causal, True)):
        Q, K, V, _ = problem(hbm, 512, 512, 16)
        tiled.forward_kernel(Q, K, V, hbm.empty(Q.shape), hbm.empty(512), is_causal=is_causal, scale=1.0, BLOCK_M=16, BLOCK_N=16)
    once = 4 * (2 * 512 * 16 + 512)
    assert (causal.bytes_moved - once) / (full.bytes_moved - once) == pytest.approx(33 / 64)  # (n + 1) / 2n for n = 32 tiles


def test_roofline():
    gpu = GPUS["H200"]
    assert gpu.attainable(gpu.ridge) == pytest.approx(gpu.tflops)
    assert gpu.attainable(1.0) == pytest.approx(4.8)
    assert gpu.seconds(gpu.tflops * 1e12, 1) == pytest.approx(1.0)
    assert attention_flops(10, 20, 4) == 3200 and attention_flops(10, 20, 4, is_causal=True) == 1600
