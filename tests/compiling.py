"""Compiles the kernels of a call for a GPU that is not here: the library's own launchers run, and where they would launch, this compiles.

Nothing about a kernel's arguments is written down twice: what is compiled is what would run.
"""

import itertools
import re
import subprocess
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as GluonDescriptor
from triton.tools.tensor_descriptor import TensorDescriptor

from flashlab.decoding_checks import FP8_FROM
from flashlab.kernels import backward, configs, decode, forward, mask_gradient, turing
from flashlab.kernels import launch as launching
from flashlab.kernels.hopper import backward as hopper_backward
from flashlab.kernels.hopper import forward as hopper_forward
from flashlab.masks import documents
from flashlab.remembered import Remembered
from flashlab.spec import NO_EXTRAS, Extras, Spec
from tests.protocol import nearer

# KiB of shared memory that one program may use
SHARED_LIMIT = {"sm_75": 64, "sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx942": 64}
TYPES = {
    torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.int32: "i32", torch.uint8: "u8",
    torch.float8_e4m3fn: "fp8e4nv",
}  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one kernel."""

    kernel: str
    shared: int  # bytes
    registers: int
    spilled: int  # bytes a thread keeps in slow memory because registers ran out
    unwritten: tuple  # instructions that read a register which nothing has written: a fault of the assembler
    alone: int  # arrivals at a barrier in shared memory by a thread that has not met its warps just before
    idle: int  # barriers in shared memory that are made, and nobody uses
    tensor_core_products: int  # instructions
    scalar_products: int  # dots that are computed on ordinary registers


def compile_call(target, query, key, value, spec: Spec, extras: Extras, only=None):
    """Compile what attention would launch on `target` (a key of SHARED_LIMIT), or some of it by name; a list of Compiled."""
    results = []
    out, lse = torch.empty(*query.shape[:3], value.shape[-1], dtype=query.dtype), torch.empty(query.shape[:3])
    with as_if_on(target, collecting(results, target, only)):
        forward.forward(query, key, value, spec, extras)
        backward.backward(out, query, key, value, out, lse, spec, lse, extras)
        if extras.attn_mask is not None and extras.attn_mask.is_floating_point():
            mask_gradient.mask_gradient(out, query, key, value, lse, lse, spec, extras)
    return results


def collecting(results, target, only=None):
    """A launch that compiles instead, and appends what came out to `results`."""

    def compile_instead(kernel, programs, *arguments, num_warps=4, num_stages=3, arch=None, **constants):
        name = kernel.__name__.removesuffix("_kernel")
        if only is None or name in only:
            compiled = compile_kernel(target, kernel, arguments, constants, arch, num_warps=num_warps, num_stages=num_stages)
            results.append(Compiled(name, compiled.metadata.shared, *_usage(compiled)))

    return compile_instead


@triton.jit
def odd_distance(batch, head, i, j):
    """No mask_mod: it gives a number."""
    return (i - j) & 1


def compile_by_hand(everything=False):
    """(dtype, head_dim, variant, Compiled) of the kernels that are scheduled by hand for Hopper GPUs; with `everything` in both dtypes."""
    plain, shaped = NO_EXTRAS, Extras(torch.zeros(2, 1, 1, 2048), torch.zeros(2, 4), torch.zeros(4))
    variants = {"full": ((-1, -1), plain), "causal": ((-1, 0), plain), "window": ((600, 30), plain)}
    variants["causal, with ALiBi, a mask of keys and sinks"] = ((-1, 0), shaped)
    dtypes = (torch.float16, torch.bfloat16) if everything else (torch.bfloat16,)
    for dtype, head_dim, (variant, (window, extras)) in itertools.product(dtypes, (64, 128), variants.items()):
        query, key, value = (torch.empty(2, heads, 2048, head_dim, dtype=dtype) for heads in (4, 2, 2))
        lse, results, in_any_order = torch.empty(2, 4, 2048), [], []
        with as_if_on("sm_90", collecting(results, "sm_90", ("forward", "fused"))):
            hopper_forward.forward(query, key, value, Spec(0.1, window=window), extras)
            hopper_backward.backward(query, query, key, value, query, lse, Spec(0.1, window=window), lse, extras)
        with as_if_on("sm_90", collecting(in_any_order, "sm_90", ("fused",))):
            hopper_backward.backward(query, query, key, value, query, lse, Spec(0.1, window=window, deterministic=False), lse, extras)
        yield from ((dtype, head_dim, variant, compiled) for compiled in results)
        yield from ((dtype, head_dim, f"{variant}, in any order", compiled) for compiled in in_any_order)


def compile_kernel(target, kernel, arguments, constants, arch=None, **options):
    """What Triton makes of a launch with these arguments and constants on `target`."""
    source = (GluonASTSource if kernel.is_gluon() else ASTSource)(kernel, *signature_of(kernel, arguments, constants))
    gpu = GPUTarget("hip", target, 64) if target == "gfx942" else GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
    with turing.tensor_cores() if arch else nullcontext():
        return triton.compile(source, target=gpu, options=options | ({"arch": arch} if arch else {}))


@contextmanager
def as_if_on(target, launch):
    """The library as it would behave on `target`, with another launch."""
    capability = target if target == "gfx942" else target_number(target)
    replaced = [(launching, "launch", launch), (launching, "_plans", Remembered())]
    replaced.append((configs, "target_of", lambda query: capability))
    if target != "gfx942":
        replaced.append((configs, "has_fast_tanh", lambda query: query.dtype != torch.float32))
        replaced.append((configs, "can_overlap", lambda query: capability >= (9, 0)))
    kept = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    for module, name, other in replaced:
        setattr(module, name, other)
    try:
        yield
    finally:
        for module, name, original in kept:
            setattr(module, name, original)


def signature_of(kernel, arguments, constants):
    """(signature, constants, attributes) as Triton derives them from the values of a launch."""
    by_name = dict(zip(kernel.arg_names, arguments, strict=False)) | constants
    signature, constexprs, attributes = {}, {}, {}
    for number, name in enumerate(kernel.arg_names):
        constant = name in constants
        signature[name] = _type(by_name[name], (number,), constexprs, attributes, constant)
    return signature, constexprs, attributes


def _type(value, path, constexprs, attributes, constant=False):
    if constant or value is None or (isinstance(value, int) and not isinstance(value, bool) and value == 1):
        constexprs[path] = value
        return "constexpr"
    if isinstance(value, GluonDescriptor):
        return f"tensordesc<{TYPES[value.base.dtype]}{value.block_shape},{value.layout!r}>"
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{TYPES[value.base.dtype]}{value.block_shape}>"
    if isinstance(value, torch.Tensor):
        attributes[path] = [["tt.divisibility", 16]]
        return f"*{TYPES[value.dtype]}"
    if isinstance(value, tuple):
        parts = [_type(part, (*path, n), constexprs, attributes) for n, part in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, float):
        return "fp32"
    if value % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _usage(compiled):
    """What `Compiled` says of a thread's registers and instructions."""
    dots = re.findall(r" tt\.dot .*", compiled.asm["ttgir"])
    scalar = sum("#mma" not in dot for dot in dots)
    if "amdgcn" in compiled.asm:
        text = compiled.asm["amdgcn"]
        found = [int(re.search(rf"\.{name}:\s+(\d+)", text).group(1)) for name in ("vgpr_count", "vgpr_spill_count")]
        return found[0], 4 * found[1], (), 0, 0, text.count("v_mfma"), scalar
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        arguments = [tool, "--dump-resource-usage", "--dump-sass", file.name]
        text = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    registers, local, stack = (int(re.search(rf"{name}:(\d+)", text).group(1)) for name in ("REG", "LOCAL", "STACK"))
    products = len(re.findall(r"\bH(?:G)?MMA\b", text))
    barriers = arrivals_alone(compiled.asm["ptx"]), idle_barriers(compiled.asm["ttgir"])
    return registers, local + stack, tuple(unwritten_registers(text)), *barriers, products, scalar


# What orders memory, or reads and writes it.
EVENT = re.compile(r"\b(mbarrier\.\w+(?:\.\w+)*|bar\.\S+|barrier\.\S+|(?:ld|st|atom|red)\.\S+|stmatrix\S*|wgmma\.\S+|cp\.async\S*)")


def arrivals_alone(ptx):
    """How many arrivals at a barrier in shared memory do not stand right behind a barrier of the warps for which they speak.

    One thread arrives for its partition. Triton puts that barrier there; without it others might still read what is given back.
    """
    events = [found[1] for line in ptx.splitlines() if not line.lstrip().startswith("//") and (found := EVENT.search(line))]
    pairs = zip(events, events[1:], strict=False)
    return sum(
        arrival.startswith("mbarrier.arrive") and "expect_tx" not in arrival and not before.startswith(("bar.sync", "bar.warp.sync"))
        for before, arrival in pairs
    )


def idle_barriers(ttgir):
    """How many rooms for barriers no other warps are given, in a kernel whose warps have different work.

    Their memory goes to whatever is allocated later, and likely for that reason what lay there was damaged where processes shared a GPU.
    """
    rooms = re.findall(r"(%\S+) = ttg\.local_alloc .*xi64, ", ttgir)
    given = " ".join(re.findall(r"ttg\.warp_specialize\((.*?)\)", ttgir)).replace(",", " ").split()
    return len(set(rooms) - set(given)) if given else 0


INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?((\S+)\s+([^;]*?))\s*;")


def unwritten_registers(sass):
    """Instructions that read a uniform register before any has written it, in the order of the code.

    ptxas 12.8 made such code of a forward kernel: the address of a tile was whatever the register held, and the sums were wrong.
    """
    written, found = set(), []
    for text, name, operands in INSTRUCTION.findall(sass):
        first, *others = operands.split(", ")
        target = re.fullmatch(r"UR(\d+)", first) if name.startswith(("U", "R2UR", "S2UR", "LDCU", "CS2UR", "REDUX")) else None
        # A product's gdesc names four registers, of which it may use two.
        reads = {
            int(number) for part in (others if target else [first, *others]) for number in re.findall(r"(?<!gdesc\[)\bUR(\d+)\b", part)
        }
        if reads - written:
            found.append(text)
        written |= reads
        if target:
            size = 4 if ".128" in name else 2 if ".WIDE" in name or (".64" in name and not name.startswith("USHF")) else 1
            written |= set(range(int(target[1]), int(target[1]) + size))
    return found


SEQLEN = 512  # from here on Hopper's tiles come by descriptors
HEAD_DIMS = (64, 128, 256)  # where `configs` changes its mind
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Plain causal calls, dq where nothing is hidden (other tiles), and the gradient of a mask: kernels by name, None for all.
EVERY_DAY = {"causal": None, "full": ("dq",), "mask": ("mask_gradient",)}
# Head dims that tensor cores do not have, and value head dims in smaller tiles than the keys' or in larger ones.
ODD_HEAD_DIMS = ((18, 2), (72, 18), (2, 40), (72, 40))  # the last by descriptors


def compile_table(target, everything=False):
    """(dtype, head_dim, variant, Compiled) for what `configs` can choose on `target`: see EVERY_DAY.

    With `everything` also each kernel of calls with a mask, a block mask and its labels, packed sequences, and all features at once.
    """
    for dtype in DTYPES:
        for head_dim in HEAD_DIMS:
            for variant, (spec, extras) in _variants(dtype).items():
                if everything or variant in EVERY_DAY:
                    query, key, value = (torch.empty(2, heads, SEQLEN, head_dim, dtype=dtype) for heads in (4, 2, 2))
                    only = None if everything else EVERY_DAY[variant]
                    for compiled in compile_call(target, query, key, value, spec, extras, only):
                        yield dtype, head_dim, variant, compiled


def _variants(dtype):
    labels, lists = torch.zeros(1, SEQLEN, dtype=torch.int32), torch.zeros(1, 1, SEQLEN // 64, 6, dtype=torch.int32)
    mask, starts = torch.zeros(1, 1, SEQLEN, SEQLEN, dtype=dtype), torch.zeros(5, dtype=torch.int32)
    every = dict(softcap=3.0, dropout_p=0.1, window=(100, 0), bottom_right=True, bias_mod=nearer)
    documents_extras = Extras(query_labels=labels, key_labels=labels, row_blocks=lists, key_blocks=lists)
    return {
        "causal": (Spec(0.1, True), Extras()),
        "full": (Spec(0.1), Extras()),
        "mask": (Spec(0.1), Extras(attn_mask=mask)),
        "block mask": (Spec(0.1, mask_mod=documents), documents_extras),
        "packed": (Spec(0.1, True), Extras(cu_seqlens_q=starts, cu_seqlens_k=starts)),
        "all features": (
            Spec(0.1, mask_mod=documents, **every),
            Extras(mask, torch.zeros(1, 4), torch.zeros(4), torch.zeros(1, dtype=torch.int32), labels, labels),
        ),
    }


def compile_odd_head_dims(target):
    """(head_dim, value_dim, Compiled) of causal calls in float16."""
    for head_dim, value_dim in ODD_HEAD_DIMS:
        query, key, value = (torch.empty(1, 2, 519, size, dtype=torch.float16) for size in (head_dim, head_dim, value_dim))
        for compiled in compile_call(target, query, key, value, Spec(0.1, True), Extras()):
            yield head_dim, value_dim, compiled


def compile_decoding(target, everything=False):
    """(dtype, head_dim, where keys lie, Compiled) of decoding with every feature, and of what writes into a cache.

    With `everything` in every dtype and head dim, otherwise in one.
    """
    lengths, table = torch.zeros(2, dtype=torch.int32), torch.zeros(2, 16, dtype=torch.int32)
    spec, extras = Spec(0.1, True, (100, 0), True, 3.0), Extras(alibi_slopes=torch.zeros(1, 4), sinks=torch.zeros(4))
    scales, angles = (torch.zeros(2), torch.zeros(2)), (torch.zeros(64, 16), torch.zeros(64, 16))
    wheres = {"whole": (1024, None, None), "pages of 64": (64, table, None), "pages of 16": (16, table, None)}
    wheres |= {"fp8": (1024, None, scales)} if target_number(target) >= FP8_FROM else {}
    for dtype in DTYPES if everything else DTYPES[:1]:
        for head_dim in HEAD_DIMS if everything else (128,):
            for where, (length, pages, fp8) in wheres.items():
                query, new = torch.empty(2, 4, 1, head_dim, dtype=dtype), torch.empty(2, 2, 1, head_dim, dtype=dtype)
                caches = [torch.empty(32, 2, length, head_dim, dtype=torch.float8_e4m3fn if fp8 else dtype) for _ in range(2)]
                found = []
                with as_if_on(target, collecting(found, target)):
                    decode.append(new, new, *caches, lengths, pages, fp8, *angles)
                    decode.rotate(query, lengths, *angles, False, True)
                    decode.decode(query, *caches, spec, extras, lengths, 1, pages, fp8, splits=3)
                for compiled in found:
                    yield dtype, head_dim, where, compiled


def target_number(target):
    """(major, minor) of a GPU from NVIDIA; AMD's is none of them."""
    return (0, 0) if target == "gfx942" else divmod(int(target.removeprefix("sm_")), 10)
