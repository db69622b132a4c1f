"""Tile sizes, by kernel, GPU architecture, head dim and dtype. Nothing is tuned at import or at the first call.

A row of the table must fit the shared memory of every architecture it serves; tests compile each one and hold it to that.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton


@dataclass(frozen=True)
class Config:
    """Tile sizes and launch shape of one kernel."""

    BLOCK_M: int  # rows of Q in a tile
    BLOCK_N: int  # rows of K and V in a tile
    num_warps: int
    num_stages: int

    def launch_arguments(self, head_dim):
        return dict(
            BLOCK_M=self.BLOCK_M, BLOCK_N=self.BLOCK_N, BLOCK_D=block_d(head_dim), num_warps=self.num_warps, num_stages=self.num_stages
        )


DELTA = Config(BLOCK_M=64, BLOCK_N=0, num_warps=4, num_stages=1)

# Hopper data centre (227 KiB of shared memory): measured on an H200.
HOPPER = {
    ("forward", 64): Config(128, 64, num_warps=4, num_stages=3),
    ("forward", 128): Config(128, 128, num_warps=8, num_stages=2),
    ("dkdv", 64): Config(64, 64, num_warps=4, num_stages=2),
    ("dkdv", 128): Config(64, 64, num_warps=4, num_stages=2),
    ("dq", 64): Config(64, 64, num_warps=4, num_stages=3),
    ("dq", 128): Config(128, 128, num_warps=8, num_stages=2),
}

# Every other GPU with tensor cores: sized to the 99 KiB of consumer Ampere and Ada, which A100 and Blackwell exceed.
PORTABLE = {
    ("forward", 64): Config(64, 64, num_warps=4, num_stages=2),
    ("forward", 128): Config(64, 32, num_warps=4, num_stages=2),
    ("dkdv", 64): Config(64, 64, num_warps=4, num_stages=1),
    ("dkdv", 128): Config(32, 64, num_warps=4, num_stages=1),
    ("dq", 64): Config(64, 64, num_warps=4, num_stages=1),
    ("dq", 128): Config(64, 32, num_warps=4, num_stages=1),
}

# float32 with IEEE dots runs on the ordinary cores, and its tiles are twice as large: small ones everywhere.
FLOAT32 = {
    ("forward", 64): Config(32, 32, num_warps=4, num_stages=1),
    ("forward", 128): Config(32, 32, num_warps=4, num_stages=1),
    ("dkdv", 64): Config(32, 32, num_warps=4, num_stages=1),
    ("dkdv", 128): Config(32, 32, num_warps=4, num_stages=1),
    ("dq", 64): Config(32, 32, num_warps=4, num_stages=1),
    ("dq", 128): Config(32, 32, num_warps=4, num_stages=1),
}

# Turing (T4) has 64 KiB, and Triton multiplies there without tensor cores: what would not fit becomes smaller.
TURING = {**PORTABLE, ("dkdv", 128): Config(32, 32, num_warps=4, num_stages=1), ("dq", 128): Config(32, 32, num_warps=4, num_stages=1)}
TURING_FLOAT32 = {**FLOAT32, ("dkdv", 128): Config(16, 32, num_warps=4, num_stages=1)}


def choose(kernel, query):
    """The Config of `kernel` ("forward", "delta", "dkdv" or "dq") for a query of this device, dtype and head dim."""
    capability = _capability(query.device.index) if query.is_cuda else (0, 0)
    return lookup(kernel, capability, query.dtype, query.shape[-1])


def lookup(kernel, capability, dtype, head_dim):
    """The Config for a compute capability (major, minor); (0, 0) stands for Triton's interpreter."""
    if kernel == "delta":
        return DELTA
    if capability[0] == 7:
        table = TURING_FLOAT32 if dtype == torch.float32 else TURING
    elif dtype == torch.float32:
        table = FLOAT32
    elif capability[0] == 9:
        table = HOPPER
    else:
        table = PORTABLE
    return table[kernel, 64 if head_dim <= 64 else 128]


def block_d(head_dim):
    """Tiles have a power of two of columns, and tensor cores want 16 or more."""
    return max(16, triton.next_power_of_2(head_dim))


def dot_precision():
    """How float32 tiles are multiplied: exactly, unless the user allowed TF32 through torch's own switch."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@lru_cache
def _capability(device_index):
    return torch.cuda.get_device_capability(device_index)
