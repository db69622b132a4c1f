"""Decoding: a few new rows against a long cache of keys, which is split over programs and joined again by the lse merge of lesson 03.

One program owns a tile of rows, of one head of keys, and one split of the keys. Rows are packed: row r of a tile is new token r // GROUP of
query head r % GROUP, so a group of heads reads each key once. Where keys lie in pages, a table says which page holds which.
"""

import math

import torch
import triton
import triton.language as tl

from flashlab.decoding_checks import MOST_SPLITS
from flashlab.kernels import configs
from flashlab.kernels.launch import Launch, multiprocessors, planned
from flashlab.kernels.shaping import Place, as_jit, capped_scores, features_of, shape_scores
from flashlab.kernels.tile import LN_2, LOG2_E, online_softmax_step, view
from flashlab.kernels.walk import highest_key, lowest_key
from flashlab.layout import empty_out
from flashlab.spec import NO_EXTRAS, UNLIMITED

MOST_ROWS = 64  # of a tile
LEAST_TILES = 2  # of keys, of a split
SPLIT_FROM = 512  # keys, of a call of `attention`
NEARLY_BUSY = 0.9  # of the busiest choice of splits: fewer splits leave less to join


@triton.jit
def cache_rows(cache, table, batch, head, first, length, PAGE: tl.constexpr, KEYS: tl.constexpr):
    """Pointers to the keys of one head from `first` on, a multiple of KEYS: [KEYS]. Entries of the table past the length are never read."""
    j = first + tl.arange(0, KEYS)
    head = cache.pointer + tl.cast(head, tl.int64) * cache.strides[1]
    if table is None:
        return head + tl.cast(batch, tl.int64) * cache.strides[0] + j.to(tl.int64) * cache.strides[2]
    else:
        entries = table.pointer + batch * table.strides[0]
        if PAGE % KEYS == 0:  # all of them lie on one page
            page = tl.load(entries + first // PAGE * table.strides[1])
        else:
            page = tl.load(entries + j // PAGE * table.strides[1], mask=j < length, other=0)
        return head + page.to(tl.int64) * cache.strides[0] + (j % PAGE).to(tl.int64) * cache.strides[2]


@triton.jit
def load_keys(cache, rows, j, length, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, DTYPE: tl.constexpr):
    dims = tl.arange(0, BLOCK_D)[None, :]
    mask = (j < length)[:, None] if BLOCK_D == HEAD_DIM else (j < length)[:, None] & (dims < HEAD_DIM)
    x = tl.load(rows[:, None] + dims * cache.strides[3], mask=mask, other=0.0)  # [BLOCK_N, BLOCK_D]
    if x.dtype == tl.float8e4nv:
        x = x.to(tl.float16)  # exact, and an instruction on Hopper: straight to bfloat16 it takes many
    return x.to(DTYPE)


@triton.jit
def decode_kernel(
    Q, K, V, Out, Lse, Lengths, table, added, capacity, scales, features, scale, seqlen_q, heads_kv, row_tiles, splits,
    BOTTOM_RIGHT: tl.constexpr, GROUP: tl.constexpr, PAGE: tl.constexpr, HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
    MASK_MOD: tl.constexpr, BIAS_MOD: tl.constexpr, FAST_TANH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Out (splits, B, Hq, Sq, Dv) and Lse (splits, B, Hq, Sq): softmax over this program's split of the keys alone."""
    program, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    start_m = program % row_tiles * BLOCK_M
    head_kv, batch = program // row_tiles % heads_kv, program // row_tiles // heads_kv
    length = capacity if Lengths is None else tl.load(Lengths.pointer + batch) + added

    r = start_m + tl.arange(0, BLOCK_M)
    token, head = r // GROUP, head_kv * GROUP + r % GROUP
    in_rows = (token < seqlen_q)[:, None]
    i = token[:, None]
    head_64, token_64 = head.to(tl.int64), token.to(tl.int64)  # a tensor may have more than 2³¹ elements
    at = Place(batch, head[:, None], seqlen_q, length, 0, 0, length - seqlen_q if BOTTOM_RIGHT else 0, 0)

    dims, value_dims = tl.arange(0, BLOCK_D)[None, :], tl.arange(0, BLOCK_V)[None, :]
    q_rows = Q.pointer + tl.cast(batch, tl.int64) * Q.strides[0] + head_64 * Q.strides[1] + token_64 * Q.strides[2]
    q = tl.load(q_rows[:, None] + dims * Q.strides[3], mask=in_rows & (dims < HEAD_DIM), other=0.0)  # [BLOCK_M, BLOCK_D]
    if scales is not None:  # of an fp8 cache, one for each head
        scale *= tl.load(scales[0] + head_kv)

    begin, end = 0, length  # keys that any of these rows sees
    first, last = start_m // GROUP, tl.minimum((start_m + BLOCK_M - 1) // GROUP, seqlen_q - 1)
    if features.left is not None:
        begin = tl.maximum(0, first + lowest_key(at, features)) // BLOCK_N * BLOCK_N
    if features.right is not None:
        end = tl.maximum(0, tl.minimum(length, last + highest_key(at, features) + 1))
    share = tl.cdiv(tl.cdiv(tl.maximum(0, end - begin), splits), BLOCK_N) * BLOCK_N
    begin += split * share
    end = tl.minimum(end, begin + share)

    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    if features.sinks is not None:  # a key whose value is 0, in the first split alone
        sink = tl.load(features.sinks + head).to(tl.float32) * LOG2_E
        m = tl.where(split == 0, sink, m)
        l = tl.where(m == -float("inf"), 0.0, 1.0)
    acc = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    for start_n in tl.range(begin, end, BLOCK_N):
        j = start_n + tl.arange(0, BLOCK_N)
        k = load_keys(K, cache_rows(K, table, batch, head_kv, start_n, length, PAGE, BLOCK_N), j, length, HEAD_DIM, BLOCK_D, q.dtype)
        v = load_keys(V, cache_rows(V, table, batch, head_kv, start_n, length, PAGE, BLOCK_N), j, length, VALUE_DIM, BLOCK_V, q.dtype)
        scores = capped_scores(tl.dot(q, k.T, input_precision=PRECISION), scale, features, FAST_TANH)  # [BLOCK_M, BLOCK_N]
        scores = shape_scores(scores, i, j[None, :], at, features, True, MASK_MOD, BIAS_MOD)
        p, m, l, acc = online_softmax_step(scores, m, l, acc)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)  # [BLOCK_M, BLOCK_V]

    out = acc / tl.where(l == 0.0, 1.0, l)[:, None]
    if scales is not None:
        out *= tl.load(scales[1] + head_kv)
    out_rows = Out.pointer + tl.cast(split, tl.int64) * Out.strides[0] + tl.cast(batch, tl.int64) * Out.strides[1]
    out_rows += head_64 * Out.strides[2] + token_64 * Out.strides[3]
    tl.store(out_rows[:, None] + value_dims * Out.strides[4], out.to(Out.pointer.dtype.element_ty), mask=in_rows & (value_dims < VALUE_DIM))
    lse_rows = Lse.pointer + tl.cast(split, tl.int64) * Lse.strides[0] + tl.cast(batch, tl.int64) * Lse.strides[1]
    lse_rows += head_64 * Lse.strides[2] + token_64 * Lse.strides[3]
    tl.store(lse_rows, (m + tl.log2(l)) * LN_2, mask=token < seqlen_q)


@triton.jit
def combine_kernel(
    Parts, PartLse, Out, Lse, rows, splits, heads, seqlen_q, VALUE_DIM: tl.constexpr, BLOCK_V: tl.constexpr, SPLITS: tl.constexpr
):  # fmt: skip
    """One program joins the splits of one row: each weighs exp(lse of the split − lse of all)."""
    row = tl.program_id(0).to(tl.int64)
    split, dims = tl.arange(0, SPLITS), tl.arange(0, BLOCK_V)
    lse = tl.load(PartLse.pointer + split * rows + row, mask=split < splits, other=-float("inf"))  # [SPLITS]
    m = tl.max(lse, axis=0)
    pivot = tl.where(m == -float("inf"), 0.0, m)  # no split has seen a key
    weights = tl.exp2((lse - pivot) * LOG2_E)
    l = tl.sum(weights, axis=0)
    mask = (split < splits)[:, None] & (dims < VALUE_DIM)[None, :]
    parts = tl.load(Parts.pointer + (split[:, None] * rows + row) * VALUE_DIM + dims[None, :], mask=mask, other=0.0)  # [SPLITS, BLOCK_V]
    out = tl.sum(parts * weights[:, None], axis=0) / tl.where(l == 0.0, 1.0, l)
    batch, head, token = row // (heads * seqlen_q), row // seqlen_q % heads, row % seqlen_q
    out_row = Out.pointer + batch * Out.strides[0] + head * Out.strides[1] + token * Out.strides[2]
    tl.store(out_row + dims * Out.strides[3], out.to(Out.pointer.dtype.element_ty), mask=dims < VALUE_DIM)
    tl.store(Lse.pointer + row, pivot + tl.log2(l) * LN_2)


@triton.jit
def rotated(x, stride, dims, position, rotary, INTERLEAVED: tl.constexpr, HEAD_DIM: tl.constexpr):
    """A row whose first dims are turned, two and two, by the angles of its position (Su et al. 2021, eq. 34). None: as it is."""
    row = tl.load(x + dims * stride, mask=dims < HEAD_DIM, other=0.0)
    if rotary is None:
        return row
    else:
        cos, sin, half = rotary[0], rotary[1], rotary[2]
        if INTERLEAVED:  # pairs (0, 1), (2, 3), …
            partner, angle, sign = dims ^ 1, dims // 2, tl.where(dims % 2 == 0, -1.0, 1.0)
        else:  # pairs (0, half), (1, half + 1), …
            partner, angle, sign = tl.where(dims < half, dims + half, dims - half), dims % half, tl.where(dims < half, -1.0, 1.0)
        turned = dims < 2 * half
        other = tl.load(x + partner * stride, mask=turned, other=0.0).to(tl.float32)
        c = tl.load(cos.pointer + position * cos.strides[0] + angle * cos.strides[1], mask=turned, other=1.0).to(tl.float32)
        s = tl.load(sin.pointer + position * sin.strides[0] + angle * sin.strides[1], mask=turned, other=0.0).to(tl.float32)
        return row.to(tl.float32) * c + sign * other * s


@triton.jit
def append_kernel(
    Key, Value, K, V, lengths, table, scales, rotary, heads_kv, added,
    INTERLEAVED: tl.constexpr, PAGE: tl.constexpr, HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """One program writes one new key and value of one head into the cache."""
    program = tl.program_id(0)
    new, head, batch = program % added, program // added % heads_kv, program // added // heads_kv
    length = tl.load(lengths + batch)
    dims, value_dims = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
    key = Key.pointer + tl.cast(batch, tl.int64) * Key.strides[0] + head * Key.strides[1] + new * Key.strides[2]
    value = Value.pointer + tl.cast(batch, tl.int64) * Value.strides[0] + head * Value.strides[1] + new * Value.strides[2]
    k = rotated(key, Key.strides[3], dims, length + new, rotary, INTERLEAVED, HEAD_DIM)
    v = tl.load(value + value_dims * Value.strides[3], mask=value_dims < VALUE_DIM, other=0.0)
    if scales is not None:
        k, v = k.to(tl.float32) / tl.load(scales[0] + head), v.to(tl.float32) / tl.load(scales[1] + head)
    k_row = cache_rows(K, table, batch, head, length + new, length + added, PAGE, 1)[:, None] + dims[None, :] * K.strides[3]
    v_row = cache_rows(V, table, batch, head, length + new, length + added, PAGE, 1)[:, None] + value_dims[None, :] * V.strides[3]
    tl.store(k_row, k[None, :].to(K.pointer.dtype.element_ty), mask=(dims < HEAD_DIM)[None, :])
    tl.store(v_row, v[None, :].to(V.pointer.dtype.element_ty), mask=(value_dims < VALUE_DIM)[None, :])


@triton.jit
def rotate_kernel(
    X, Out, lengths, rotary, heads, seqlen, INTERLEAVED: tl.constexpr, EACH: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """One program turns one row of a query. EACH: row i lies at position length + i; else all at the length."""
    program = tl.program_id(0)
    i, head, batch = program % seqlen, program // seqlen % heads, program // seqlen // heads
    dims = tl.arange(0, BLOCK_D)
    position = tl.load(lengths + batch) + (i if EACH else 0)
    x = X.pointer + tl.cast(batch, tl.int64) * X.strides[0] + head * X.strides[1] + i * X.strides[2]
    out = Out.pointer + tl.cast(batch, tl.int64) * Out.strides[0] + head * Out.strides[1] + i * Out.strides[2]
    row = rotated(x, X.strides[3], dims, position, rotary, INTERLEAVED, HEAD_DIM)
    tl.store(out + dims * Out.strides[3], row.to(Out.pointer.dtype.element_ty), mask=dims < HEAD_DIM)


def append(key, value, k_cache, v_cache, lengths, block_table=None, scales=None, cos=None, sin=None, interleaved=False):
    """Write key (B, Hkv, n, D) and value (B, Hkv, n, Dv) into the caches, behind `lengths` keys of each sequence."""
    batch, heads_kv, added, head_dim = key.shape
    if key.numel():
        value_dim = value.shape[3]
        constants = dict(
            INTERLEAVED=interleaved, PAGE=page_size(k_cache, block_table), HEAD_DIM=head_dim, VALUE_DIM=value_dim,
            BLOCK_D=configs.block_d(head_dim), BLOCK_V=configs.block_d(value_dim), num_warps=1,
        )  # fmt: skip
        numbers = lengths, view(block_table), scales, _rotary(cos, sin), heads_kv, added
        Launch(append_kernel, batch * heads_kv * added, numbers, constants)(key, value, k_cache, v_cache)


def rotate(query, lengths, cos, sin, interleaved, each):
    """query (B, Hq, Sq, D) at the positions behind `lengths`; each: row i lies i further on."""
    batch, heads, seqlen, head_dim = query.shape
    out = torch.empty_like(query)
    if query.numel():
        constants = dict(INTERLEAVED=interleaved, EACH=each, HEAD_DIM=head_dim, BLOCK_D=configs.block_d(head_dim), num_warps=1)
        numbers = lengths, _rotary(cos, sin), heads, seqlen
        Launch(rotate_kernel, batch * heads * seqlen, numbers, constants)(query, out)
    return out


def _rotary(cos, sin):
    return None if cos is None else (view(cos), view(sin), cos.shape[1])


def suits(query, key, spec, extras):
    """Whether a call of `attention` has so few rows that it is a decoding: one tile of them, and keys to be split."""
    rows = query.shape[2] * (query.shape[1] // key.shape[1])
    unheard = (extras.seed, extras.cu_seqlens_q, extras.row_blocks, extras.query_labels)
    few = rows <= MOST_ROWS and key.shape[2] >= SPLIT_FROM and configs.target_of(query)[0] != 7  # there turing.py serves attention alone
    return few and all(x is None for x in unheard)


def decode(query, k_cache, v_cache, spec, extras=NO_EXTRAS, lengths=None, added=0, block_table=None, scales=None, splits=None):
    """Attention of query (B, Hq, Sq, D) over caches (B, Hkv, capacity, D) and (B, Hkv, capacity, Dv).

    lengths: (B,), int32, or None: the whole capacity; `added` more keys lie in the cache than lengths say.
    block_table: (B, pages of a sequence), int32: caches are then (pages, Hkv, page size, D).
    scales: (k, v) of (Hkv,) float32, for an fp8 cache. splits: of the keys; None: chosen for this GPU.

    Returns out (B, Hq, Sq, Dv) in query's dtype and lse (B, Hq, Sq), float32, natural log.
    """
    out = empty_out(query, v_cache)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    if not out.numel():
        return out, lse
    tensors = query, k_cache, v_cache, lengths, block_table
    if scales is None:
        splits, to_parts, to_out = planned(plan, tensors, spec, extras, None, (added, splits, None))
    else:  # tensors of which a plan holds fast
        splits, to_parts, to_out = plan(*tensors, spec, extras, None, added, splits, scales)
    parts, part_lse = out[None], lse[None]
    if splits > 1:
        parts = query.new_empty(splits, *out.shape, dtype=torch.float32)
        part_lse = query.new_empty(splits, *lse.shape, dtype=torch.float32)
    to_parts(query, k_cache, v_cache, parts, part_lse, lengths, block_table)
    if splits > 1:
        to_out(parts, part_lse, out, lse)
    return out, lse


def plan(query, k_cache, v_cache, lengths, block_table, spec, extras, _, added, splits, scales):
    """(how many splits, the Launch over them, that which joins them); see `launch.planned`."""
    batch, heads, seqlen_q, head_dim = query.shape
    heads_kv, page, value_dim = v_cache.shape[1:]
    group, BLOCK_M = heads // heads_kv, rows_of_a_tile(query, k_cache)
    capacity = page if block_table is None else page * block_table.shape[1]
    row_tiles = triton.cdiv(group * seqlen_q, BLOCK_M)
    programs = batch * heads_kv * row_tiles
    config = configs.choose_decoding(query, value_dim, block_table is not None, scales is not None)
    splits = splits or how_many_splits(programs, keys_in_sight(spec, seqlen_q, capacity), query, config)
    BLOCK_V = configs.block_d(value_dim)
    numbers = added, capacity, scales, features_of(spec, extras), spec.scale, seqlen_q, heads_kv, row_tiles, splits
    constants = dict(
        BOTTOM_RIGHT=spec.bottom_right, GROUP=group, PAGE=page_size(k_cache, block_table), HEAD_DIM=head_dim, VALUE_DIM=value_dim,
        MASK_MOD=as_jit(spec.mask_mod), BIAS_MOD=as_jit(spec.bias_mod), FAST_TANH=configs.has_fast_tanh(query),
        BLOCK_M=BLOCK_M, BLOCK_N=config.BLOCK_N, BLOCK_D=configs.block_d(head_dim), BLOCK_V=BLOCK_V,
        PRECISION=configs.dot_precision(), num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    to_parts = Launch(decode_kernel, programs * splits, numbers, constants)
    rows = batch * heads * seqlen_q
    constants = dict(VALUE_DIM=value_dim, BLOCK_V=BLOCK_V, SPLITS=triton.next_power_of_2(splits), num_warps=2)
    return splits, to_parts, Launch(combine_kernel, rows, (rows, splits, heads, seqlen_q), constants)


def page_size(k_cache, block_table):
    """What kernels are compiled for; None for a cache without pages, whose capacity is another in every call that generates text."""
    return None if block_table is None else k_cache.shape[2]


def rows_of_a_tile(query, k_cache):
    return min(MOST_ROWS, max(16, triton.next_power_of_2(query.shape[1] // k_cache.shape[1] * query.shape[2])))


def keys_in_sight(spec, seqlen_q, capacity):
    """The most keys that the rows of one sequence see together: a window sees few of a long cache."""
    left, right = spec.edges
    return capacity if UNLIMITED in (left, right) else min(capacity, left + right + seqlen_q)


def how_many_splits(programs, keys, query, config):
    """The fewest splits of this many keys with which the programs of all tiles fill the GPU nearly as well as with any other number.

    Chosen by the capacity, not by the lengths: nothing waits for the GPU, and a CUDA graph stays right as lengths change.
    """
    slots = config.neighbours * multiprocessors(query.device.index)
    most = max(1, min(MOST_SPLITS, slots, keys // (LEAST_TILES * config.BLOCK_N)))

    def busy(splits):
        waves = programs * splits / slots
        return waves / math.ceil(waves)

    best = max(map(busy, range(1, most + 1)))
    return next(splits for splits in range(1, most + 1) if busy(splits) >= NEARLY_BUSY * best)
