"""Forward pass on Hopper (Dao 2023, Algorithm 1; Shah et al. 2024, §3.2): the softmax of one tile runs beside the products of others.

What is subtracted in front of exp2 need not be a row's maximum: any m near it does, if l and acc are scaled whenever it changes. So m is
raised only where a score exceeds it by more than RISE (Zadouri et al. 2026, who do so on Blackwell GPUs). Eight rows of a warp are raised
together, so a row's last bits may depend on its neighbours.
"""

import functools
from typing import Any, NamedTuple

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from flashlab.kernels.hopper.shaping import Added, head_of, see_sink, shaping_of, slope_of
from flashlab.kernels.hopper.workshop import (
    CARRIER_REGISTERS,
    CRAFT_ROWS,
    CRAFT_THREADS,
    WARP_THREADS,
    Band,
    Place,
    Shelf,
    barriers,
    carry,
    describe,
    give_back,
    give_back_all,
    hear,
    pass_over,
    place_of,
    put_away,
    ring,
    sees,
    take,
    tiles_for,
    tiles_in_sight,
    wait_for_room,
)  # fmt: skip
from flashlab.kernels.launch import Launch, multiprocessors, planned
from flashlab.kernels.tile import LN_2, LOG2_E
from flashlab.layout import empty_results
from flashlab.spec import NO_EXTRAS

KEYS = 128  # of a tile
CONFIGS = {  # by head dim: warpgroups that compute, places for keys and as many for values, registers of their threads; see Shared
    64: dict(CRAFTS=3, PLACES=4, REGISTERS=160, TURNS=True),
    128: dict(CRAFTS=2, PLACES=2, REGISTERS=240, TURNS=False),
}
L2_BYTES = 2**25  # of keys and values that programs which run together read
RISE = 8.0  # in base 2: p is at most about 2⁸, which float16 holds to as many digits as 1
LOWEST = gl.constexpr(torch.finfo(torch.float32).min)


class Shared(NamedTuple):
    """What lies in shared memory."""

    q_shelf: Any  # a place for each craft; at the end of a job out lies there
    k_shelf: Any  # crafts ring when they give back
    v_shelf: Any
    numbers: Any  # Shelf of one number: which job comes next
    first_turn: Any  # the bell at which craft 0 hears that it may issue its products; the others' come after. None: as it comes


@gluon.jit
def job_of(number, Q, band, TOGETHER, ROWS: gl.constexpr, KEYS: gl.constexpr):
    """(Place, begin, end) of a job: ROWS query rows of one head, and the tiles of keys begin … end − 1 that they see.

    Heads go TOGETHER, so that their keys stay in the L2 cache; the last rows first, which see the most keys.
    """
    heads, tiles = Q.shape[1], gl.cdiv(Q.shape[2], ROWS)
    first = number // (tiles * TOGETHER) * TOGETHER
    together = gl.minimum(TOGETHER, Q.shape[0] * heads - first)
    within = number - first * tiles
    plane = first + within % together
    at = Place(plane // heads, plane % heads, (tiles - 1 - within // together) * ROWS)
    begin, _, _, end = tiles_in_sight(at.start, band.seqlen_k, band.lowest, band.highest, ROWS, KEYS)
    return at, begin, end


@gluon.jit
def take_next(numbers, done, Taken):
    """The carrier takes the job that comes after `done` others: its number. It writes it down for the crafts."""
    number = gl.num_programs(0) + gl.atomic_add(Taken, 1, sem="relaxed", scope="gpu")  # everybody's first is the program's own
    wait_for_room(numbers, done)
    numbers.tiles.index(0).store(gl.full([1], number, gl.int32, gl.BlockedLayout([1], [32], [1], [0])))
    mbarrier.arrive(numbers.full.index(0), count=1)
    return number


@gluon.jit
def read_next(numbers, done):
    """A craft reads that number."""
    _, parity = place_of(numbers, done)
    mbarrier.wait(numbers.full.index(0), parity)
    number = gl.sum(numbers.tiles.index(0).load(gl.BlockedLayout([1], [32], [4], [0])), axis=0)  # of one
    give_back(numbers, done)
    return number


@gluon.jit
def by_thread(x):
    """A tile as its threads have it, [rows, columns / 8, 4, 2]: four threads share a row, two columns of every eight each."""
    return x.reshape([x.shape[0], x.shape[1] // 8, 4, 2])


@gluon.jit
def beside(x, parts):
    """What each thread has of its rows, [rows, 4], as a factor for its parts of a tile."""
    return gl.convert_layout(x, gl.SliceLayout(1, gl.SliceLayout(3, parts.type.layout)))[:, None, :, None]


@gluon.jit
def highest_by_thread(scores, scale):
    """The highest score that each thread has of a row: [CRAFT_ROWS, 4]."""
    return gl.max(gl.max(by_thread(scores), axis=3), axis=1) * scale


@gluon.jit
def exponentials(scores, m, scale):
    """(p, its rowsums by thread): [CRAFT_ROWS, KEYS] and [CRAFT_ROWS, 4]."""
    parts = by_thread(scores)
    p = gl.exp2(parts * scale - beside(m, parts))
    l = gl.sum(gl.sum(p, axis=3), axis=1)  # nobody waits for the others
    return gl.convert_layout(p.reshape(scores.shape), scores.type.layout), l


@gluon.jit
def softmax_of_first(scores, scale):
    """(p, m, l) of the first tile of a walk. m is finite where a row has seen no key yet, and exp2(−inf − m) = 0."""
    highest = highest_by_thread(scores, scale)
    m = gl.maximum(gl.maximum(highest, gl.max(highest, axis=1)[:, None]), LOWEST)  # [CRAFT_ROWS, 4], alike for a row's four threads
    p, l = exponentials(scores, m, scale)
    return p, m, l


@gluon.jit
def online_softmax_step(scores, m, l, scale):
    """(p, m, l, rescale, risen): fold a tile of products into the running softmax (Dao 2023, Algorithm 1, lines 9-10), in base 2.

    risen: not 0 where m was raised for a row or its neighbours, so that acc is to be multiplied by rescale.
    """
    highest = gl.convert_layout(highest_by_thread(scores, scale), m.type.layout)
    risen, m, l, rescale = gl.inline_asm_elementwise(
        RAISE, "=&r,=f,=f,=&f,f,1,2", [highest, m, l], dtype=(gl.int32, gl.float32, gl.float32, gl.float32), is_pure=True, pack=1,
    )  # fmt: skip
    p, sums = exponentials(scores, m, scale)
    return p, m, l + sums, rescale, risen


# A warp decides for its sixteen rows, of which this sees eight at a time. What none of its threads wants is jumped over.
# A difference is compared: m + RISE would be rounded, to as much as m + 16 where m is beyond 2²⁷, and p be infinite in float16.
RAISE = gl.constexpr(
    """{ // risen, m, l, rescale = $0, $1, $2, $3; highest = $4
    .reg .pred any; .reg .f32 higher, other, before;
    sub.f32 higher, $4, $1;
    setp.gt.f32 any, higher, RISE;
    vote.sync.any.pred any, any, -1;
    selp.s32 $0, 1, 0, any;
    mov.f32 $3, 0f3F800000; // 1
    @!any bra STAYS;
    mov.f32 before, $1;
    max.f32 $1, $1, $4;
    shfl.sync.bfly.b32 other, $1, 1, 31, -1;
    max.f32 $1, $1, other;
    shfl.sync.bfly.b32 other, $1, 2, 31, -1;
    max.f32 $1, $1, other;
    sub.f32 $3, before, $1;
    ex2.approx.ftz.f32 $3, $3;
    mul.f32 $2, $2, $3;
    STAYS:
}""".replace("RISE", str(RISE))
)


@gluon.jit
def rescaled(acc, rescale, risen):
    """acc · rescale, jumped over by a warp none of whose rows has another m."""
    REGISTERS: gl.constexpr = acc.shape[1] // 2  # of a thread
    parts = by_thread(acc)
    parts = gl.inline_asm_elementwise(
        scale_of(REGISTERS), constraints_of(REGISTERS), [parts, beside(rescale, parts), beside(risen, parts)],
        dtype=gl.float32, is_pure=True, pack=REGISTERS,
    )  # fmt: skip
    return gl.convert_layout(parts.reshape(acc.shape), acc.type.layout)


@triton.constexpr_function
def scale_of(registers):
    """PTX for all registers of acc that a thread has. Of every four, two belong to one row of the tile, and two to the eighth below it."""
    rescale, risen = 2 * registers, 3 * registers
    jump = f"or.b32 both, ${risen}, ${risen + 2}; setp.ne.s32 any, both, 0; @!any bra STAYS;"
    scale = "".join(f"mul.f32 ${i}, ${i}, ${rescale + i};" for i in range(registers))
    return f"{{ .reg .pred any; .reg .s32 both; {jump} {scale} STAYS: }}"


@triton.constexpr_function
def constraints_of(registers):
    """acc comes and goes in the same registers; beside each is its rescale, and whether it has risen."""
    return ",".join(["=f"] * registers + [str(i) for i in range(registers)] + ["f"] * registers + ["r"] * registers)


@gluon.jit
def pack(p, dtype: gl.constexpr):
    """p in 16 bits, two to an int32: [CRAFT_ROWS, KEYS / 2]. A loop would hand on each half in a register of its own."""
    low, high = gl.split(p.reshape([p.shape[0], p.shape[1] // 2, 2]))
    ROUND: gl.constexpr = "cvt.rn.bf16x2.f32 $0, $2, $1;" if dtype == gl.bfloat16 else "cvt.rn.f16x2.f32 $0, $2, $1;"
    return gl.inline_asm_elementwise(ROUND, "=r,f,f", [low, high], dtype=gl.int32, is_pure=True, pack=1)


@gluon.jit
def unpack(pairs, dtype: gl.constexpr, P: gl.constexpr):
    """p as the left factor of a product: [CRAFT_ROWS, KEYS] in the registers where the pairs are."""
    low, high = gl.inline_asm_elementwise("mov.b32 {$0, $1}, $2;", "=h,=h,r", [pairs], dtype=(gl.int16, gl.int16), is_pure=True, pack=1)
    p = gl.join(low, high).reshape([pairs.shape[0], 2 * pairs.shape[1]])
    return gl.convert_layout(p.to(dtype, bitcast=True), P)


@gluon.jit
def masked(scores, i, tile, band):
    """−inf where a row does not see a key of this tile."""
    KEYS: gl.constexpr = scores.shape[1]
    j = tile * KEYS + gl.arange(0, KEYS, gl.SliceLayout(0, scores.type.layout))
    return gl.where(sees(i[:, None], j[None, :], band), scores, -float("inf"))


@gluon.jit
def before_products(tile, added, KEYS: gl.constexpr, SCORES: gl.constexpr):
    """What the products of a tile are added to: [CRAFT_ROWS, KEYS]. It is made ready while tensor cores work for others."""
    scores = gl.zeros([CRAFT_ROWS, KEYS], gl.float32, SCORES)
    if added.slope is not None or added.mask is not None:
        parts = by_thread(scores)
        EIGHTS: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(2, gl.SliceLayout(3, parts.type.layout)))
        FOURS: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, parts.type.layout)))
        TWOS: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, parts.type.layout)))
        eights = 8 * gl.arange(0, KEYS // 8, EIGHTS)[None, :, None, None]
        within = 2 * gl.arange(0, 4, FOURS)[None, None, :, None] + gl.arange(0, 2, TWOS)[None, None, None, :]
        if added.mask is not None:
            parts += gl.load(added.mask + (tile * KEYS + eights + within))  # [1, KEYS / 8, 4, 2]
        if added.slope is not None:  # a thread's eights are constants: no integer becomes a float on the way
            parts += eights.to(gl.float32) * added.slope + (tile * KEYS - added.origin + within).to(gl.float32) * added.slope
        scores = gl.convert_layout(parts.reshape(scores.shape), SCORES)
    return scores


@gluon.jit
def products(q, k, scores, added, is_async: gl.constexpr):
    """Issue scores + q · kᵀ: [CRAFT_ROWS, KEYS]."""
    return warpgroup_mma(q, k.permute((1, 0)), scores, use_acc=added.slope is not None or added.mask is not None, is_async=is_async)


@gluon.jit
def take_turn(c: gl.constexpr, shared):
    """Craft c waits until the one before it has issued its products."""
    if shared.first_turn is not None:
        hear(shared.first_turn + c, 2 * CRAFT_THREADS)


@gluon.jit
def pass_turn(c: gl.constexpr, shared):
    """The next craft's turn."""
    if shared.first_turn is not None:
        ring(shared.first_turn + (c + 1) % shared.q_shelf.tiles.shape[0], 2 * CRAFT_THREADS)


@gluon.jit
def walk_step(
    c: gl.constexpr, n, tile, p, m, l, acc, q, shared, i, band, scale, added, MASKED: gl.constexpr, SCORES: gl.constexpr, P: gl.constexpr,
):  # fmt: skip
    """q · kᵀ of tile n is issued, p · v of tile n − 1 behind it: while the second product runs, the softmax of the first is computed."""
    KEYS: gl.constexpr = shared.k_shelf.tiles.shape[3]
    scores = before_products(tile, added, KEYS, SCORES)
    k = take(shared.k_shelf, n)  # [KEYS, D]
    take_turn(c, shared)
    scores = products(q, k, scores, added, is_async=True)
    v = take(shared.v_shelf, n - 1)  # [KEYS, D]
    acc = warpgroup_mma(unpack(p, v.dtype, P), v, acc, is_async=True)
    pass_turn(c, shared)
    scores = warpgroup_mma_wait(1, deps=(scores,))  # [CRAFT_ROWS, KEYS]
    give_back(shared.k_shelf, n)
    if MASKED:
        scores = masked(scores, i, tile, band)
    p, m, l, rescale, risen = online_softmax_step(scores, m, l, scale)
    acc = warpgroup_mma_wait(0, deps=(acc,))  # [CRAFT_ROWS, D]
    give_back(shared.v_shelf, n - 1)
    p = pack(p, v.dtype)
    return p, m, l, rescaled(acc, rescale, risen)


@gluon.jit
def craft(c: gl.constexpr, shared, Out, Lse, jobs, band, scale, shaping, TOGETHER):
    """Craft c has CRAFT_ROWS rows of each of the program's jobs."""
    CRAFTS: gl.constexpr = shared.q_shelf.tiles.shape[0]
    KEYS: gl.constexpr = shared.k_shelf.tiles.shape[3]
    number, done, passed = gl.program_id(0), 0, 0  # jobs done, and tiles that passed by
    give_back_all(shared.k_shelf)
    if c == CRAFTS - 1:
        pass_turn(c, shared)  # craft 0 is first
    while number < jobs:
        at, begin, end = job_of(number, Out, band, TOGETHER, CRAFT_ROWS * CRAFTS, KEYS)
        attend(c, shared, Out, Lse, at, begin, end, done, passed, band, scale, shaping)
        number = read_next(shared.numbers, done)
        passed += end - begin
        done += 1
    if c == 0:
        take_turn(c, shared)  # that the last one passed on: nobody leaves a bell half rung


@gluon.jit
def attend(c: gl.constexpr, shared, Out, Lse, at, begin, end, done, passed, band, scale, shaping):
    """A job of craft c: it walks down the tiles end − 1 … begin, which all crafts of the program get. Only its own count."""
    CRAFTS: gl.constexpr = shared.q_shelf.tiles.shape[0]
    KEYS: gl.constexpr = shared.k_shelf.tiles.shape[3]
    D: gl.constexpr = shared.k_shelf.tiles.shape[4]
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    P: gl.constexpr = gl.DotOperandLayout(0, ACC, 2)  # registers
    start = at.start + CRAFT_ROWS * c
    my_begin, full_begin, full_end, my_end = tiles_in_sight(start, band.seqlen_k, band.lowest, band.highest, CRAFT_ROWS, KEYS)
    top = passed + end  # tile n of the shelves is tile top − 1 − n of the keys
    first = top - my_end  # of its own
    pass_over(shared.k_shelf, passed, first)  # one tile at most: with more the carrier, which brings k and v by turns, would wait for ever
    pass_over(shared.v_shelf, passed, first)
    for _ in range(passed, first):
        take_turn(c, shared)
        pass_turn(c, shared)

    i = start + gl.arange(0, CRAFT_ROWS, gl.SliceLayout(1, SCORES))
    if shaping.slopes is not None:
        slope = slope_of(shaping.slopes, at.batch, at.head)
    added = Added(
        slope / scale if shaping.slopes is not None else None,
        start + band.highest if shaping.slopes is not None else None,
        head_of(shaping.mask, at.batch, at.head) if shaping.mask is not None else None,
    )
    acc = gl.zeros([CRAFT_ROWS, D], gl.float32, ACC)
    q = take(shared.q_shelf, CRAFTS * done + c)  # [CRAFT_ROWS, D]

    scores = before_products(my_end - 1, added, KEYS, SCORES)
    scores = products(q, take(shared.k_shelf, first), scores, added, is_async=False)
    give_back(shared.k_shelf, first)
    p, m, l = softmax_of_first(masked(scores, i, my_end - 1, band), scale)
    p = pack(p, q.dtype)
    for n in range(first + 1, top - full_end):
        p, m, l, acc = walk_step(c, n, top - 1 - n, p, m, l, acc, q, shared, i, band, scale, added, True, SCORES, P)
    for n in range(gl.maximum(first + 1, top - full_end), top - full_begin):
        p, m, l, acc = walk_step(c, n, top - 1 - n, p, m, l, acc, q, shared, i, band, scale, added, False, SCORES, P)
    if band.lowest is not None:
        for n in range(gl.maximum(first + 1, top - full_begin), top - my_begin):
            p, m, l, acc = walk_step(c, n, top - 1 - n, p, m, l, acc, q, shared, i, band, scale, added, True, SCORES, P)
    acc = warpgroup_mma(unpack(p, q.dtype, P), take(shared.v_shelf, top - 1 - my_begin), acc)
    give_back(shared.v_shelf, top - 1 - my_begin)
    pass_over(shared.k_shelf, top - my_begin, top - begin)
    pass_over(shared.v_shelf, top - my_begin, top - begin)
    for _ in range(begin, my_begin):
        take_turn(c, shared)
        pass_turn(c, shared)

    m, l = gl.max(m, axis=1), gl.sum(l, axis=1)
    m, l = gl.convert_layout(m, gl.SliceLayout(1, SCORES)), gl.convert_layout(l, gl.SliceLayout(1, SCORES))  # [CRAFT_ROWS]
    rescale = 1.0
    if shaping.slopes is not None:
        m -= slope * (i - start).to(gl.float32)  # distances were counted from the first row
    if shaping.sinks is not None:
        m, l, rescale = see_sink(m, l, at.head, shaping.sinks)
    out = acc * gl.convert_layout(rescale / gl.where(l == 0.0, 1.0, l), gl.SliceLayout(1, ACC))[:, None]  # no key seen: 0, not 0/0
    put_away(Out, out, shared.q_shelf, c, at)
    lse = (m + gl.log2(l)) * LN_2  # natural log; −inf where no key was seen
    gl.store(Lse + (at.batch * Out.shape[1] + at.head).to(gl.int64) * band.seqlen_q + i, lse, mask=i < band.seqlen_q)
    tma.store_wait(0)
    give_back(shared.q_shelf, CRAFTS * done + c)


@gluon.jit
def carrier(shared, Q, K, V, Taken, jobs, band, TOGETHER, GROUP: gl.constexpr):
    """For each of the program's jobs its rows of Q and every tile of keys and values, as soon as there is room."""
    CRAFTS: gl.constexpr = shared.q_shelf.tiles.shape[0]
    KEYS: gl.constexpr = shared.k_shelf.tiles.shape[3]
    number, done, passed = gl.program_id(0), 0, 0
    while number < jobs:
        at, begin, end = job_of(number, Q, band, TOGETHER, CRAFT_ROWS * CRAFTS, KEYS)
        for t in range(end - begin):
            n, start = passed + t, (end - 1 - t) * KEYS
            carry(shared.k_shelf, n, K, at.batch, at.head // GROUP, start)
            if t == 0:  # behind the first keys: crafts may still be at the job before
                for c in gl.static_range(CRAFTS):
                    carry(shared.q_shelf, CRAFTS * done + c, Q, at.batch, at.head, at.start + CRAFT_ROWS * c)
            carry(shared.v_shelf, n, V, at.batch, at.head // GROUP, start)
        number, done, passed = take_next(shared.numbers, done, Taken), done + 1, passed + end - begin
    for n in range(passed, passed + shared.k_shelf.full.shape[0]):  # crafts ring to the end: it waits until they have
        wait_for_room(shared.k_shelf, n)


@gluon.jit(do_not_specialize=["jobs", "scale", "band", "TOGETHER"])  # every length would be compiled anew
def forward_kernel(
    Q, K, V, Out, Lse, Taken, jobs, scale, band, shaping, TOGETHER,
    GROUP: gl.constexpr, CRAFTS: gl.constexpr, PLACES: gl.constexpr, REGISTERS: gl.constexpr, TURNS: gl.constexpr,
):  # fmt: skip
    """A program stays on its multiprocessor, and takes one of the `jobs` after the other. While crafts end one, the next one's keys come.

    Taken: how many have been taken, after everybody's first; at first 0.
    """
    gl.static_assert(PLACES + CRAFTS <= 8, "a bell for each place and for each craft: there are eight")
    shared = Shared(
        Shelf(tiles_for(Q, CRAFTS), barriers(CRAFTS, 1), barriers(CRAFTS, 1), None),
        Shelf(tiles_for(K, PLACES), barriers(PLACES, 1), None, CRAFTS * CRAFT_THREADS + WARP_THREADS),
        Shelf(tiles_for(V, PLACES), barriers(PLACES, 1), barriers(PLACES, CRAFTS), None),
        Shelf(
            gl.allocate_shared_memory(gl.int32, [1, 1], gl.SwizzledSharedLayout(1, 1, 1, [0])), barriers(1, 1), barriers(1, CRAFTS), None,
        ),
        PLACES if TURNS else None,
    )  # fmt: skip
    scale *= LOG2_E
    if CRAFTS == 2:
        gl.warp_specialize(
            [
                (craft, (0, shared, Out, Lse, jobs, band, scale, shaping, TOGETHER)),
                (craft, (1, shared, Out, Lse, jobs, band, scale, shaping, TOGETHER)),
                (carrier, (shared, Q, K, V, Taken, jobs, band, TOGETHER, GROUP)),
            ],
            [4, 1], [REGISTERS, CARRIER_REGISTERS],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (craft, (0, shared, Out, Lse, jobs, band, scale, shaping, TOGETHER)),
                (craft, (1, shared, Out, Lse, jobs, band, scale, shaping, TOGETHER)),
                (craft, (2, shared, Out, Lse, jobs, band, scale, shaping, TOGETHER)),
                (carrier, (shared, Q, K, V, Taken, jobs, band, TOGETHER, GROUP)),
            ],
            [4, 4, 1], [REGISTERS, REGISTERS, CARRIER_REGISTERS],
        )  # fmt: skip


def forward(query, key, value, spec, extras=NO_EXTRAS):
    """Attention of query (B, Hq, Sq, D) over key and value (B, Hkv, Sk, D), of calls that `serves`.

    Returns out (B, Hq, Sq, D) in query's dtype and lse (B, Hq, Sq), float32, natural log.
    """
    return forward_like(query, key, value, spec, extras)(query, key, value)


def forward_like(query, key, value, spec, extras=NO_EXTRAS):
    """The forward pass of any tensors that lie as these do: (query, key, value) → (out, lse)."""
    return functools.partial(run, planned(plan, (query, key, value), spec, extras))


def run(to_out, query, key, value):
    """(out, lse) by the Launch of a `plan`."""
    out, lse = empty_results(query, value, packed=False)
    to_out(query, key, value, out, lse, query.new_zeros(1, dtype=torch.int32))
    return out, lse


def plan(query, key, value, spec, extras, tiles):
    """The Launch of a forward pass; see `launch.planned`."""
    batch, heads, seqlen_q, head_dim = query.shape
    heads_kv, seqlen_k = key.shape[1:3]
    config = CONFIGS[head_dim]
    jobs = triton.cdiv(seqlen_q, CRAFT_ROWS.value * config["CRAFTS"]) * batch * heads
    together = heads // heads_kv * max(1, L2_BYTES // (2 * seqlen_k * head_dim * key.element_size()))
    numbers = jobs, spec.scale, Band(*spec.band(seqlen_q, seqlen_k), seqlen_q, seqlen_k), shaping_of(extras, spec.scale), together
    constants = dict(GROUP=heads // heads_kv, **config, num_warps=4)
    own, walked = (CRAFT_ROWS.value, head_dim), (KEYS, head_dim)
    described = {0: own, 1: walked, 2: walked, 3: own}
    programs = min(jobs, multiprocessors(query.device.index))
    return Launch(forward_kernel, programs, numbers, constants, lambda x: x, described, describe)
