"""Rung 7: lesson 07's forward pass made fast, one change at a time. Every change is a switch, so that each can be measured by itself.

Tensors are (B, H, S, D), float16, bfloat16 or float32, D ≤ 128.
"""

from dataclasses import asdict, dataclass, replace

import torch
import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True)
class Choices:
    """How the kernel is launched, and which changes are on. As it stands: lesson 07."""

    BLOCK_M: int = 32  # rows of Q in a tile
    BLOCK_N: int = 32  # rows of K and V in a tile
    num_warps: int = 4  # groups of 32 threads that share a tile
    num_stages: int = 1  # tiles of K and V that are under way at a time
    BASE_2: bool = False
    TWO_WALKS: bool = False
    LAST_FIRST: bool = False
    DESCRIPTORS: bool = False


CHANGES = {
    "larger tiles": dict(BLOCK_M=64, BLOCK_N=64),
    "loads ahead of time": dict(num_stages=3),
    "powers of two": dict(BASE_2=True),
    "two walks": dict(TWO_WALKS=True),
    "last rows first": dict(LAST_FIRST=True),
    "descriptors": dict(DESCRIPTORS=True),
}


def versions():
    """Name → Choices: each adds one change to the one before."""
    found = {"lesson 07": Choices()}
    for name, change in CHANGES.items():
        found[name] = replace(list(found.values())[-1], **change)
    return found


def all_but_one():
    """Name of a change → Choices with every other change."""
    names = [name for name in CHANGES if name != "descriptors"]
    return {
        left_out: replace(Choices(), **{k: v for name in names if name != left_out for k, v in CHANGES[name].items()}) for left_out in names
    }


FAST = versions()["last rows first"]


@triton.jit
def load_tile(
    X, start, seqlen, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr, DESCRIPTORS: tl.constexpr
):
    """Rows start … of X as a tile [BLOCK, BLOCK_D]. Only a MASKED one may pass the end."""
    if DESCRIPTORS:  # one instruction a tile, which knows where X ends
        return X.load([start, 0])
    else:
        rows, dims = start + tl.arange(0, BLOCK), tl.arange(0, BLOCK_D)
        inside = (dims < D)[None, :] & ((rows < seqlen)[:, None] if MASKED else True)
        return tl.load(X + rows[:, None] * D + dims[None, :], mask=inside, other=0.0)


@triton.jit
def power(x, BASE_2: tl.constexpr):
    return tl.exp2(x) if BASE_2 else tl.exp(x)


@triton.jit
def attend_tiles(
    q, m, l, acc, K, V, start_m, begin, end, seqlen_k, factor, MASKED: tl.constexpr, IS_CAUSAL: tl.constexpr,
    BASE_2: tl.constexpr, DESCRIPTORS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Fold the keys begin … end into (m, l, acc)."""
    for start_n in tl.range(begin, end, BLOCK_N):
        k = load_tile(K, start_n, seqlen_k, D, BLOCK_N, BLOCK_D, MASKED, DESCRIPTORS)  # [BLOCK_N, BLOCK_D]
        v = load_tile(V, start_n, seqlen_k, D, BLOCK_N, BLOCK_D, MASKED, DESCRIPTORS)  # [BLOCK_N, BLOCK_D]
        scores = tl.dot(q, k.T, input_precision="ieee") * factor  # [BLOCK_M, BLOCK_N]
        if MASKED:
            keys, rows = start_n + tl.arange(0, BLOCK_N)[None, :], start_m + tl.arange(0, BLOCK_M)[:, None]
            seen = (keys < seqlen_k) & (keys <= rows) if IS_CAUSAL else keys < seqlen_k
            scores = tl.where(seen, scores, -float("inf"))
        m_new = tl.maximum(m, tl.max(scores, axis=1))  # [BLOCK_M]
        p = power(scores - m_new[:, None], BASE_2)  # [BLOCK_M, BLOCK_N]
        rescale = power(m - m_new, BASE_2)  # [BLOCK_M]
        l = l * rescale + tl.sum(p, axis=1)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")  # [BLOCK_M, BLOCK_D]
        m = m_new
    return m, l, acc


@triton.jit
def forward_kernel(
    Q, K, V, Out, Lse, seqlen_q, seqlen_k, scale, IS_CAUSAL: tl.constexpr,
    BASE_2: tl.constexpr, TWO_WALKS: tl.constexpr, LAST_FIRST: tl.constexpr, DESCRIPTORS: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    if LAST_FIRST:  # under a causal mask the last rows see the most keys
        tile = tl.num_programs(0) - 1 - tile
    start_m, head = tile * BLOCK_M, tl.program_id(1).to(tl.int64)
    Q, K, V, Out = Q + head * seqlen_q * D, K + head * seqlen_k * D, V + head * seqlen_k * D, Out + head * seqlen_q * D
    q = load_tile(Q, start_m, seqlen_q, D, BLOCK_M, BLOCK_D, True, False)  # [BLOCK_M, BLOCK_D]
    if DESCRIPTORS:
        K = tl.make_tensor_descriptor(K, shape=[seqlen_k, D], strides=[D, 1], block_shape=[BLOCK_N, BLOCK_D])
        V = tl.make_tensor_descriptor(V, shape=[seqlen_k, D], strides=[D, 1], block_shape=[BLOCK_N, BLOCK_D])
    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    factor = scale * LOG2_E if BASE_2 else scale  # 2^(x · log₂ e) = e^x
    end = tl.minimum(seqlen_k, start_m + BLOCK_M) if IS_CAUSAL else seqlen_k
    full_end = 0
    if TWO_WALKS:  # tiles before the diagonal, and before the ragged end, hide nothing
        full_end = (tl.minimum(start_m, seqlen_k) if IS_CAUSAL else seqlen_k) // BLOCK_N * BLOCK_N
        m, l, acc = attend_tiles(
            q, m, l, acc, K, V, start_m, 0, full_end, seqlen_k, factor, False, IS_CAUSAL, BASE_2, DESCRIPTORS, D, BLOCK_D, BLOCK_M, BLOCK_N
        )
    m, l, acc = attend_tiles(
        q, m, l, acc, K, V, start_m, full_end, end, seqlen_k, factor, True, IS_CAUSAL, BASE_2, DESCRIPTORS, D, BLOCK_D, BLOCK_M, BLOCK_N
    )

    rows, dims = start_m + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    inside = (rows < seqlen_q)[:, None] & (dims < D)[None, :]
    tl.store(Out + rows[:, None] * D + dims[None, :], (acc / l[:, None]).to(Out.dtype.element_ty), mask=inside)
    lse = (m + tl.log2(l)) / LOG2_E if BASE_2 else m + tl.log(l)
    tl.store(Lse + head * seqlen_q + rows, lse, mask=rows < seqlen_q)


def forward(Q, K, V, *, is_causal=False, scale=None, choices=FAST):
    """Out (B, H, Sq, D) in Q's dtype and lse (B, H, Sq), float32."""
    batch, heads, seqlen_q, D = Q.shape
    Q, K, V = Q.contiguous(), K.contiguous(), V.contiguous()
    Out = torch.empty_like(Q)
    lse = torch.empty((batch, heads, seqlen_q), dtype=torch.float32, device=Q.device)
    grid = (triton.cdiv(seqlen_q, choices.BLOCK_M), batch * heads)
    if choices.DESCRIPTORS:
        triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=Q.device))
    forward_kernel[grid](
        Q, K, V, Out, lse, seqlen_q, K.shape[2], D**-0.5 if scale is None else scale,
        IS_CAUSAL=is_causal, D=D, BLOCK_D=max(16, triton.next_power_of_2(D)), **asdict(choices),
    )  # fmt: skip
    return Out, lse
