"""Tile sizes, by kernel, GPU architecture, head dim and dtype. Nothing is tuned at import or at the first call.

A row of the table must fit the shared memory of every architecture it serves; tests compile each one and hold it to that.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import triton

from flashlab.blocks import OWN_ROWS
from flashlab.kernels import tuned, turing
from flashlab.layout import allows_tf32
from flashlab.spec import UNLIMITED


@dataclass(frozen=True)
class Config:
    """Tile sizes and launch shape of one kernel."""

    BLOCK_M: int  # rows of Q in a tile
    BLOCK_N: int  # rows of K and V in a tile
    num_warps: int
    num_stages: int
    arch: str | None = None  # what Triton lowers the kernel for, where that is not the GPU it runs on

    def launch_arguments(self, query, value):
        return dict(
            HEAD_DIM=query.shape[-1], VALUE_DIM=value.shape[-1], PRECISION=dot_precision(),
            BLOCK_M=self.BLOCK_M, BLOCK_N=self.BLOCK_N, BLOCK_D=block_d(query.shape[-1]), BLOCK_V=block_d(value.shape[-1]),
            num_warps=self.num_warps, num_stages=self.num_stages, arch=self.arch,
        )  # fmt: skip


INTERPRETER = (0, 0)

DELTA = Config(BLOCK_M=64, BLOCK_N=0, num_warps=4, num_stages=1)

# Hopper data centre (227 KiB of shared memory): the best of a few tried on an H100; those by descriptors on an H200.
HOPPER = {
    ("forward", 64): Config(64, 64, num_warps=4, num_stages=3),
    ("forward", 128): Config(64, 64, num_warps=4, num_stages=3),
    ("forward", 256): Config(128, 32, num_warps=8, num_stages=3),
    ("dkdv", 64): Config(64, 64, num_warps=4, num_stages=3),
    ("dkdv", 128): Config(64, 128, num_warps=8, num_stages=3),
    ("dkdv", 256): Config(64, 64, num_warps=8, num_stages=2),
    ("dq", 64): Config(64, 64, num_warps=4, num_stages=3),
    ("dq", 128): Config(128, 64, num_warps=8, num_stages=3),
    ("dq", 256): Config(128, 32, num_warps=8, num_stages=2),
    ("mask_gradient", 64): Config(64, 64, num_warps=4, num_stages=2),
    ("mask_gradient", 128): Config(64, 64, num_warps=4, num_stages=1),
    ("mask_gradient", 256): Config(64, 32, num_warps=4, num_stages=1),
}

# What is chosen instead there. The first whose condition holds counts; see `_choose_on_hopper`.
HOPPER_MASK_TILE = {  # an attn_mask of which each program loads tiles: they take shared memory as well
    ("forward", 128): Config(128, 64, num_warps=8, num_stages=3),
}
HOPPER_MASK_ROW = {  # an attn_mask that is the same for all rows, as padding is, or for all keys
    ("forward", 64): Config(128, 64, num_warps=4, num_stages=3),
}
HOPPER_MASK_MOD = {
    ("dkdv", 64): Config(64, 64, num_warps=4, num_stages=2),
    ("dq", 128): Config(64, 64, num_warps=4, num_stages=2),
}
# Tiles that the copy engine brings take no registers on their way (see `can_describe`), so more fits in.
HOPPER_DESCRIBED = {
    ("dkdv", 64): Config(128, 64, num_warps=4, num_stages=2),
    ("dkdv", 128): Config(64, 64, num_warps=4, num_stages=2),
}
HOPPER_DESCRIBED_PLAIN = {  # no feature but the band of a causal mask or a window, and sinks
    ("forward", 256): Config(128, 64, num_warps=8, num_stages=2),
    ("dq", 64): Config(64, 64, num_warps=4, num_stages=3),
    ("dq", 256): Config(128, 32, num_warps=8, num_stages=3),
}
HOPPER_DESCRIBED_FULL = {  # nor that band
    ("forward", 64): Config(64, 128, num_warps=4, num_stages=2),
}
HOPPER_DESCRIBED_FULL_LONG = {  # and many keys
    ("forward", 128): Config(128, 128, num_warps=8, num_stages=3),
}
HOPPER_FULL = {  # no mask and no feature at all
    ("dq", 64): Config(128, 64, num_warps=8, num_stages=3),
}
HOPPER_WINDOW = {  # with an edge on both sides
    ("dq", 128): Config(64, 64, num_warps=4, num_stages=2),
}

# Every other GPU with tensor cores: sized to the 99 KiB of consumer Ampere and Ada, which A100 and Blackwell exceed.
PORTABLE = {
    ("forward", 64): Config(64, 64, num_warps=4, num_stages=2),
    ("forward", 128): Config(64, 32, num_warps=4, num_stages=2),
    ("dkdv", 64): Config(64, 64, num_warps=4, num_stages=1),
    ("dkdv", 128): Config(32, 64, num_warps=4, num_stages=1),
    ("dq", 64): Config(64, 64, num_warps=4, num_stages=1),
    ("dq", 128): Config(64, 32, num_warps=4, num_stages=1),
    ("forward", 256): Config(64, 32, num_warps=8, num_stages=1),
    ("dkdv", 256): Config(32, 32, num_warps=4, num_stages=1),
    ("dq", 256): Config(32, 32, num_warps=4, num_stages=1),
    ("mask_gradient", 64): Config(64, 64, num_warps=4, num_stages=1),
    ("mask_gradient", 128): Config(64, 32, num_warps=4, num_stages=1),
    ("mask_gradient", 256): Config(32, 32, num_warps=4, num_stages=1),
}

# float32 with IEEE dots runs on the ordinary cores, and its tiles are twice as large: small ones everywhere.
FLOAT32 = {
    ("forward", 64): Config(32, 32, num_warps=4, num_stages=1),
    ("forward", 128): Config(32, 32, num_warps=4, num_stages=1),
    ("dkdv", 64): Config(32, 32, num_warps=4, num_stages=1),
    ("dkdv", 128): Config(32, 32, num_warps=8, num_stages=1),
    ("dq", 64): Config(32, 32, num_warps=4, num_stages=1),
    ("dq", 128): Config(32, 32, num_warps=4, num_stages=1),
    ("forward", 256): Config(16, 16, num_warps=4, num_stages=1),
    ("dkdv", 256): Config(16, 16, num_warps=8, num_stages=1),
    ("dq", 256): Config(16, 16, num_warps=4, num_stages=1),
    ("mask_gradient", 64): Config(32, 32, num_warps=4, num_stages=1),
    ("mask_gradient", 128): Config(32, 32, num_warps=4, num_stages=1),
    ("mask_gradient", 256): Config(16, 16, num_warps=4, num_stages=1),
}

# Turing (T4) has 64 KiB. float16 goes through tensor cores (`flashlab.kernels.turing`), in tiles that spill nothing with any feature.
TURING_TENSOR_CORES = {
    key: Config(*tiles, num_stages=1, arch=turing.ARCH)
    for key, tiles in {
        ("forward", 64): (128, 32, 8), ("forward", 128): (64, 64, 8),
        ("dkdv", 64): (32, 32, 4), ("dkdv", 128): (32, 32, 8),
        ("dq", 64): (64, 32, 4), ("dq", 128): (32, 32, 8),
        ("mask_gradient", 64): (32, 32, 8), ("mask_gradient", 128): (32, 16, 8),
    }.items()
}  # fmt: skip

# Everything else Triton multiplies there without tensor cores, on ordinary registers: small tiles.
TURING = {
    (kernel, head_dim): Config(BLOCK, BLOCK, num_warps=warps, num_stages=1)
    for kernel in ("forward", "dkdv", "dq", "mask_gradient")
    for head_dim, BLOCK, warps in ((64, 32, 8), (128, 32, 8), (256, 16, 8))
}
TURING_FLOAT32 = {key: Config(16, 16, num_warps=4, num_stages=1) for key in TURING}
TURING_FLOAT32["dkdv", 256] = Config(16, 8, num_warps=4, num_stages=1)
TURING_FLOAT32["dq", 256] = Config(8, 16, num_warps=4, num_stages=1)

# AMD's MI300 has 64 KiB as well, and matrix cores. Compiled, never run.
AMD = {**PORTABLE, ("forward", 256): Config(32, 32, num_warps=4, num_stages=1)}


@dataclass(frozen=True)
class Decoding:
    """How a cache of keys is read: it is bytes under way that count, not products."""

    BLOCK_N: int  # keys of a tile
    num_warps: int
    num_stages: int
    neighbours: int  # programs to a multiprocessor, by which splits are counted


# For head dim 128 the best of those tried on an H200; others fit, and were not tried. Pages cost addresses: smaller tiles, more programs.
DECODE_HOPPER = {64: Decoding(128, 4, 3, 1), 128: Decoding(128, 4, 3, 1), 256: Decoding(64, 4, 2, 1)}
DECODE_HOPPER_PAGES = {64: Decoding(64, 2, 3, 4), 128: Decoding(64, 2, 3, 4), 256: Decoding(32, 2, 3, 4)}
DECODE_HOPPER_FP8 = {64: Decoding(128, 4, 3, 2), 128: Decoding(128, 4, 3, 2), 256: Decoding(64, 4, 2, 2)}
DECODE_PORTABLE = {64: Decoding(64, 4, 2, 2), 128: Decoding(64, 4, 2, 2), 256: Decoding(32, 4, 2, 2)}
DECODE_TURING = {64: Decoding(64, 4, 1, 2), 128: Decoding(64, 4, 1, 2), 256: Decoding(32, 4, 1, 2)}
DECODE_FLOAT32 = {64: Decoding(32, 4, 1, 2), 128: Decoding(32, 4, 1, 2), 256: Decoding(16, 4, 1, 2)}


def choose_decoding(query, value_dim, paged=False, fp8=False):
    """The Decoding of a call of this device, dtype and head dims; of a cache in pages, or in fp8."""
    target, head_dim = target_of(query), head_dim_class(max(query.shape[-1], value_dim))
    if query.dtype == torch.float32:
        table = DECODE_FLOAT32
    elif target == (9, 0):
        table = DECODE_HOPPER_PAGES if paged else DECODE_HOPPER_FP8 if fp8 else DECODE_HOPPER
    else:
        table = DECODE_TURING if target == "gfx942" or target[0] == 7 else DECODE_PORTABLE
    return table[head_dim]


def choose(kernel, query, value, spec, extras, described=False):
    """The Config of `kernel` ("forward", "delta", "dkdv", "dq" or "mask_gradient") for a call of this device, dtype and head dims.

    described: whether its tiles come by descriptors, see `can_describe`.
    """
    if kernel == "delta":
        return DELTA
    config = _choose(kernel, query, value, spec, extras, described)
    if extras.row_blocks is not None and kernel in ("forward", "dq"):
        return _of_one_list(config)
    return config


def _choose(kernel, query, value, spec, extras, described):
    target, is_float32 = target_of(query), query.dtype == torch.float32
    head_dim = max(query.shape[-1], value.shape[-1])
    key = kernel, head_dim_class(head_dim)
    if is_plain(spec, extras):
        tiles = _measured(query).get((*key, query.dtype, is_banded(spec), has_few_keys(value, spec, extras)))
        if tiles is not None:
            return of_tiles(tiles, query, value)
    if target == "gfx942":
        return (FLOAT32 if is_float32 else AMD)[key]
    if turing.serves(target, query.dtype, head_dim):
        return TURING_TENSOR_CORES[key]
    if target[0] == 7:
        return (TURING_FLOAT32 if is_float32 else TURING)[key]
    if is_float32:
        return FLOAT32[key]
    if target[0] == 9:
        return _choose_on_hopper(key, value, spec, extras, described)
    return PORTABLE[key]


def _choose_on_hopper(key, value, spec, extras, described):
    mask, plain = extras.attn_mask, is_plain(spec, extras)
    mask_is_row, full = mask is not None and 1 in mask.shape[2:], plain and not is_banded(spec)
    for table, applies in (
        (HOPPER_MASK_TILE, mask is not None and not mask_is_row),
        (HOPPER_MASK_ROW, mask_is_row),
        (HOPPER_MASK_MOD, spec.mask_mod is not None),
        (HOPPER_DESCRIBED_FULL_LONG, described and full and not has_few_keys(value, spec, extras)),
        (HOPPER_DESCRIBED_FULL, described and full),
        (HOPPER_DESCRIBED_PLAIN, described and plain),
        (HOPPER_DESCRIBED, described),
        (HOPPER_FULL, full),
        (HOPPER_WINDOW, plain and UNLIMITED not in spec.edges),
    ):
        if applies and key in table:
            return table[key]
    return HOPPER[key]


def _of_one_list(config):
    """The Config whose tile of rows has one list of blocks to walk along: fewer rows and as many fewer warps."""
    if config.BLOCK_M <= OWN_ROWS:
        return config
    return replace(config, BLOCK_M=OWN_ROWS, num_warps=max(4, config.num_warps * OWN_ROWS // config.BLOCK_M))


def head_dim_class(head_dim):
    """The tables' head dim for one that is in between."""
    return next(size for size in (64, 128, 256) if head_dim <= size)


def is_plain(spec, extras):
    """Whether a call has no feature but the band of a causal mask or a window, sinks, and packed sequences."""
    shaped = extras.attn_mask is not None or extras.alibi_slopes is not None or spec.softcap or spec.dropout_p or spec.bias_mod
    return spec.mask_mod is None and not shaped


def is_banded(spec):
    """Whether a causal mask or a window hides some keys."""
    return spec.edges != (UNLIMITED, UNLIMITED)


FEW_KEYS = 2048  # `flashlab tune` measures calls on either side of it


def has_few_keys(value, spec, extras):
    """Whether the walks of a call are short."""
    return keys_of_a_row(value.shape[2], spec, extras) <= FEW_KEYS


def of_tiles(tiles, query, value):
    """The Config of (BLOCK_M, BLOCK_N, num_warps, num_stages) for a call's device, dtype and head dims."""
    served = turing.serves(target_of(query), query.dtype, max(query.shape[-1], value.shape[-1]))
    return Config(*tiles, arch=turing.ARCH if served else None)


def _measured(query):
    """What `flashlab tune` has found best for this GPU: {(kernel, head dim, dtype, banded, few keys): tiles}."""
    return _measured_on(query.device.index) if query.is_cuda else {}


@lru_cache
def _measured_on(index):
    return {
        (kernel, head_dim, getattr(torch, dtype), banded, few_keys): tiles
        for (kernel, head_dim, dtype, banded, few_keys), tiles in tuned.measured(index).items()
    }


def keys_of_a_row(seqlen_k, spec, extras):
    """About how many keys a row visits: half of them where the mask has one edge. What a mask_mod hides is not known here."""
    if extras.cu_seqlens_k is not None:
        seqlen_k //= max(1, len(extras.cu_seqlens_k) - 1)
    left, right = spec.edges
    if UNLIMITED not in (left, right):
        return min(seqlen_k, left + right + 1)
    return seqlen_k if left == right else seqlen_k // 2


def block_d(head_dim):
    """Tiles have a power of two of columns, and tensor cores want 16 or more."""
    return max(16, triton.next_power_of_2(head_dim))


def dot_precision():
    """How float32 tiles are multiplied: exactly, unless the user allowed TF32 through torch's own switch."""
    return "tf32" if allows_tf32() else "ieee"


def target_of(query):
    """What a call will be compiled for: a compute capability, AMD's architecture, or INTERPRETER."""
    return _device(query.device.index) if query.is_cuda else INTERPRETER


def can_overlap(query):
    """Whether a kernel may begin while the one before it ends (programmatic dependent launch: Hopper and newer)."""
    return query.is_cuda and torch.version.hip is None and target_of(query) >= (9, 0)


DESCRIBED_ROWS = 512  # of fewer, what a descriptor costs the CPU in each call is more than what it saves the GPU


def can_describe(kernel, walked, spec, extras):
    """Whether a kernel takes the tensors whose tiles it walks over as descriptors: Hopper's copy engine then brings each tile at once.

    It wants rows that begin at multiples of 16 bytes. And where packed sequences end it would bring rows of the next.
    """
    walked = tuple(walked)
    if kernel == "dkdv" and walked[0].shape[3] <= 64 and (spec.softcap or spec.dropout_p):
        return False  # what they take of registers is what HOPPER_DESCRIBED's tiles would need
    return extras.cu_seqlens_k is None and all(
        target_of(x) == (9, 0) and x.dtype != torch.float32 and x.shape[2] >= DESCRIBED_ROWS and is_aligned(x) for x in walked
    )


def is_aligned(x):
    """Whether a descriptor can say where a tensor's rows lie."""
    return x.stride(3) == 1 and all(offset % 16 == 0 for offset in (x.data_ptr(), *(stride * x.itemsize for stride in x.stride()[:3])))


def has_fast_tanh(query):
    """Whether the GPU's own approximate tanh may serve: its error, 2⁻¹¹, is less than the rounding of 16-bit inputs."""
    return query.is_cuda and query.dtype != torch.float32 and torch.version.hip is None


@lru_cache
def _device(index):
    return "gfx942" if torch.version.hip else torch.cuda.get_device_capability(index)
