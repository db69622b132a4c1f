"""Forward pass: one program owns BLOCK_M rows of one head and walks over the keys (Dao 2023, Algorithm 1)."""

import torch
import triton
import triton.language as tl

from flashlab.kernels import configs
from flashlab.kernels.launch import Problem, launch
from flashlab.kernels.shaping import Place, capped_scores, dropped, head_seed, random_keys, random_rows, shape_scores
from flashlab.kernels.tile import LN_2, LOG2_E, head_pointer, load_tile, online_softmax_step, store_tile
from flashlab.kernels.walk import owned_tile, position, sequence, walk_of_rows
from flashlab.layout import empty_out
from flashlab.spec import NO_EXTRAS, Extras, Spec


@triton.jit
def attend_tiles(
    q, m, l, acc, K_head, V_head, k_strides, v_strides, start_m, begin, end, blocks, at, features, random, scale, MASKED: tl.constexpr,
    HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, MASK_MOD: tl.constexpr, BIAS_MOD: tl.constexpr, FAST_TANH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Fold the keys begin … end of the walk into (m, l, acc). Only MASKED tiles ask which pairs see each other."""
    for place in tl.range(begin, end, BLOCK_N):
        start_n = position(blocks, place, start_m, at, BLOCK_N)
        i = start_m + tl.arange(0, BLOCK_M)[:, None]
        j = start_n + tl.arange(0, BLOCK_N)[None, :]
        k = load_tile(K_head, k_strides, start_n, at.seqlen_k, HEAD_DIM, BLOCK_N, BLOCK_D, MASKED)  # [BLOCK_N, BLOCK_D]
        scores = capped_scores(tl.dot(q, k.T, input_precision=PRECISION), scale, features, FAST_TANH)  # [BLOCK_M, BLOCK_N]
        scores = shape_scores(scores, i, j, at, features, MASKED, MASK_MOD, BIAS_MOD)
        p, m, l, acc = online_softmax_step(scores, m, l, acc)
        p = dropped(p, random, random_keys(j, at, features), features)
        v = load_tile(V_head, v_strides, start_n, at.seqlen_k, VALUE_DIM, BLOCK_N, BLOCK_V, MASKED)  # [BLOCK_N, BLOCK_V]
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)  # [BLOCK_M, BLOCK_V]
    return m, l, acc


@triton.jit
def forward_kernel(
    Q, K, V, Out, Lse, shape, band, packing, blocks, features, scale, keep_scale,
    BOTTOM_RIGHT: tl.constexpr, SEQUENCES: tl.constexpr, GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, MASK_MOD: tl.constexpr, BIAS_MOD: tl.constexpr, FAST_TANH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # The last rows first: under a causal mask they see the most keys.
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    batch, head, start_m = owned_tile(program, packing.starts_q, packing.sequences, shape.heads, shape.seqlen_q, BLOCK_M, SEQUENCES)
    first_q, seqlen_q = sequence(packing.starts_q, batch, shape.seqlen_q)
    first_k, seqlen_k = sequence(packing.starts_k, batch, shape.seqlen_k)
    if packing.starts_q is not None:  # noqa: SIM102 (the first is decided by the compiler)
        if start_m >= seqlen_q:
            return
    diagonal = seqlen_k - seqlen_q if BOTTOM_RIGHT else 0
    at = Place(
        batch, head, shape.heads, seqlen_q, seqlen_k, first_q, first_k, band, diagonal, head_seed(features, batch, head, shape.heads)
    )

    K_head = head_pointer(K, batch, head // GROUP, first_k)
    V_head = head_pointer(V, batch, head // GROUP, first_k)
    q = load_tile(
        head_pointer(Q, batch, head, first_q), Q.strides, start_m, seqlen_q, HEAD_DIM, BLOCK_M, BLOCK_D, True
    )  # [BLOCK_M, BLOCK_D]
    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    if features.sinks is not None:  # a key whose value is 0 has been seen already
        sink = tl.load(features.sinks + head).to(tl.float32) * LOG2_E
        m = tl.zeros([BLOCK_M], tl.float32) + sink
        l = tl.where(m == -float("inf"), 0.0, 1.0)
    acc = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)

    random = random_rows(start_m + tl.arange(0, BLOCK_M)[:, None], at, features)
    begin, full_begin, full_end, end = walk_of_rows(blocks, start_m, at, MASK_MOD, BLOCK_M, BLOCK_N)
    if band.left is not None or MASK_MOD is not None:
        m, l, acc = attend_tiles(
            q, m, l, acc, K_head, V_head, K.strides, V.strides, start_m, begin, full_begin, blocks, at, features, random, scale, True,
            HEAD_DIM, VALUE_DIM, MASK_MOD, BIAS_MOD, FAST_TANH, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_V, PRECISION,
        )  # fmt: skip
    m, l, acc = attend_tiles(
        q, m, l, acc, K_head, V_head, K.strides, V.strides, start_m, full_begin, full_end, blocks, at, features, random, scale, False,
        HEAD_DIM, VALUE_DIM, MASK_MOD, BIAS_MOD, FAST_TANH, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_V, PRECISION,
    )  # fmt: skip
    if MASK_MOD is None:  # the right edge, or where the keys end
        m, l, acc = attend_tiles(
            q, m, l, acc, K_head, V_head, K.strides, V.strides, start_m, full_end, end, blocks, at, features, random, scale, True,
            HEAD_DIM, VALUE_DIM, MASK_MOD, BIAS_MOD, FAST_TANH, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_V, PRECISION,
        )  # fmt: skip

    out = acc * (keep_scale / tl.where(l == 0.0, 1.0, l))[:, None]  # a row that saw no key: 0, not 0/0
    store_tile(head_pointer(Out, batch, head, first_q), Out.strides, start_m, seqlen_q, out, VALUE_DIM, BLOCK_M, BLOCK_V)
    rows = start_m + tl.arange(0, BLOCK_M)
    lse = (m + tl.log2(l)) * LN_2  # natural log; −inf where no key was seen
    tl.store(head_pointer(Lse, batch, head, first_q) + rows, lse, mask=rows < seqlen_q)


def forward(query, key, value, spec: Spec, extras: Extras = NO_EXTRAS, config: configs.Config | None = None):
    """Attention of query (B, Hq, Sq, D) over key (B, Hkv, Sk, D) and value (B, Hkv, Sk, Dv), any strides.

    Returns out (B, Hq, Sq, Dv) in query's dtype and lse (B, Hq, Sq), float32, natural log.
    """
    out = empty_out(query, value)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    config = config or configs.choose("forward", query, value, spec, extras)
    p = Problem.of(query, key, value, spec, extras)
    launch(
        forward_kernel, p.row_tiles(config) * p.shape.heads,
        p.view(query), p.view(key), p.view(value), p.view(out), p.view(lse),
        p.shape, p.band, p.packing, p.row_blocks, p.features, spec.scale, 1 / (1 - spec.dropout_p),
        **p.constants, **config.launch_arguments(query, value),
    )  # fmt: skip
    return out, lse
