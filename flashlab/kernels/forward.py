"""Forward pass: one program owns BLOCK_M rows of one head and walks over the keys (Dao 2023, Algorithm 1)."""

import functools

import triton
import triton.language as tl

from flashlab.kernels import configs
from flashlab.kernels.launch import Launch, Problem, planned
from flashlab.kernels.shaping import capped_scores, dropped, place_of, random_keys, random_rows, shape_scores
from flashlab.kernels.tile import LN_2, LOG2_E, head_of, load_tile, online_softmax_step, store_row, store_tile, walked_head
from flashlab.kernels.walk import OWN_ROWS, exists, list_of, owned_tile, position, walk_of_rows
from flashlab.layout import empty_results
from flashlab.spec import NO_EXTRAS, Extras, Spec


@triton.jit
def attend_tiles(
    q, m, l, acc, K, V, start_m, begin, end, blocks, at, features, random, scale, MASKED: tl.constexpr,
    HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, MASK_MOD: tl.constexpr, BIAS_MOD: tl.constexpr, FAST_TANH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Fold the keys begin … end of the walk into (m, l, acc). Only MASKED tiles ask which pairs see each other."""
    for place in tl.range(begin, end, BLOCK_N):
        start_n = position(blocks, place, BLOCK_N)
        i = start_m + tl.arange(0, BLOCK_M)[:, None]
        j = start_n + tl.arange(0, BLOCK_N)[None, :]
        k = load_tile(K, start_n, at.seqlen_k, HEAD_DIM, BLOCK_N, BLOCK_D, MASKED, DESCRIBED)  # [BLOCK_N, BLOCK_D]
        # v is loaded beside k, so that both lie in shared memory at once. Where v took the place of k, ptxas 12.8 has left the address of a
        # product undefined (tests/compiling.py looks for that).
        v = load_tile(V, start_n, at.seqlen_k, VALUE_DIM, BLOCK_N, BLOCK_V, MASKED, DESCRIBED)  # [BLOCK_N, BLOCK_V]
        scores = capped_scores(tl.dot(q, k.T, input_precision=PRECISION), scale, features, FAST_TANH)  # [BLOCK_M, BLOCK_N]
        scores = shape_scores(scores, i, j, at, features, MASKED, MASK_MOD, BIAS_MOD)
        p, m, l, acc = online_softmax_step(scores, m, l, acc)
        p = dropped(p, random, random_keys(j, at, features), features)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)  # [BLOCK_M, BLOCK_V]
    return m, l, acc


@triton.jit
def forward_kernel(
    Q, K, V, Out, Lse, shape, packing, blocks, features, scale, keep_scale,
    BOTTOM_RIGHT: tl.constexpr, SEQUENCES: tl.constexpr, GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, MASK_MOD: tl.constexpr, BIAS_MOD: tl.constexpr, FAST_TANH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    """One program owns BLOCK_M query rows of one head."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)  # the last rows first: under a causal mask they see the most keys
    batch, head, start_m = owned_tile(program, packing.starts_q, packing.sequences, shape.heads, shape.seqlen_q, BLOCK_M, SEQUENCES)
    at = place_of(batch, head, shape, packing, features, BOTTOM_RIGHT)
    if packing.starts_q is not None:  # noqa: SIM102 (the first is decided by the compiler)
        if start_m >= at.seqlen_q:
            return

    K = walked_head(K, batch, head // GROUP, at.first_k, DESCRIBED)
    V = walked_head(V, batch, head // GROUP, at.first_k, DESCRIBED)
    q = load_tile(head_of(Q, batch, head, at.first_q), start_m, at.seqlen_q, HEAD_DIM, BLOCK_M, BLOCK_D, True)  # [BLOCK_M, BLOCK_D]
    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    if features.sinks is not None:  # a key whose value is 0 has been seen already
        m = tl.zeros([BLOCK_M], tl.float32) + tl.load(features.sinks + head).to(tl.float32) * LOG2_E
        l = tl.where(m == -float("inf"), 0.0, 1.0)
    acc = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)

    random = random_rows(start_m + tl.arange(0, BLOCK_M)[:, None], at, features)
    blocks = None if blocks is None else list_of(blocks, start_m, at, OWN_ROWS)
    bounds = walk_of_rows(blocks, start_m, at, features, MASK_MOD, BLOCK_M, BLOCK_N)
    for stretch in tl.static_range(3):
        if exists(stretch, features.left is not None, MASK_MOD):
            m, l, acc = attend_tiles(
                q, m, l, acc, K, V, start_m, bounds[stretch], bounds[stretch + 1], blocks, at, features, random, scale, stretch != 1,
                HEAD_DIM, VALUE_DIM, MASK_MOD, BIAS_MOD, FAST_TANH, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_V, PRECISION, DESCRIBED,
            )  # fmt: skip

    out = acc * (keep_scale / tl.where(l == 0.0, 1.0, l))[:, None]  # a row that saw no key: 0, not 0/0
    store_tile(head_of(Out, batch, head, at.first_q), start_m, at.seqlen_q, out, VALUE_DIM, BLOCK_M, BLOCK_V)
    lse = (m + tl.log2(l)) * LN_2  # natural log; −inf where no key was seen
    store_row(head_of(Lse, batch, head, at.first_q), start_m, at.seqlen_q, lse, BLOCK_M)


def forward(query, key, value, spec: Spec, extras: Extras = NO_EXTRAS, tiles: dict | None = None):
    """Attention of query (B, Hq, Sq, D) over key (B, Hkv, Sk, D) and value (B, Hkv, Sk, Dv), any strides.

    tiles: a Config for "forward", instead of the one that `configs` chooses.
    Returns out (B, Hq, Sq, Dv) in query's dtype and lse (B, Hq, Sq), float32, natural log.
    """
    return forward_like(query, key, value, spec, extras, tiles)(query, key, value)


def forward_like(query, key, value, spec, extras=NO_EXTRAS, tiles=None):
    """The forward pass of any tensors that lie as these do: (query, key, value) → (out, lse)."""
    to_out = planned(plan, (query, key, value), spec, extras, tiles)
    return functools.partial(run, to_out, packed=extras.cu_seqlens_q is not None)


def run(to_out, query, key, value, packed):
    """(out, lse) by the Launch of a `plan`."""
    out, lse = empty_results(query, value, packed)
    to_out(query, key, value, out, lse)
    return out, lse


def plan(query, key, value, spec, extras, tiles):
    """The Launch of a forward pass; see `launch.planned`."""
    described = configs.can_describe("forward", (key, value), spec, extras)
    config = (tiles or {}).get("forward") or configs.choose("forward", query, value, spec, extras, described)
    p = Problem.of(query, key, value, spec, extras)
    numbers = (p.shape, p.packing, p.row_blocks, p.features, spec.scale, 1 / (1 - spec.dropout_p))
    constants = p.constants | config.launch_arguments(query, value) | dict(DESCRIBED=described)
    tiles_of_keys = {1: config.BLOCK_N, 2: config.BLOCK_N} if described else None
    return Launch(forward_kernel, p.row_tiles(config) * p.shape.heads, numbers, constants, p.view, tiles_of_keys)
