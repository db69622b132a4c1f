"""dQ: a program owns one tile of query rows and walks over the keys they see, as in the forward pass."""

import torch
import triton
import triton.language as tl

BLOCK_M = 32  # rows of Q in a tile
BLOCK_N = 32  # rows of K and V in a tile


@triton.jit
def dq_kernel(
    dOut, Q, K, V, Lse, Delta, dQ, seqlen_q, seqlen_k, scale,
    IS_CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    start_m = tl.program_id(0) * BLOCK_M
    head = tl.program_id(1).to(tl.int64)
    rows = start_m + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    first_q, first_k = head * seqlen_q, head * seqlen_k

    in_q = (rows < seqlen_q)[:, None] & (dims < D)[None, :]
    q_offsets = (first_q + rows)[:, None] * D + dims[None, :]
    q = tl.load(Q + q_offsets, mask=in_q, other=0.0)  # [BLOCK_M, BLOCK_D]
    do = tl.load(dOut + q_offsets, mask=in_q, other=0.0)  # [BLOCK_M, BLOCK_D]
    lse = tl.load(Lse + first_q + rows, mask=rows < seqlen_q, other=float("inf"))  # [BLOCK_M]
    delta = tl.load(Delta + first_q + rows, mask=rows < seqlen_q, other=0.0)  # [BLOCK_M]
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    end = seqlen_k
    if IS_CAUSAL:
        end = tl.minimum(seqlen_k, start_m + BLOCK_M)  # no row of this tile sees further
    for start_n in range(0, end, BLOCK_N):
        keys = start_n + tl.arange(0, BLOCK_N)
        in_k = (keys < seqlen_k)[:, None] & (dims < D)[None, :]
        k_offsets = (first_k + keys)[:, None] * D + dims[None, :]
        k = tl.load(K + k_offsets, mask=in_k, other=0.0)  # [BLOCK_N, BLOCK_D]
        v = tl.load(V + k_offsets, mask=in_k, other=0.0)  # [BLOCK_N, BLOCK_D]

        p = tl.exp(tl.dot(q, k.T, input_precision="ieee") * scale - lse[:, None])  # [BLOCK_M, BLOCK_N]
        seen = (keys < seqlen_k)[None, :]
        if IS_CAUSAL:
            seen = seen & (keys[None, :] <= rows[:, None])
        p = tl.where(seen, p, 0.0)
        dp = tl.dot(do, v.T, input_precision="ieee")  # [BLOCK_M, BLOCK_N]
        ds = p * (dp - delta[:, None])  # [BLOCK_M, BLOCK_N]
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")  # [BLOCK_M, BLOCK_D]

    tl.store(dQ + q_offsets, (dq * scale).to(dQ.dtype.element_ty), mask=in_q)


def compute_dq(dOut, Q, K, V, lse, Delta, is_causal, scale):
    """dQ (B, H, Sq, D) from contiguous tensors."""
    batch, heads, seqlen_q, D = Q.shape
    dQ = torch.empty_like(Q)
    grid = (triton.cdiv(seqlen_q, BLOCK_M), batch * heads)
    dq_kernel[grid](
        dOut, Q, K, V, lse, Delta, dQ, seqlen_q, K.shape[2], scale,
        IS_CAUSAL=is_causal, D=D, BLOCK_D=max(16, triton.next_power_of_2(D)), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    return dQ
