"""Rung 6: the forward kernel on real inputs: any two lengths, causal or windowed, heads that share keys, rows that see no key.

Row i sees keys i + lowest … i + highest, and every mask here is those two integers. Tiles that no row sees are never visited; tiles that
every row sees are not masked. Q is (B, Hq, Sq, D), K and V are (B, Hkv, Sk, D), Hkv divides Hq; float16 or float32, D ≤ 128.
"""

import torch
import triton
import triton.language as tl

BLOCK_M = 32  # rows of Q in a tile
BLOCK_N = 32  # rows of K and V in a tile


def band(seqlen_q, seqlen_k, is_causal=False, window=(-1, -1), bottom_right=False):
    """(lowest, highest): row i sees keys i + lowest … i + highest. window: keys seen before and after the diagonal, −1: all."""
    diagonal = seqlen_k - seqlen_q if bottom_right else 0  # the key that row 0 meets
    left, right = window[0], 0 if is_causal else window[1]
    # A side without an edge lies so far away that no row feels it.
    return (-seqlen_q if left < 0 else diagonal - left), (seqlen_k if right < 0 else diagonal + right)


@triton.jit
def walk(first, last, seqlen_k, lowest, highest, BLOCK_N: tl.constexpr):
    """Which tiles of keys rows first … last visit: begin … end, and between full_begin and full_end none needs a mask."""
    lowest_key, past_key = max(0, first + lowest), min(seqlen_k, last + highest + 1)  # what any of the rows sees
    begin = lowest_key // BLOCK_N * BLOCK_N
    end = past_key if lowest_key < past_key else begin  # nothing to see, nothing to visit
    full_begin = (max(0, last + lowest) + BLOCK_N - 1) // BLOCK_N * BLOCK_N  # from here on the last row sees tiles whole
    full_end = max(0, min(seqlen_k, first + highest + 1)) // BLOCK_N * BLOCK_N  # up to here the first row does
    full_begin = min(full_begin, end)
    return begin, full_begin, max(full_begin, full_end), end


@triton.jit
def attend_tiles(
    q, m, l, acc, K, V, rows, begin, end, seqlen_k, lowest, highest, scale,
    MASKED: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Fold the tiles begin … end into (m, l, acc). Only MASKED tiles ask which pairs see each other."""
    dims = tl.arange(0, BLOCK_D)
    for start_n in range(begin, end, BLOCK_N):
        keys = start_n + tl.arange(0, BLOCK_N)
        tile = keys[:, None] * D + dims[None, :]
        k = tl.load(K + tile, mask=(keys < seqlen_k)[:, None] & (dims < D)[None, :], other=0.0)  # [BLOCK_N, BLOCK_D]
        v = tl.load(V + tile, mask=(keys < seqlen_k)[:, None] & (dims < D)[None, :], other=0.0)  # [BLOCK_N, BLOCK_D]
        scores = tl.dot(q, k.T, input_precision="ieee") * scale  # [BLOCK_M, BLOCK_N]
        if MASKED:
            seen = (keys < seqlen_k)[None, :]
            seen = seen & (keys[None, :] >= rows[:, None] + lowest)
            seen = seen & (keys[None, :] <= rows[:, None] + highest)
            scores = tl.where(seen, scores, -float("inf"))
        m_new = tl.maximum(m, tl.max(scores, axis=1))  # [BLOCK_M]
        pivot = tl.where(m_new == -float("inf"), 0.0, m_new)  # a row that has seen no key yet
        p = tl.exp(scores - pivot[:, None])  # [BLOCK_M, BLOCK_N]
        rescale = tl.exp(m - pivot)  # [BLOCK_M]
        l = l * rescale + tl.sum(p, axis=1)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")  # [BLOCK_M, BLOCK_D]
        m = m_new
    return m, l, acc


@triton.jit
def forward_kernel(
    Q, K, V, Out, Lse, seqlen_q, seqlen_k, lowest, highest, scale,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    start_m = tl.program_id(0) * BLOCK_M
    head = tl.program_id(1).to(tl.int64)  # counted over the batch: b · Hq + h
    key_head = head // GROUP  # b · Hkv + h // GROUP
    rows = start_m + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    K += key_head * seqlen_k * D
    V += key_head * seqlen_k * D
    in_q = (rows < seqlen_q)[:, None] & (dims < D)[None, :]
    tile = head * seqlen_q * D + rows[:, None] * D + dims[None, :]
    q = tl.load(Q + tile, mask=in_q, other=0.0)  # [BLOCK_M, BLOCK_D]
    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    last = min(start_m + BLOCK_M, seqlen_q) - 1
    begin, full_begin, full_end, end = walk(start_m, last, seqlen_k, lowest, highest, BLOCK_N)
    m, l, acc = attend_tiles(
        q, m, l, acc, K, V, rows, begin, full_begin, seqlen_k, lowest, highest, scale, True, D, BLOCK_D, BLOCK_N)  # fmt: skip
    m, l, acc = attend_tiles(
        q, m, l, acc, K, V, rows, full_begin, full_end, seqlen_k, lowest, highest, scale, False, D, BLOCK_D, BLOCK_N)  # fmt: skip
    m, l, acc = attend_tiles(
        q, m, l, acc, K, V, rows, full_end, end, seqlen_k, lowest, highest, scale, True, D, BLOCK_D, BLOCK_N)  # fmt: skip

    divisor = tl.where(l == 0.0, 1.0, l)  # a row that saw no key: 0 / 1, and −inf + log 1
    tl.store(Out + tile, (acc / divisor[:, None]).to(Out.dtype.element_ty), mask=in_q)
    tl.store(Lse + head * seqlen_q + rows, m + tl.log(divisor), mask=rows < seqlen_q)


def forward(Q, K, V, *, is_causal=False, scale=None, window=(-1, -1), bottom_right=False):
    """Out (B, Hq, Sq, D) in Q's dtype and lse (B, Hq, Sq), float32."""
    batch, heads, seqlen_q, D = Q.shape
    heads_kv, seqlen_k = K.shape[1:3]
    lowest, highest = band(seqlen_q, seqlen_k, is_causal, window, bottom_right)
    Q, K, V = Q.contiguous(), K.contiguous(), V.contiguous()
    Out = torch.empty_like(Q)
    lse = torch.empty((batch, heads, seqlen_q), dtype=torch.float32, device=Q.device)
    grid = (triton.cdiv(seqlen_q, BLOCK_M), batch * heads)
    forward_kernel[grid](
        Q, K, V, Out, lse, seqlen_q, seqlen_k, lowest, highest, D**-0.5 if scale is None else scale,
        GROUP=heads // heads_kv, D=D, BLOCK_D=max(16, triton.next_power_of_2(D)), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    return Out, lse
