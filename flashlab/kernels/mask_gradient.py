"""The gradient of an additive attn_mask: dS, summed over the dimensions in which the mask was broadcast.

Each tile of the mask has one owner, which visits every score that the tile shaped: no atomics, the same bits every run, and nothing of
size S×S beyond the mask itself. The price is two more matrix products a tile, paid only where the mask wants a gradient.
"""

import torch
import triton
import triton.language as tl

from flashlab.kernels import configs
from flashlab.kernels.backward import score_gradient
from flashlab.kernels.launch import Launch, Problem
from flashlab.kernels.shaping import place_of, random_rows
from flashlab.kernels.tile import head_of, load_lse, load_row, load_tile
from flashlab.kernels.walk import walk_of_rows
from flashlab.spec import Extras, Spec


@triton.jit
def mask_gradient_kernel(
    Q, K, V, GradOut, Lse, Delta, GradMask, mask_shape, batches, shape, packing, features, scale, keep_scale,
    BOTTOM_RIGHT: tl.constexpr, SEQUENCES: tl.constexpr, GROUP: tl.constexpr, ONE_ROW: tl.constexpr, ONE_KEY: tl.constexpr,
    HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, MASK_MOD: tl.constexpr, BIAS_MOD: tl.constexpr, FAST_TANH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program owns BLOCK_M × BLOCK_N elements of the mask; a row or a key that stands for all is owned by one program as well."""
    seqlen_q, seqlen_k = shape.seqlen_q, shape.seqlen_k
    mask_batches, mask_heads = mask_shape
    tiles_m = 1 if ONE_ROW else tl.cdiv(seqlen_q, BLOCK_M)
    tiles_n = 1 if ONE_KEY else tl.cdiv(seqlen_k, BLOCK_N)
    program = tl.program_id(0)
    tile_m, tile_n = program // tiles_n % tiles_m, program % tiles_n
    mask_batch, mask_head = program // tiles_n // tiles_m // mask_heads, program // tiles_n // tiles_m % mask_heads
    first_batch, batch_count, first_head, head_count = mask_batch, 1, mask_head, 1
    if mask_batches != batches:
        first_batch, batch_count = 0, batches
    if mask_heads != shape.heads:
        first_head, head_count = 0, shape.heads
    row_begin, row_end = (0, seqlen_q) if ONE_ROW else (tile_m * BLOCK_M, tile_m * BLOCK_M + 1)
    key_begin, key_end = (0, seqlen_k) if ONE_KEY else (tile_n * BLOCK_N, tile_n * BLOCK_N + 1)

    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for batch in range(first_batch, first_batch + batch_count):
        for head in range(first_head, first_head + head_count):
            at = place_of(batch, head, shape, packing, features, BOTTOM_RIGHT)
            q_head, do_head = head_of(Q, batch, head, 0), head_of(GradOut, batch, head, 0)
            k_head, v_head = head_of(K, batch, head // GROUP, 0), head_of(V, batch, head // GROUP, 0)
            for start_m in range(row_begin, row_end, BLOCK_M):
                i = start_m + tl.arange(0, BLOCK_M)[:, None]
                random = random_rows(i, at, features)
                q = load_tile(q_head, start_m, seqlen_q, HEAD_DIM, BLOCK_M, BLOCK_D, True)  # [BLOCK_M, BLOCK_D]
                do = load_tile(do_head, start_m, seqlen_q, VALUE_DIM, BLOCK_M, BLOCK_V, True)  # [BLOCK_M, BLOCK_V]
                lse = load_lse(head_of(Lse, batch, head, 0), start_m, seqlen_q, BLOCK_M, True, True)  # [BLOCK_M]
                delta = load_row(head_of(Delta, batch, head, 0), start_m, seqlen_q, 0.0, BLOCK_M, True)  # [BLOCK_M]
                begin, full_begin, full_end, end = walk_of_rows(None, start_m, at, features, MASK_MOD, BLOCK_M, BLOCK_N)
                for start_n in range(tl.maximum(key_begin, begin), tl.minimum(key_end, end), BLOCK_N):
                    j = start_n + tl.arange(0, BLOCK_N)[None, :]
                    k = load_tile(k_head, start_n, seqlen_k, HEAD_DIM, BLOCK_N, BLOCK_D, True)  # [BLOCK_N, BLOCK_D]
                    v = load_tile(v_head, start_n, seqlen_k, VALUE_DIM, BLOCK_N, BLOCK_V, True)  # [BLOCK_N, BLOCK_V]
                    ds = score_gradient(
                        q, do, lse, delta, k, v, i, j, at, features, random, scale, keep_scale, True, True,
                        MASK_MOD, BIAS_MOD, FAST_TANH, PRECISION,
                    )  # fmt: skip
                    total += ds  # [BLOCK_M, BLOCK_N]

    i = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    j = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    rows, keys = seqlen_q, seqlen_k
    if ONE_ROW:
        total, i, rows = tl.sum(total, axis=0, keep_dims=True), tl.zeros([1, 1], tl.int32), 1
    if ONE_KEY:
        total, j, keys = tl.sum(total, axis=1, keep_dims=True), tl.zeros([1, 1], tl.int32), 1
    grad = head_of(GradMask, mask_batch, mask_head, 0)
    tl.store(
        grad.pointer + i.to(tl.int64) * grad.strides[2] + j.to(tl.int64) * grad.strides[3],
        total.to(grad.pointer.dtype.element_ty),
        mask=(i < rows) & (j < keys),
    )


def mask_gradient(grad_out, query, key, value, lse, delta, spec: Spec, extras: Extras):
    """The gradient of extras.attn_mask, in its shape and dtype."""
    mask = extras.attn_mask
    grad = torch.empty(mask.shape, dtype=mask.dtype, device=mask.device)
    p = Problem.of(query, key, value, spec, extras)
    config = configs.choose("mask_gradient", query, value, spec, extras)
    one_row, one_key = mask.shape[2] == 1, mask.shape[3] == 1
    tiles = (1 if one_row else triton.cdiv(query.shape[2], config.BLOCK_M)) * (1 if one_key else triton.cdiv(key.shape[2], config.BLOCK_N))
    numbers = (tuple(mask.shape[:2]), query.shape[0], p.shape, p.packing, p.features, spec.scale, 1 / (1 - spec.dropout_p))
    constants = dict(ONE_ROW=one_row, ONE_KEY=one_key) | p.constants | config.launch_arguments(query, value)
    to_mask = Launch(mask_gradient_kernel, mask.shape[0] * mask.shape[1] * tiles, numbers, constants, p.view)
    to_mask(query, key, value, grad_out, lse, delta, grad)
    return grad
