"""Rung 4: the tiled forward pass as one Triton kernel. Every tile of queries is a program, and many run at once.

Tensors are (B, H, S, D), float16 or float32, D ≤ 128. Heads share nothing, so a head is only another index of the grid.
"""

import torch
import triton
import triton.language as tl

BLOCK_M = 32  # rows of Q in a tile
BLOCK_N = 32  # rows of K and V in a tile


@triton.jit
def forward_kernel(
    Q, K, V, Out, Lse, seqlen_q, seqlen_k, scale,
    IS_CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    start_m = tl.program_id(0) * BLOCK_M
    head = tl.program_id(1).to(tl.int64)
    rows = start_m + tl.arange(0, BLOCK_M)
    cols = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    Q += head * seqlen_q * D
    K += head * seqlen_k * D
    V += head * seqlen_k * D
    Out += head * seqlen_q * D
    Lse += head * seqlen_q

    in_q = (rows < seqlen_q)[:, None] & (dims < D)[None, :]
    q = tl.load(Q + rows[:, None] * D + dims[None, :], mask=in_q, other=0.0)  # [BLOCK_M, BLOCK_D]
    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    end = seqlen_k
    if IS_CAUSAL:
        end = tl.minimum(seqlen_k, start_m + BLOCK_M)  # no row of this tile sees further
    for start_n in range(0, end, BLOCK_N):
        keys = start_n + cols
        in_k = (keys < seqlen_k)[:, None] & (dims < D)[None, :]
        k = tl.load(K + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)  # [BLOCK_N, BLOCK_D]
        v = tl.load(V + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)  # [BLOCK_N, BLOCK_D]

        scores = tl.dot(q, k.T, input_precision="ieee") * scale  # [BLOCK_M, BLOCK_N]
        seen = (keys < seqlen_k)[None, :]
        if IS_CAUSAL:
            seen = seen & (keys[None, :] <= rows[:, None])
        scores = tl.where(seen, scores, -float("inf"))

        m_new = tl.maximum(m, tl.max(scores, axis=1))  # [BLOCK_M]
        p = tl.exp(scores - m_new[:, None])  # [BLOCK_M, BLOCK_N]
        rescale = tl.exp(m - m_new)  # [BLOCK_M]
        l = l * rescale + tl.sum(p, axis=1)
        acc = acc * rescale[:, None]
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision="ieee")  # [BLOCK_M, BLOCK_D]
        m = m_new

    out = acc / l[:, None]
    tl.store(Out + rows[:, None] * D + dims[None, :], out.to(Out.dtype.element_ty), mask=in_q)
    tl.store(Lse + rows, m + tl.log(l), mask=rows < seqlen_q)


def forward(Q, K, V, *, is_causal=False, scale=None):
    """Out (B, H, Sq, D) in Q's dtype and lse (B, H, Sq), float32."""
    batch, heads, seqlen_q, D = Q.shape
    seqlen_k = K.shape[2]
    Q, K, V = Q.contiguous(), K.contiguous(), V.contiguous()
    Out = torch.empty_like(Q)
    lse = torch.empty((batch, heads, seqlen_q), dtype=torch.float32, device=Q.device)
    grid = (triton.cdiv(seqlen_q, BLOCK_M), batch * heads)
    forward_kernel[grid](
        Q, K, V, Out, lse, seqlen_q, seqlen_k, D**-0.5 if scale is None else scale,
        IS_CAUSAL=is_causal, D=D, BLOCK_D=max(16, triton.next_power_of_2(D)), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    return Out, lse
