"""What lesson 15 measures: the Hopper forward kernel with one decision undone at a time, clocks read inside of it, and all beside peers.

Each variant is the library's own kernel with other words in its source, so nothing that the lesson shows can drift from what runs.
"""

import functools
import importlib.util
import inspect
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from flashlab.attention import described
from flashlab.bench import peers
from flashlab.bench.problems import TOKENS, WIDTH, Problem
from flashlab.bench.timing import interleaved
from flashlab.course.memory import attention_flops


@dataclass(frozen=True)
class Decision:
    """One decision of the kernel, and the kernel without it: old words and new ones, and other constants of a launch."""

    words: tuple = ()  # ((old, new), …) in forward.py
    constants: dict = field(default_factory=dict)  # of the launch, by head dim: {64: {…}, 128: {…}}


OWN = "tiles_in_sight(start, band.seqlen_k, band.lowest, band.highest, CRAFT_ROWS, KEYS)"
ALL = "tiles_in_sight(at.start, band.seqlen_k, band.lowest, band.highest, CRAFT_ROWS * CRAFTS, KEYS)"
PACKED = "return gl.inline_asm_elementwise(ROUND"
UNPACKED = "low, high = gl.inline_asm_elementwise("
PARTS = "l = gl.sum(gl.sum(p, axis=3), axis=1)  # nobody waits for the others\n"
WHOLE = PARTS + "    l = gl.maximum(l, gl.sum(l, axis=1)[:, None])\n"
BELLS = "Shelf(tiles_for(K, PLACES), barriers(PLACES, 1), None, CRAFTS * CRAFT_THREADS + WARP_THREADS)"
BARRIERS = "Shelf(tiles_for(K, PLACES), barriers(PLACES, 1), barriers(PLACES, CRAFTS), None)"
DECISIONS = {
    "softmax beside its own p · v": Decision((("warpgroup_mma_wait(1, deps=(scores,))", "warpgroup_mma_wait(0, deps=(scores,))"),)),
    "tiles under way": Decision(constants={64: dict(PLACES=1), 128: dict(PLACES=1)}),
    "a third craft": Decision(constants={64: dict(CRAFTS=2, REGISTERS=240)}),
    "p handed on in pairs": Decision(
        ((PACKED, "return p.to(dtype)\n    " + PACKED), (UNPACKED, "return gl.convert_layout(pairs, P)\n    " + UNPACKED))
    ),
    "m raised where it must be": Decision((("RISE = 8.0", "RISE = -3e38"),)),
    "m may stay behind by 8": Decision((("RISE = 8.0", "RISE = 0.0"),)),
    "sums in parts, by thread": Decision(((PARTS, WHOLE), ("gl.sum(l, axis=1)\n", "gl.max(l, axis=1)\n"))),
    "masks at the edge alone": Decision((("added, False, SCORES, P)", "added, True, SCORES, P)"),)),
    "each craft its own tiles": Decision(((OWN, ALL),)),
    "last rows first": Decision((("(tiles - 1 - within // together)", "(within // together)"),)),
    "heads that share the cache": Decision((("L2_BYTES = 2**25", "L2_BYTES = 2**40"),)),
    "turns that are fixed": Decision(constants={64: dict(TURNS=False)}),
    "one job after the other": Decision((("min(jobs, multiprocessors(query.device.index))", "jobs"),)),
    "bells at the keys' shelf": Decision(((BELLS, BARRIERS),)),
}
IN_STEP = (  # in fused.py: both crafts begin their products at the same time, and neither passes on a turn
    ("    hear(TURN_BELLS + c, CRAFTS * CRAFT_THREADS)", "    hear(TURN_BELLS, CRAFTS * CRAFT_THREADS)"),
    ("    ring(TURN_BELLS + (CRAFTS - 1 - c), CRAFTS * CRAFT_THREADS)", "    pass"),
)
EVENTS = ("k is there", "both issued", "q · kᵀ is done", "softmax is done", "p · v is done")
STEPS = 12  # of a craft, whose clocks are kept
TICK = '''
@gluon.jit
def tick(Clocks, c: gl.constexpr, n, event: gl.constexpr):
    """Keep the multiprocessor's clock, in one program of the grid."""
    if (gl.program_id(0) == 0) & (n < {steps}):
        now = gl.inline_asm_elementwise("mov.u32 $0, %clock; // $1", "=r,r", [n], dtype=gl.int32, is_pure=False, pack=1)
        gl.store(Clocks + (c * {steps} + n) * {events} + event, now)


@gluon.jit
def walk_step('''
WITH_CLOCKS = (  # the same kernel, which keeps clocks
    ("\n@gluon.jit\ndef walk_step(", TICK.format(steps=STEPS, events=len(EVENTS))),
    ("P: gl.constexpr,\n)", "P: gl.constexpr, Clocks,\n)"),
    ("SCORES, P)\n    for", "SCORES, P, Clocks)\n    for"),
    ("SCORES, P)\n    if", "SCORES, P, Clocks)\n    if"),
    ("True, SCORES, P)\n    acc", "True, SCORES, P, Clocks)\n    acc"),
    ("shared)\n    scores = products(q", "shared)\n    tick(Clocks, c, n, 0)\n    scores = products(q"),
    ("acc, is_async=True)\n", "acc, is_async=True)\n    tick(Clocks, c, n, 1)\n"),
    ("    give_back(shared.k_shelf, n)\n    if MASKED", "    tick(Clocks, c, n, 2)\n    give_back(shared.k_shelf, n)\n    if MASKED"),
    ("    acc = warpgroup_mma_wait(0", "    tick(Clocks, c, n, 3)\n    acc = warpgroup_mma_wait(0"),
    ("    give_back(shared.v_shelf, n - 1)\n    p =", "    tick(Clocks, c, n, 4)\n    give_back(shared.v_shelf, n - 1)\n    p ="),
    ("done, passed, band, scale, shaping)", "done, passed, band, scale, shaping, Clocks)"),
    ("jobs, band, scale, shaping, TOGETHER):", "jobs, band, scale, shaping, TOGETHER, Clocks):"),
    ("jobs, band, scale, shaping, TOGETHER)),", "jobs, band, scale, shaping, TOGETHER, Clocks)),"),
    ("Q, K, V, Out, Lse, Taken, jobs,", "Q, K, V, Out, Lse, Taken, Clocks, jobs,"),
)


def edited(words, module=None):
    """A module (hopper/forward.py for None) with other words in its source, as one of its own.

    Raises:
        ValueError: old words that the source does not have.
    """
    if module is None:
        from flashlab.kernels.hopper import forward as module

    source = inspect.getsource(module)
    for old, new in words:
        if old not in source:
            raise ValueError(f"words: {old!r} is not in {module.__name__}: a decision is undone where the kernel has these words.")
        source = source.replace(old, new)
    folder = Path(_folder().name)
    path = folder / f"{module.__name__.split('.')[-1]}_{len(list(folder.iterdir()))}.py"
    path.write_text(source, encoding="utf-8")  # Triton reads a kernel's source from its file
    spec = importlib.util.spec_from_file_location(f"flashlab_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def in_step():
    """hopper/backward.py whose crafts take no turns: they begin every step together."""
    from flashlab.kernels.hopper import backward, fused

    variant = edited(IN_STEP, fused)
    return edited(((f"from {fused.__name__} import", f"from {variant.__name__} import"),), backward)


@functools.cache
def _folder():
    """Where variants lie, as long as this process lives."""
    return tempfile.TemporaryDirectory(prefix="flashlab-")


@functools.cache
def without(name):
    """The kernel's module without one decision; with all of them for None."""
    from flashlab.kernels.hopper import forward

    return edited(DECISIONS[name].words) if name else forward


def launch_without(name, query, key, value, spec, extras):
    """A function without arguments that runs the forward pass without one decision, and returns out."""
    from flashlab.layout import empty_out

    module, head_dim = without(name), query.shape[3]
    changed = DECISIONS[name].constants.get(head_dim, {}) if name else {}
    kept = module.CONFIGS[head_dim]
    module.CONFIGS[head_dim] = kept | changed
    try:
        launch = module.plan(query, key, value, spec, extras, None)
    finally:
        module.CONFIGS[head_dim] = kept
    out, lse = empty_out(query, value), query.new_empty(query.shape[:3], dtype=torch.float32)
    taken = query.new_empty(1, dtype=torch.int32)

    def run():
        launch(query, key, value, out, lse, taken.zero_())
        return out

    return run


def tensors(seqlen, head_dim, is_causal):
    """(query, key, value, spec, extras) of the benchmark's size, bfloat16."""
    shape = (TOKENS // seqlen, WIDTH // head_dim, seqlen, head_dim)
    return described(*(torch.randn(shape, dtype=torch.bfloat16, device="cuda") for _ in range(3)), is_causal=is_causal)


def prices(seqlen, head_dim, is_causal):
    """{decision, or "all": milliseconds} of the kernel without it, all in one run, each seen to compute the same first."""
    call = tensors(seqlen, head_dim, is_causal)
    names = [None, *(name for name, undone in DECISIONS.items() if undone.words or head_dim in undone.constants)]
    works = {name or "all": launch_without(name, *call) for name in names}
    truth = works["all"]().clone()
    for name, work in works.items():
        difference = (work() - truth).abs().max().item()
        if not difference < 0.02:
            raise RuntimeError(f"without {name!r} the kernel computes something else: {difference:.3g} apart.")
    return {name: times.median for name, times in interleaved(works, "cuda").items()}


def clocks(name, seqlen=16384, head_dim=128):
    """Clock cycles of one program: for each craft and step those of EVENTS, counted from the first. name: a decision to leave out."""
    module = edited((*(DECISIONS[name].words if name else ()), *WITH_CLOCKS))
    query, key, value, spec, extras = tensors(seqlen, head_dim, is_causal=False)
    launch = module.plan(query, key, value, spec, extras, None)
    crafts = module.CONFIGS[head_dim]["CRAFTS"]
    kept = torch.zeros(crafts, STEPS, len(EVENTS), dtype=torch.int32, device="cuda")
    out, lse = torch.empty_like(query), query.new_empty(query.shape[:3], dtype=torch.float32)
    for _ in range(3):
        launch(query, key, value, out, lse, query.new_zeros(1, dtype=torch.int32), kept)
    times = kept.long()[:, 2:] & 0xFFFFFFFF  # the first steps still fill the shelves
    return (times - times.min()).tolist()


def power(seqlen=16384, head_dim=128, seconds=3.0):
    """What the driver says of the GPU in the middle of `seconds` of the forward pass: watts, their limit, and the clock in MHz."""
    run = launch_without(None, *tensors(seqlen, head_dim, is_causal=False))
    run()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    for _ in range(int(1000 * seconds / start.elapsed_time(end))):
        run()
    time.sleep(seconds / 2)  # the driver's watts are an average over a second
    fields = "power.draw,power.limit,clocks.sm,clocks.max.sm"
    told = subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"], capture_output=True, text=True)
    torch.cuda.synchronize()
    return dict(zip(("watts", "limit", "clock", "highest_clock"), map(float, told.stdout.splitlines()[0].split(",")), strict=True))


PEERS = ("cuDNN in torch", "flash-attn 4")  # who has kernels for Hopper as well


def works_beside(seqlen, head_dim, is_causal):
    """{"forward" and "backward": {name: function}} of kernels by hand, portable ones and PEERS, seen to compute the same."""
    from flashlab.kernels import backward as portable_backward
    from flashlab.kernels import forward as portable_forward
    from flashlab.kernels.hopper import backward, forward

    problem = Problem(seqlen, head_dim, is_causal)
    leaves, grad_out = problem.tensors("cuda")
    query, key, value, spec, _ = described(*(x.detach() for x in leaves), is_causal=is_causal)
    out, lse = portable_forward.forward(query, key, value, spec)
    saved, in_any_order = ((grad_out, query, key, value, out, lse, replace(spec, deterministic=turns)) for turns in (True, False))
    attends = {peer.name: peer.prepare(problem, *leaves) for peer in peers.found()[0] if peer.name in PEERS}
    outs = {name: attend() for name, attend in attends.items()}
    works = {
        "forward": {
            "by hand": lambda: forward.forward(query, key, value, spec),
            "portable": lambda: portable_forward.forward(query, key, value, spec),
        },
        "backward": {
            "in turns": lambda: backward.backward(*saved),
            "in any order": lambda: backward.backward(*in_any_order),
            "in any order, crafts in step": lambda: in_step().backward(*in_any_order),
            "portable": lambda: portable_backward.backward(*saved),
        },
    }  # fmt: skip
    works["forward"] |= {name: lambda attend=attend: (attend(),) for name, attend in attends.items()}
    works["backward"] |= {name: lambda out=out: torch.autograd.grad(out, leaves, grad_out, retain_graph=True) for name, out in outs.items()}
    for way in works.values():
        truth = way["portable"]()[:3]
        for name, work in way.items():
            for right, found in zip(truth, work(), strict=False):  # some give more than out, or than gradients
                if right.shape != found.shape or not (right - found).abs().max() < 0.02 * max(1, right.abs().max()):
                    raise RuntimeError(f"{name!r} computes something else.")
    return works


def beside(seqlen, head_dim, is_causal):
    """{"forward" and "backward": {name: milliseconds}} of these works, all in one run."""
    works = works_beside(seqlen, head_dim, is_causal)
    return {way: {name: times.median for name, times in interleaved(named, "cuda").items()} for way, named in works.items()}


def peer_versions():
    """{peer: version} of those that are installed."""
    return {peer.name: peer.version for peer in peers.found()[0] if peer.name in PEERS}


SIZES = [(seqlen, head_dim, is_causal) for head_dim in (64, 128) for is_causal in (False, True) for seqlen in (4096, 16384)]
BESIDE = [(seqlen, head_dim, is_causal) for head_dim in (64, 128) for is_causal in (False, True) for seqlen in (4096, 8192, 16384)]


def measure():
    """All that the lesson's record holds."""
    rows = []
    for seqlen, head_dim, is_causal in SIZES:
        rows.append(size_row(seqlen, head_dim, is_causal) | dict(ms=prices(seqlen, head_dim, is_causal)))
    overlap = "softmax beside its own p · v"
    return dict(
        prices=rows, events=EVENTS, clocks={"as it is": clocks(None), f"without {overlap}": clocks(overlap)}, power=power(),
        beside=[size_row(*size) | beside(*size) for size in BESIDE], peers=peer_versions(),
    )  # fmt: skip


def size_row(seqlen, head_dim, is_causal):
    """What a record says of a call's size."""
    flops = TOKENS // seqlen * (WIDTH // head_dim) * attention_flops(seqlen, seqlen, head_dim, is_causal=is_causal)
    return dict(seqlen=seqlen, head_dim=head_dim, attention="causal" if is_causal else "full", flops=flops)


def main(out: str = "benchmarks", commit: str = ""):
    """Write what this machine measures into OUT/by-hand-<machine>.json, if it has a Hopper GPU."""
    from flashlab.bench import record

    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        print("lesson 15 measures kernels of a Hopper GPU, and here is none: nothing is written")
        return
    print(record.write(measure(), out, "python -m flashlab.course.by_hand", commit or None, "cuda", "by-hand-"))


if __name__ == "__main__":
    import typer

    typer.run(main)
