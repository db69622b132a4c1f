"""Backward pass: delta, then dK and dV, then dQ (Dao 2023, Algorithm 2).

Two kernels instead of one: each output row has one owner, so nothing is added atomically and every run gives the same bits.
The price is that scores are computed twice: seven matrix products a tile where a fused kernel needs five.
"""

import torch
import triton
import triton.language as tl

from flashlab.kernels import configs
from flashlab.kernels.tile import LOG2_E, head_pointer, keys_of_rows, load_lse, load_tile, rows_of_keys, store_tile, visible
from flashlab.spec import Spec


@triton.jit
def delta_kernel(
    Out, GradOut, GradLse, Delta, out_strides, grad_out_strides, shape,
    HAS_GRAD_LSE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """delta = rowsum(dO ∘ O), minus the gradient that reaches lse."""
    heads, seqlen_q, _ = shape
    tiles = tl.cdiv(seqlen_q, BLOCK_M)
    program = tl.program_id(0)
    batch, head, start_m = program // tiles // heads, program // tiles % heads, program % tiles * BLOCK_M
    Out = head_pointer(Out, out_strides, batch, head)
    GradOut = head_pointer(GradOut, grad_out_strides, batch, head)
    out = load_tile(Out, out_strides, start_m, seqlen_q, HEAD_DIM, BLOCK_M, BLOCK_D, True)  # [BLOCK_M, BLOCK_D]
    do = load_tile(GradOut, grad_out_strides, start_m, seqlen_q, HEAD_DIM, BLOCK_M, BLOCK_D, True)  # [BLOCK_M, BLOCK_D]
    delta = tl.sum(out.to(tl.float32) * do.to(tl.float32), axis=1)  # [BLOCK_M]

    rows = start_m + tl.arange(0, BLOCK_M)
    first = (batch * heads + head).to(tl.int64) * seqlen_q
    if HAS_GRAD_LSE:
        delta -= tl.load(GradLse + first + rows, mask=rows < seqlen_q, other=0.0)
    tl.store(Delta + first + rows, delta, mask=rows < seqlen_q)


@triton.jit
def accumulate_dkdv(
    dk, dv, k, v, Q, GradOut, Lse, Delta, q_strides, grad_out_strides, start_n, begin, end, seqlen_q, scale,
    MASKED: tl.constexpr, IS_CAUSAL: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add what the query rows begin … end give to one tile of keys. Scores are transposed: keys down, queries across."""
    for start_m in tl.range(begin, end, BLOCK_M):
        q = load_tile(Q, q_strides, start_m, seqlen_q, HEAD_DIM, BLOCK_M, BLOCK_D, MASKED)  # [BLOCK_M, BLOCK_D]
        lse = load_lse(Lse, start_m, seqlen_q, BLOCK_M)  # [BLOCK_M]
        scores = tl.dot(k, q.T, input_precision=PRECISION) * scale  # [BLOCK_N, BLOCK_M]
        p = tl.exp2((scores - lse[None, :]) * LOG2_E)  # [BLOCK_N, BLOCK_M]
        if MASKED and IS_CAUSAL:
            i = start_m + tl.arange(0, BLOCK_M)[None, :]
            j = start_n + tl.arange(0, BLOCK_N)[:, None]
            p = tl.where(j <= i, p, 0.0)
        do = load_tile(GradOut, grad_out_strides, start_m, seqlen_q, HEAD_DIM, BLOCK_M, BLOCK_D, MASKED)  # [BLOCK_M, BLOCK_D]
        dv = tl.dot(p.to(do.dtype), do, dv, input_precision=PRECISION)  # [BLOCK_N, BLOCK_D]
        rows = start_m + tl.arange(0, BLOCK_M)
        delta = tl.load(Delta + rows, mask=rows < seqlen_q, other=0.0)  # [BLOCK_M]
        dp = tl.dot(v, do.T, input_precision=PRECISION)  # [BLOCK_N, BLOCK_M]
        ds = p * (dp - delta[None, :])  # [BLOCK_N, BLOCK_M]
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)  # [BLOCK_N, BLOCK_D]
    return dk, dv


@triton.jit
def dkdv_kernel(
    Q, K, V, GradOut, Lse, Delta, GradK, GradV,
    q_strides, k_strides, v_strides, grad_out_strides, grad_k_strides, grad_v_strides, shape, scale,
    IS_CAUSAL: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program owns BLOCK_N keys of one head and walks over every query row that sees them, of every head in the group."""
    heads, seqlen_q, seqlen_k = shape
    heads_kv = heads // GROUP
    tiles = tl.cdiv(seqlen_k, BLOCK_N)
    program = tl.program_id(0)
    start_n = program % tiles * BLOCK_N  # the first keys first: under a causal mask the most rows see them
    batch, head_kv = program // tiles // heads_kv, program // tiles % heads_kv

    K = head_pointer(K, k_strides, batch, head_kv)
    V = head_pointer(V, v_strides, batch, head_kv)
    k = load_tile(K, k_strides, start_n, seqlen_k, HEAD_DIM, BLOCK_N, BLOCK_D, True)  # [BLOCK_N, BLOCK_D]
    v = load_tile(V, v_strides, start_n, seqlen_k, HEAD_DIM, BLOCK_N, BLOCK_D, True)  # [BLOCK_N, BLOCK_D]
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)

    begin, full_begin, full_end = rows_of_keys(start_n, seqlen_q, IS_CAUSAL, BLOCK_M, BLOCK_N)
    for member in range(GROUP):
        head = head_kv * GROUP + member
        Q_head = head_pointer(Q, q_strides, batch, head)
        GradOut_head = head_pointer(GradOut, grad_out_strides, batch, head)
        first = (batch * heads + head).to(tl.int64) * seqlen_q
        if IS_CAUSAL:
            dk, dv = accumulate_dkdv(
                dk, dv, k, v, Q_head, GradOut_head, Lse + first, Delta + first, q_strides, grad_out_strides,
                start_n, begin, full_begin, seqlen_q, scale,
                True, IS_CAUSAL, HEAD_DIM, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
        dk, dv = accumulate_dkdv(
            dk, dv, k, v, Q_head, GradOut_head, Lse + first, Delta + first, q_strides, grad_out_strides,
            start_n, full_begin, full_end, seqlen_q, scale,
            False, IS_CAUSAL, HEAD_DIM, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip
        dk, dv = accumulate_dkdv(
            dk, dv, k, v, Q_head, GradOut_head, Lse + first, Delta + first, q_strides, grad_out_strides,
            start_n, full_end, seqlen_q, seqlen_q, scale,
            True, IS_CAUSAL, HEAD_DIM, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip

    GradK = head_pointer(GradK, grad_k_strides, batch, head_kv)
    GradV = head_pointer(GradV, grad_v_strides, batch, head_kv)
    store_tile(GradK, grad_k_strides, start_n, seqlen_k, dk * scale, HEAD_DIM, BLOCK_N, BLOCK_D)
    store_tile(GradV, grad_v_strides, start_n, seqlen_k, dv, HEAD_DIM, BLOCK_N, BLOCK_D)


@triton.jit
def accumulate_dq(
    dq, q, do, lse, delta, K, V, k_strides, v_strides, start_m, begin, end, seqlen_k, scale,
    MASKED: tl.constexpr, IS_CAUSAL: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add what the keys begin … end give to one tile of query rows."""
    for start_n in tl.range(begin, end, BLOCK_N):
        k = load_tile(K, k_strides, start_n, seqlen_k, HEAD_DIM, BLOCK_N, BLOCK_D, MASKED)  # [BLOCK_N, BLOCK_D]
        v = load_tile(V, v_strides, start_n, seqlen_k, HEAD_DIM, BLOCK_N, BLOCK_D, MASKED)  # [BLOCK_N, BLOCK_D]
        scores = tl.dot(q, k.T, input_precision=PRECISION) * scale  # [BLOCK_M, BLOCK_N]
        p = tl.exp2((scores - lse[:, None]) * LOG2_E)  # [BLOCK_M, BLOCK_N]
        if MASKED:
            i = start_m + tl.arange(0, BLOCK_M)[:, None]
            j = start_n + tl.arange(0, BLOCK_N)[None, :]
            p = tl.where(visible(i, j, seqlen_k, IS_CAUSAL), p, 0.0)
        dp = tl.dot(do, v.T, input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
        ds = p * (dp - delta[:, None])  # [BLOCK_M, BLOCK_N]
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)  # [BLOCK_M, BLOCK_D]
    return dq


@triton.jit
def dq_kernel(
    Q, K, V, GradOut, Lse, Delta, GradQ,
    q_strides, k_strides, v_strides, grad_out_strides, grad_q_strides, shape, scale,
    IS_CAUSAL: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program owns BLOCK_M query rows of one head and walks over the keys they see, as the forward kernel does."""
    heads, seqlen_q, seqlen_k = shape
    tiles = tl.cdiv(seqlen_q, BLOCK_M)
    program = tl.program_id(0)
    tile = tiles - 1 - program % tiles  # the last rows first: under a causal mask they see the most keys
    batch, head = program // tiles // heads, program // tiles % heads
    start_m = tile * BLOCK_M

    Q = head_pointer(Q, q_strides, batch, head)
    K = head_pointer(K, k_strides, batch, head // GROUP)
    V = head_pointer(V, v_strides, batch, head // GROUP)
    GradOut = head_pointer(GradOut, grad_out_strides, batch, head)
    q = load_tile(Q, q_strides, start_m, seqlen_q, HEAD_DIM, BLOCK_M, BLOCK_D, True)  # [BLOCK_M, BLOCK_D]
    do = load_tile(GradOut, grad_out_strides, start_m, seqlen_q, HEAD_DIM, BLOCK_M, BLOCK_D, True)  # [BLOCK_M, BLOCK_D]
    first = (batch * heads + head).to(tl.int64) * seqlen_q
    lse = load_lse(Lse + first, start_m, seqlen_q, BLOCK_M)  # [BLOCK_M]
    rows = start_m + tl.arange(0, BLOCK_M)
    delta = tl.load(Delta + first + rows, mask=rows < seqlen_q, other=0.0)  # [BLOCK_M]
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    full_end, end = keys_of_rows(start_m, seqlen_k, IS_CAUSAL, BLOCK_M, BLOCK_N)
    dq = accumulate_dq(
        dq, q, do, lse, delta, K, V, k_strides, v_strides, start_m, 0, full_end, seqlen_k, scale,
        False, IS_CAUSAL, HEAD_DIM, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    dq = accumulate_dq(
        dq, q, do, lse, delta, K, V, k_strides, v_strides, start_m, full_end, end, seqlen_k, scale,
        True, IS_CAUSAL, HEAD_DIM, BLOCK_M, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    GradQ = head_pointer(GradQ, grad_q_strides, batch, head)
    store_tile(GradQ, grad_q_strides, start_m, seqlen_q, dq * scale, HEAD_DIM, BLOCK_M, BLOCK_D)


def backward(grad_out, query, key, value, out, lse, spec: Spec, grad_lse=None):
    """Gradients (grad_query, grad_key, grad_value) for grad_out (B, Hq, Sq, D) and grad_lse (B, Hq, Sq), bitwise the same every run."""
    batch, heads, seqlen_q, head_dim = query.shape
    heads_kv, seqlen_k = key.shape[1:3]
    grad_query, grad_key, grad_value = (torch.empty_like(x) for x in (query, key, value))
    delta = torch.empty_like(lse)
    shape = (heads, seqlen_q, seqlen_k)
    common = dict(IS_CAUSAL=spec.is_causal, GROUP=heads // heads_kv, HEAD_DIM=head_dim, PRECISION=configs.dot_precision())

    config = configs.choose("delta", query)
    programs = triton.cdiv(seqlen_q, config.BLOCK_M) * batch * heads
    if programs:
        grad_lse = grad_lse.contiguous() if grad_lse is not None else None
        delta_kernel[(programs,)](
            out, grad_out, grad_lse, delta, out.stride(), grad_out.stride(), shape,
            HAS_GRAD_LSE=grad_lse is not None, HEAD_DIM=head_dim,
            BLOCK_M=config.BLOCK_M, BLOCK_D=configs.block_d(head_dim), num_warps=config.num_warps,
        )  # fmt: skip

    config = configs.choose("dkdv", query)
    programs = triton.cdiv(seqlen_k, config.BLOCK_N) * batch * heads_kv
    if programs:
        dkdv_kernel[(programs,)](
            query, key, value, grad_out, lse, delta, grad_key, grad_value,
            query.stride(), key.stride(), value.stride(), grad_out.stride(), grad_key.stride(), grad_value.stride(),
            shape, spec.scale, **common, **config.launch_arguments(head_dim),
        )  # fmt: skip

    config = configs.choose("dq", query)
    programs = triton.cdiv(seqlen_q, config.BLOCK_M) * batch * heads
    if programs:
        dq_kernel[(programs,)](
            query, key, value, grad_out, lse, delta, grad_query,
            query.stride(), key.stride(), value.stride(), grad_out.stride(), grad_query.stride(),
            shape, spec.scale, **common, **config.launch_arguments(head_dim),
        )  # fmt: skip
    return grad_query, grad_key, grad_value
