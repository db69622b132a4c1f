"""Forward pass: one program owns BLOCK_M rows of one head and walks over the keys (Dao 2023, Algorithm 1)."""

import torch
import triton
import triton.language as tl

from flashlab.kernels import configs
from flashlab.kernels.tile import LN_2, LOG2_E, head_pointer, keys_of_rows, load_tile, online_softmax_step, store_tile, visible
from flashlab.spec import Spec


@triton.jit
def attend_tiles(
    q, m, l, acc, K, V, k_strides, v_strides, start_m, begin, end, seqlen_k, scale_log2,
    MASKED: tl.constexpr, IS_CAUSAL: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Fold the keys begin … end into (m, l, acc). Only MASKED tiles ask which pairs see each other."""
    for start_n in tl.range(begin, end, BLOCK_N):
        k = load_tile(K, k_strides, start_n, seqlen_k, HEAD_DIM, BLOCK_N, BLOCK_D, MASKED)  # [BLOCK_N, BLOCK_D]
        scores = tl.dot(q, k.T, input_precision=PRECISION) * scale_log2  # [BLOCK_M, BLOCK_N]
        if MASKED:
            i = start_m + tl.arange(0, BLOCK_M)[:, None]
            j = start_n + tl.arange(0, BLOCK_N)[None, :]
            scores = tl.where(visible(i, j, seqlen_k, IS_CAUSAL), scores, -float("inf"))
        p, m, l, acc = online_softmax_step(scores, m, l, acc)
        v = load_tile(V, v_strides, start_n, seqlen_k, HEAD_DIM, BLOCK_N, BLOCK_D, MASKED)  # [BLOCK_N, BLOCK_D]
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)  # [BLOCK_M, BLOCK_D]
    return m, l, acc


@triton.jit
def forward_kernel(
    Q, K, V, Out, Lse, q_strides, k_strides, v_strides, out_strides, shape, scale_log2,
    IS_CAUSAL: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    heads, seqlen_q, seqlen_k = shape
    tiles = tl.cdiv(seqlen_q, BLOCK_M)
    program = tl.program_id(0)
    tile = tiles - 1 - program % tiles  # the last rows first: under a causal mask they see the most keys
    batch, head = program // tiles // heads, program // tiles % heads
    start_m = tile * BLOCK_M

    Q = head_pointer(Q, q_strides, batch, head)
    K = head_pointer(K, k_strides, batch, head // GROUP)
    V = head_pointer(V, v_strides, batch, head // GROUP)
    q = load_tile(Q, q_strides, start_m, seqlen_q, HEAD_DIM, BLOCK_M, BLOCK_D, True)  # [BLOCK_M, BLOCK_D]
    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    full_end, end = keys_of_rows(start_m, seqlen_k, IS_CAUSAL, BLOCK_M, BLOCK_N)
    m, l, acc = attend_tiles(
        q, m, l, acc, K, V, k_strides, v_strides, start_m, 0, full_end, seqlen_k, scale_log2,
        False, IS_CAUSAL, HEAD_DIM, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    m, l, acc = attend_tiles(
        q, m, l, acc, K, V, k_strides, v_strides, start_m, full_end, end, seqlen_k, scale_log2,
        True, IS_CAUSAL, HEAD_DIM, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip

    out = acc / tl.where(l == 0.0, 1.0, l)[:, None]  # a row that saw no key: 0, not 0/0
    store_tile(head_pointer(Out, out_strides, batch, head), out_strides, start_m, seqlen_q, out, HEAD_DIM, BLOCK_M, BLOCK_D)
    rows = start_m + tl.arange(0, BLOCK_M)
    Lse += (batch * heads + head).to(tl.int64) * seqlen_q
    tl.store(Lse + rows, (m + tl.log2(l)) * LN_2, mask=rows < seqlen_q)  # natural log; −inf where no key was seen


def forward(query, key, value, spec: Spec, config: configs.Config | None = None):
    """Attention of query (B, Hq, Sq, D) over key, value (B, Hkv, Sk, D), any strides.

    Returns out (B, Hq, Sq, D) in query's dtype and lse (B, Hq, Sq), float32, natural log.
    """
    batch, heads, seqlen_q, head_dim = query.shape
    out = torch.empty_like(query)
    lse = query.new_empty((batch, heads, seqlen_q), dtype=torch.float32)
    config = config or configs.choose("forward", query)
    programs = triton.cdiv(seqlen_q, config.BLOCK_M) * batch * heads
    if programs:
        forward_kernel[(programs,)](
            query, key, value, out, lse,
            query.stride(), key.stride(), value.stride(), out.stride(),
            (heads, seqlen_q, key.shape[2]), spec.scale * LOG2_E.value,
            IS_CAUSAL=spec.is_causal, GROUP=heads // key.shape[1], HEAD_DIM=head_dim,
            **config.launch_arguments(head_dim), PRECISION=configs.dot_precision(),
        )  # fmt: skip
    return out, lse
