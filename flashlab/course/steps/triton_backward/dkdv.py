"""dK and dV: a program owns one tile of keys and walks down the query rows that see it."""

import torch
import triton
import triton.language as tl

BLOCK_M = 32  # rows of Q in a tile
BLOCK_N = 32  # rows of K and V in a tile


@triton.jit
def dkdv_kernel(
    dOut, Q, K, V, Lse, Delta, dK, dV, seqlen_q, seqlen_k, scale,
    IS_CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    start_n = tl.program_id(0) * BLOCK_N
    head = tl.program_id(1).to(tl.int64)
    keys = start_n + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    first_q, first_k = head * seqlen_q, head * seqlen_k

    in_k = (keys < seqlen_k)[:, None] & (dims < D)[None, :]
    k_offsets = (first_k + keys)[:, None] * D + dims[None, :]
    k = tl.load(K + k_offsets, mask=in_k, other=0.0)  # [BLOCK_N, BLOCK_D]
    v = tl.load(V + k_offsets, mask=in_k, other=0.0)  # [BLOCK_N, BLOCK_D]
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)

    begin = 0
    if IS_CAUSAL:
        begin = start_n // BLOCK_M * BLOCK_M  # rows above the diagonal do not see these keys
    for start_m in range(begin, seqlen_q, BLOCK_M):
        rows = start_m + tl.arange(0, BLOCK_M)
        in_q = (rows < seqlen_q)[:, None] & (dims < D)[None, :]
        q_offsets = (first_q + rows)[:, None] * D + dims[None, :]
        q = tl.load(Q + q_offsets, mask=in_q, other=0.0)  # [BLOCK_M, BLOCK_D]
        do = tl.load(dOut + q_offsets, mask=in_q, other=0.0)  # [BLOCK_M, BLOCK_D]
        lse = tl.load(Lse + first_q + rows, mask=rows < seqlen_q, other=float("inf"))  # [BLOCK_M]; exp(s − inf) = 0
        delta = tl.load(Delta + first_q + rows, mask=rows < seqlen_q, other=0.0)  # [BLOCK_M]

        p = tl.exp(tl.dot(q, k.T, input_precision="ieee") * scale - lse[:, None])  # [BLOCK_M, BLOCK_N]
        seen = (keys < seqlen_k)[None, :]
        if IS_CAUSAL:
            seen = seen & (keys[None, :] <= rows[:, None])
        p = tl.where(seen, p, 0.0)
        dp = tl.dot(do, v.T, input_precision="ieee")  # [BLOCK_M, BLOCK_N]
        ds = p * (dp - delta[:, None])  # [BLOCK_M, BLOCK_N]
        dv = tl.dot(p.to(do.dtype).T, do, dv, input_precision="ieee")  # [BLOCK_N, BLOCK_D]
        dk = tl.dot(ds.to(q.dtype).T, q, dk, input_precision="ieee")  # [BLOCK_N, BLOCK_D]

    tl.store(dK + k_offsets, (dk * scale).to(dK.dtype.element_ty), mask=in_k)
    tl.store(dV + k_offsets, dv.to(dV.dtype.element_ty), mask=in_k)


def compute_dkdv(dOut, Q, K, V, lse, Delta, is_causal, scale):
    """dK, dV (B, H, Sk, D) from contiguous tensors."""
    batch, heads, seqlen_q, D = Q.shape
    seqlen_k = K.shape[2]
    dK, dV = torch.empty_like(K), torch.empty_like(V)
    grid = (triton.cdiv(seqlen_k, BLOCK_N), batch * heads)
    dkdv_kernel[grid](
        dOut, Q, K, V, lse, Delta, dK, dV, seqlen_q, seqlen_k, scale,
        IS_CAUSAL=is_causal, D=D, BLOCK_D=max(16, triton.next_power_of_2(D)), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    return dK, dV
