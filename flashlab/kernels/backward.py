"""Backward pass: delta, then dK and dV, then dQ (Dao 2023, Algorithm 2).

Two kernels instead of one: each output row has one owner, so nothing is added atomically and every run gives the same bits.
The price is that scores are computed twice: seven matrix products a tile where a fused kernel needs five.

Neither of the two needs the other. Where the GPU can (OVERLAP), dq's programs begin as soon as all of dkdv's have begun, and no
multiprocessor is idle while the longest walks end.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from flashlab.kernels import configs
from flashlab.kernels.launch import Launch, Problem, planned
from flashlab.kernels.shaping import capped_scores, dropped, place_of, random_keys, random_rows, shape_scores, through_softcap
from flashlab.kernels.tile import head_of, load_lse, load_row, load_tile, store_row, store_tile, walked_head
from flashlab.kernels.walk import OWN_KEYS, OWN_ROWS, exists, list_of, owned_tile, position, walk_of_keys, walk_of_rows
from flashlab.layout import empty_gradients
from flashlab.spec import NO_EXTRAS, Extras, Spec


@triton.jit
def delta_kernel(
    Out, GradOut, GradLse, Delta, shape,
    VALUE_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """delta = rowsum(dO ∘ O), minus the gradient that reaches lse."""
    tiles = tl.cdiv(shape.seqlen_q, BLOCK_M)
    program = tl.program_id(0)
    batch, head, start_m = program // tiles // shape.heads, program // tiles % shape.heads, program % tiles * BLOCK_M
    Out, GradOut = head_of(Out, batch, head, 0), head_of(GradOut, batch, head, 0)
    out = load_tile(Out, start_m, shape.seqlen_q, VALUE_DIM, BLOCK_M, BLOCK_V, True)  # [BLOCK_M, BLOCK_V]
    do = load_tile(GradOut, start_m, shape.seqlen_q, VALUE_DIM, BLOCK_M, BLOCK_V, True)  # [BLOCK_M, BLOCK_V]
    delta = tl.sum(out.to(tl.float32) * do.to(tl.float32), axis=1)  # [BLOCK_M]
    if GradLse is not None:
        delta -= load_row(head_of(GradLse, batch, head, 0), start_m, shape.seqlen_q, 0.0, BLOCK_M, True)
    store_row(head_of(Delta, batch, head, 0), start_m, shape.seqlen_q, delta, BLOCK_M)


@triton.jit
def accumulate_dkdv(
    dk, dv, k, v, Q, GradOut, Lse, Delta, start_n, begin, end, blocks, at, features, random, scale, keep_scale, MASKED: tl.constexpr,
    HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, MASK_MOD: tl.constexpr, BIAS_MOD: tl.constexpr, FAST_TANH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Add what the query rows begin … end of the walk give to one tile of keys. Scores are transposed: keys down, queries across.

    dk and dv come last, since nothing in a tile waits for them: faster on an H100 than dv before ds.
    """
    for place in tl.range(begin, end, BLOCK_M):
        start_m = position(blocks, place, BLOCK_M)
        i = start_m + tl.arange(0, BLOCK_M)[None, :]
        j = start_n + tl.arange(0, BLOCK_N)[:, None]
        q = load_tile(Q, start_m, at.seqlen_q, HEAD_DIM, BLOCK_M, BLOCK_D, MASKED, DESCRIBED)  # [BLOCK_M, BLOCK_D]
        lse = load_lse(Lse, start_m, at.seqlen_q, BLOCK_M, MASKED, MASKED or features.may_hide is not None)  # [BLOCK_M]
        capped = capped_scores(tl.dot(k, q.T, input_precision=PRECISION), scale, features, FAST_TANH)  # [BLOCK_N, BLOCK_M]
        scores = shape_scores(capped, i, j, at, features, MASKED, MASK_MOD, BIAS_MOD)
        p = tl.exp2(scores - lse[None, :])  # [BLOCK_N, BLOCK_M]
        do = load_tile(GradOut, start_m, at.seqlen_q, VALUE_DIM, BLOCK_M, BLOCK_V, MASKED, DESCRIBED)  # [BLOCK_M, BLOCK_V]
        dp = tl.dot(v, do.T, input_precision=PRECISION)  # [BLOCK_N, BLOCK_M]
        rows = random_rows(i, at, features)
        delta = load_row(Delta, start_m, at.seqlen_q, 0.0, BLOCK_M, MASKED)  # [BLOCK_M]
        if features.seed is not None:
            dp = dropped(dp, rows, random, features) * keep_scale
        ds = through_softcap(p, capped, features) * (dp - delta[None, :])  # [BLOCK_N, BLOCK_M]
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)  # [BLOCK_N, BLOCK_D]
        dv = tl.dot(dropped(p, rows, random, features).to(do.dtype), do, dv, input_precision=PRECISION)  # [BLOCK_N, BLOCK_V]
    return dk, dv


@triton.jit
def dkdv_kernel(
    Q, K, V, GradOut, Lse, Delta, GradK, GradV, shape, packing, blocks, features, scale, keep_scale,
    OVERLAP: tl.constexpr, BOTTOM_RIGHT: tl.constexpr, SEQUENCES: tl.constexpr, GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, MASK_MOD: tl.constexpr, BIAS_MOD: tl.constexpr, FAST_TANH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    """One program owns BLOCK_N keys of one head and walks over every query row that sees them, of every head in the group."""
    if OVERLAP:
        gdc_launch_dependents()
    program = tl.program_id(0)  # the first keys first: under a causal mask the most rows see them
    heads_kv = shape.heads // GROUP
    batch, head_kv, start_n = owned_tile(program, packing.starts_k, packing.sequences, heads_kv, shape.seqlen_k, BLOCK_N, SEQUENCES)
    at = place_of(batch, head_kv * GROUP, shape, packing, features, BOTTOM_RIGHT)
    if packing.starts_k is not None:  # noqa: SIM102 (the first is decided by the compiler)
        if start_n >= at.seqlen_k:
            return

    k = load_tile(head_of(K, batch, head_kv, at.first_k), start_n, at.seqlen_k, HEAD_DIM, BLOCK_N, BLOCK_D, True)  # [BLOCK_N, BLOCK_D]
    v = load_tile(head_of(V, batch, head_kv, at.first_k), start_n, at.seqlen_k, VALUE_DIM, BLOCK_N, BLOCK_V, True)  # [BLOCK_N, BLOCK_V]
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_V], tl.float32)
    FIRST: tl.constexpr = 2 if features.right is None else 0  # the stretch that is walked first: the tail or the head, see `walk`
    for member in range(GROUP):
        head = head_kv * GROUP + member
        at = place_of(batch, head, shape, packing, features, BOTTOM_RIGHT)
        q_head = walked_head(Q, batch, head, at.first_q, DESCRIBED)
        do_head = walked_head(GradOut, batch, head, at.first_q, DESCRIBED)
        lse_head, delta_head = head_of(Lse, batch, head, at.first_q), head_of(Delta, batch, head, at.first_q)
        random = random_keys(start_n + tl.arange(0, BLOCK_N)[:, None], at, features)
        listed = None if blocks is None else list_of(blocks, start_n, at, OWN_KEYS)
        bounds = walk_of_keys(listed, start_n, at, features, MASK_MOD, BLOCK_M, BLOCK_N)
        for stretch in tl.static_range(FIRST, FIRST + 3):
            if exists(stretch % 3, features.right is not None, MASK_MOD):
                dk, dv = accumulate_dkdv(
                    dk, dv, k, v, q_head, do_head, lse_head, delta_head, start_n, bounds[stretch % 3], bounds[stretch % 3 + 1], listed,
                    at, features, random, scale, keep_scale, stretch % 3 != 1,
                    HEAD_DIM, VALUE_DIM, MASK_MOD, BIAS_MOD, FAST_TANH, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_V, PRECISION, DESCRIBED,
                )  # fmt: skip

    store_tile(head_of(GradK, batch, head_kv, at.first_k), start_n, at.seqlen_k, dk * scale, HEAD_DIM, BLOCK_N, BLOCK_D)
    store_tile(head_of(GradV, batch, head_kv, at.first_k), start_n, at.seqlen_k, dv * keep_scale, VALUE_DIM, BLOCK_N, BLOCK_V)


@triton.jit
def score_gradient(
    q, do, lse, delta, k, v, i, j, at, features, random, scale, keep_scale, MASKED: tl.constexpr, SHAPED: tl.constexpr,
    MASK_MOD: tl.constexpr, BIAS_MOD: tl.constexpr, FAST_TANH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile's scores, queries down and keys across: of q · k, or with SHAPED of what the softmax saw."""
    dot = tl.dot(q, k.T, input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
    dp = tl.dot(do, v.T, input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
    capped = capped_scores(dot, scale, features, FAST_TANH)
    scores = shape_scores(capped, i, j, at, features, MASKED, MASK_MOD, BIAS_MOD)
    p = tl.exp2(scores - lse[:, None])  # [BLOCK_M, BLOCK_N]
    if not SHAPED:
        p = through_softcap(p, capped, features)
    if features.seed is not None:
        dp = dropped(dp, random, random_keys(j, at, features), features) * keep_scale
    return p * (dp - delta[:, None])


@triton.jit
def accumulate_dq(
    dq, q, do, lse, delta, K, V, start_m, begin, end, blocks, at, features, random, scale, keep_scale, MASKED: tl.constexpr,
    HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, MASK_MOD: tl.constexpr, BIAS_MOD: tl.constexpr, FAST_TANH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Add what the keys begin … end of the walk give to one tile of query rows."""
    for place in tl.range(begin, end, BLOCK_N):
        start_n = position(blocks, place, BLOCK_N)
        i = start_m + tl.arange(0, BLOCK_M)[:, None]
        j = start_n + tl.arange(0, BLOCK_N)[None, :]
        k = load_tile(K, start_n, at.seqlen_k, HEAD_DIM, BLOCK_N, BLOCK_D, MASKED, DESCRIBED)  # [BLOCK_N, BLOCK_D]
        v = load_tile(V, start_n, at.seqlen_k, VALUE_DIM, BLOCK_N, BLOCK_V, MASKED, DESCRIBED)  # [BLOCK_N, BLOCK_V]
        ds = score_gradient(
            q, do, lse, delta, k, v, i, j, at, features, random, scale, keep_scale, MASKED, False, MASK_MOD, BIAS_MOD, FAST_TANH, PRECISION
        )  # [BLOCK_M, BLOCK_N]
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)  # [BLOCK_M, BLOCK_D]
    return dq


@triton.jit
def end_after_dkdv(OVERLAP: tl.constexpr):
    """What follows in the stream waits for dq alone, so dq waits for dkdv: one program is enough, and the others make room."""
    if OVERLAP:  # noqa: SIM102 (decided by the compiler)
        if tl.program_id(0) == tl.num_programs(0) - 1:
            gdc_wait()


@triton.jit
def dq_kernel(
    Q, K, V, GradOut, Lse, Delta, GradQ, shape, packing, blocks, features, scale, keep_scale,
    OVERLAP: tl.constexpr, BOTTOM_RIGHT: tl.constexpr, SEQUENCES: tl.constexpr, GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, MASK_MOD: tl.constexpr, BIAS_MOD: tl.constexpr, FAST_TANH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    """One program owns BLOCK_M query rows of one head and walks over the keys they see, as the forward kernel does."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)  # the last rows first: under a causal mask they see the most keys
    batch, head, start_m = owned_tile(program, packing.starts_q, packing.sequences, shape.heads, shape.seqlen_q, BLOCK_M, SEQUENCES)
    at = place_of(batch, head, shape, packing, features, BOTTOM_RIGHT)
    if packing.starts_q is not None:  # noqa: SIM102 (the first is decided by the compiler)
        if start_m >= at.seqlen_q:
            end_after_dkdv(OVERLAP)
            return

    K = walked_head(K, batch, head // GROUP, at.first_k, DESCRIBED)
    V = walked_head(V, batch, head // GROUP, at.first_k, DESCRIBED)
    q = load_tile(head_of(Q, batch, head, at.first_q), start_m, at.seqlen_q, HEAD_DIM, BLOCK_M, BLOCK_D, True)  # [BLOCK_M, BLOCK_D]
    do = load_tile(head_of(GradOut, batch, head, at.first_q), start_m, at.seqlen_q, VALUE_DIM, BLOCK_M, BLOCK_V, True)  # [BLOCK_M, BLOCK_V]
    lse = load_lse(head_of(Lse, batch, head, at.first_q), start_m, at.seqlen_q, BLOCK_M, True, True)  # [BLOCK_M]
    delta = load_row(head_of(Delta, batch, head, at.first_q), start_m, at.seqlen_q, 0.0, BLOCK_M, True)  # [BLOCK_M]
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    random = random_rows(start_m + tl.arange(0, BLOCK_M)[:, None], at, features)
    blocks = None if blocks is None else list_of(blocks, start_m, at, OWN_ROWS)
    bounds = walk_of_rows(blocks, start_m, at, features, MASK_MOD, BLOCK_M, BLOCK_N)
    for stretch in tl.static_range(3):
        if exists(stretch, features.left is not None, MASK_MOD):
            dq = accumulate_dq(
                dq, q, do, lse, delta, K, V, start_m, bounds[stretch], bounds[stretch + 1], blocks,
                at, features, random, scale, keep_scale, stretch != 1,
                HEAD_DIM, VALUE_DIM, MASK_MOD, BIAS_MOD, FAST_TANH, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_V, PRECISION, DESCRIBED,
            )  # fmt: skip
    store_tile(head_of(GradQ, batch, head, at.first_q), start_m, at.seqlen_q, dq * scale, HEAD_DIM, BLOCK_M, BLOCK_D)
    end_after_dkdv(OVERLAP)


def backward(grad_out, query, key, value, out, lse, spec: Spec, grad_lse=None, extras: Extras = NO_EXTRAS, tiles: dict | None = None):
    """(grad_query, grad_key, grad_value, delta) for grad_out (B, Hq, Sq, Dv) and grad_lse (B, Hq, Sq), bitwise the same every run.

    tiles: Configs for "dkdv" and "dq", instead of those that `configs` chooses.
    """
    grad_query, grad_key, grad_value, delta = empty_gradients(query, key, value, lse, packed=extras.cu_seqlens_q is not None)
    to_delta, to_dkdv, to_dq = planned(plan, (query, key, value, grad_out, out, lse, grad_lse), spec, extras, tiles)
    to_delta(out, grad_out, grad_lse, delta)
    inputs = (query, key, value, grad_out, lse, delta)
    to_dkdv(*inputs, grad_key, grad_value)
    to_dq(*inputs, grad_query)
    return grad_query, grad_key, grad_value, delta


def plan(query, key, value, grad_out, out, lse, grad_lse, spec, extras, tiles):
    """The three Launches of a backward pass; see `launch.planned`."""
    p = Problem.of(query, key, value, spec, extras)
    config = configs.choose("delta", query, value, spec, extras)
    value_dim = value.shape[-1]
    constants = dict(VALUE_DIM=value_dim, BLOCK_M=config.BLOCK_M, BLOCK_V=configs.block_d(value_dim), num_warps=config.num_warps)
    programs = triton.cdiv(query.shape[2], config.BLOCK_M) * query.shape[0] * query.shape[1]
    to_delta = Launch(delta_kernel, programs, (p.shape,), constants)

    overlap = configs.can_overlap(query)

    def launch_of(name, kernel, tiles_of, heads, blocks, walked, **options):
        described = configs.can_describe(name, walked.values(), spec, extras)
        config = (tiles or {}).get(name) or configs.choose(name, query, value, spec, extras, described)
        numbers = (p.shape, p.packing, blocks, p.features, spec.scale, 1 / (1 - spec.dropout_p))
        constants = p.constants | config.launch_arguments(query, value) | dict(OVERLAP=overlap, DESCRIBED=described) | options
        rows = config.BLOCK_M if kernel is dkdv_kernel else config.BLOCK_N
        return Launch(kernel, tiles_of(config) * heads, numbers, constants, p.view, dict.fromkeys(walked, rows) if described else None)

    queries, keys = {0: query, 3: grad_out}, {1: key, 2: value}  # what each walks over, by its place among the kernel's arguments
    to_dkdv = launch_of("dkdv", dkdv_kernel, p.key_tiles, p.heads_kv, p.key_blocks, queries)
    to_dq = launch_of("dq", dq_kernel, p.row_tiles, p.shape.heads, p.row_blocks, keys, **(dict(launch_pdl=True) if overlap else {}))
    return to_delta, to_dkdv, to_dq
