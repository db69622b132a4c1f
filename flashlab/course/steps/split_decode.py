"""Decoding in Triton: one new row against a long cache. Keys are split over programs, and the parts of a row merged as in lesson 03.

From rung 4 it changes who works: there a program owned rows and walked over all keys; here it owns a stretch of the keys, for all
rows. That buys parallel work where there are few rows. Tensors are (heads, …): Q (Hkv, G, D) has the G rows that share a head of keys.
"""

import torch
import triton
import triton.language as tl

BLOCK_M = 16  # rows of a tile: the fewest that tl.dot takes
BLOCK_N = 32  # keys of a tile


@triton.jit
def rows_in_pages(table, keys, end, PAGE: tl.constexpr):
    """In which row of the pool each key lies: its page, which the table knows, and its place on that page. [BLOCK_N]"""
    page = tl.load(table + keys // PAGE, mask=keys < end, other=0)
    return page * PAGE + keys % PAGE


@triton.jit
def split_kernel(
    Q, K, V, Parts, Lse, table, rows, pool, seqlen_k, share, scale,
    PAGE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Program (s, head): attention of all rows over keys s·share … (s + 1)·share − 1, as if there were no others."""
    split, head = tl.program_id(0), tl.program_id(1)
    r, dims = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    in_rows = (r < rows)[:, None] & (dims < D)[None, :]
    q = tl.load(Q + head * rows * D + r[:, None] * D + dims[None, :], mask=in_rows, other=0.0)  # [BLOCK_M, BLOCK_D]
    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    begin = split * share
    end = tl.minimum(begin + share, seqlen_k)
    for start_n in range(begin, end, BLOCK_N):
        keys = start_n + tl.arange(0, BLOCK_N)
        at = keys  # where they lie
        if PAGE > 0:
            at = rows_in_pages(table, keys, end, PAGE)
        at = head * pool * D + at[:, None] * D + dims[None, :]
        in_k = (keys < end)[:, None] & (dims < D)[None, :]
        k = tl.load(K + at, mask=in_k, other=0.0)  # [BLOCK_N, BLOCK_D]
        v = tl.load(V + at, mask=in_k, other=0.0)  # [BLOCK_N, BLOCK_D]
        scores = tl.dot(q, k.T, input_precision="ieee") * scale  # [BLOCK_M, BLOCK_N]
        scores = tl.where((keys < end)[None, :], scores, -float("inf"))
        m_new = tl.maximum(m, tl.max(scores, axis=1))  # [BLOCK_M]
        p = tl.exp(scores - m_new[:, None])  # [BLOCK_M, BLOCK_N]
        rescale = tl.exp(m - m_new)
        l = l * rescale + tl.sum(p, axis=1)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")  # [BLOCK_M, BLOCK_D]
        m = m_new

    part = (split * tl.num_programs(1) + head) * rows  # the first row of this part
    out = acc / tl.where(l == 0.0, 1.0, l)[:, None]  # a split without a key: 0, and lse −inf
    tl.store(Parts + (part + r)[:, None] * D + dims[None, :], out, mask=in_rows)
    tl.store(Lse + part + r, m + tl.log(l), mask=r < rows)


@triton.jit
def combine_kernel(Parts, Lse, Out, rows, splits, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr):
    """Program r: the parts of row r, each weighed by its share of the denominator. rows: of all heads together."""
    row = tl.program_id(0)
    s, dims = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    lse = tl.load(Lse + s * rows + row, mask=s < splits, other=-float("inf"))  # [BLOCK_S]
    weights = tl.exp(lse - tl.max(lse, axis=0))  # l of each part, times one factor that all share
    in_parts = (s < splits)[:, None] & (dims < D)[None, :]
    parts = tl.load(Parts + (s * rows + row)[:, None] * D + dims[None, :], mask=in_parts, other=0.0)  # [BLOCK_S, BLOCK_D]
    out = tl.sum(parts * weights[:, None], axis=0) / tl.sum(weights, axis=0)
    tl.store(Out + row * D + dims, out.to(Out.dtype.element_ty), mask=dims < D)


def decode(Q, K, V, splits, *, seqlen_k=None, table=None, page=0, scale=None):
    """Out (Hkv, G, D) of Q (Hkv, G, D), up to 16 rows that share a head, over K and V (Hkv, rows of the pool, D).

    table: the page of each `page` keys in turn, int32; None: key j lies in row j of the pool. seqlen_k: keys, at least one.
    """
    heads, rows, D = Q.shape
    pool = K.shape[1]
    seqlen_k = pool if seqlen_k is None else seqlen_k
    parts = torch.empty((splits, heads, rows, D), dtype=torch.float32, device=Q.device)
    lse = torch.empty((splits, heads, rows), dtype=torch.float32, device=Q.device)
    Out, BLOCK_D = torch.empty_like(Q), max(16, triton.next_power_of_2(D))
    split_kernel[(splits, heads)](
        Q, K, V, parts, lse, table, rows, pool, seqlen_k, triton.cdiv(seqlen_k, splits), D**-0.5 if scale is None else scale,
        PAGE=page, D=D, BLOCK_D=BLOCK_D, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
    )  # fmt: skip
    combine_kernel[(heads * rows,)](parts, lse, Out, heads * rows, splits, D=D, BLOCK_D=BLOCK_D, BLOCK_S=triton.next_power_of_2(splits))
    return Out
