"""Counted memory: NumPy arrays that live in a pretend GPU memory and count every byte that crosses HBM ⇄ SRAM.

    hbm = HBM(sram_bytes=100 * 1024)
    Q = hbm.array(q)        # placing an array is free
    tile = Q[0:64]          # reading a slice copies it into SRAM, and counts
    Out[0:64] = tile * 2    # assigning a slice copies it back, and counts
    hbm.bytes_read, hbm.bytes_written, hbm.sram_peak

Arrays computed from tiles live in SRAM too, until Python frees them. Past the budget, `SRAMOverflow` is raised.
Beside it: the formulas of the paper for the same traffic, and the roofline of some named GPUs.
"""

import math
import weakref
from dataclasses import dataclass

import numpy as np


class SRAMOverflow(MemoryError):
    """What a step holds in SRAM at once does not fit the budget."""


class HBM:
    """A GPU's large memory, with a counter on its door and a small SRAM behind it."""

    def __init__(self, sram_bytes=None):
        """sram_bytes: raise when tiles and what is computed from them exceed this; None for no limit."""
        self.sram_bytes = sram_bytes
        self._live = {}  # id of a buffer in SRAM -> its bytes
        self.reset()

    def reset(self):
        """Start counting anew."""
        self.bytes_read = self.bytes_written = self.sram_peak = 0

    @property
    def bytes_moved(self):
        return self.bytes_read + self.bytes_written

    @property
    def sram_used(self):
        """Bytes in SRAM right now."""
        return sum(self._live.values())

    def array(self, values):
        """Place a copy of an array in HBM. Not counted: it is there when the kernel starts."""
        return HBMArray(self, np.array(values))

    def empty(self, shape, dtype=np.float32):
        """Room in HBM for a result. It holds NaN until something is written there."""
        return HBMArray(self, np.full(shape, np.nan, dtype))

    def _hold(self, buffer):
        if id(buffer) in self._live:
            return
        self._live[id(buffer)] = buffer.nbytes
        weakref.finalize(buffer, self._live.pop, id(buffer), None)
        self.sram_peak = max(self.sram_peak, self.sram_used)
        if self.sram_bytes is not None and self.sram_used > self.sram_bytes:
            raise SRAMOverflow(
                f"SRAM holds {self.sram_used:,} bytes after adding an array of shape {buffer.shape} ({buffer.nbytes:,} bytes); "
                f"the budget is {self.sram_bytes:,}. Use smaller tiles, or let go of what is no longer needed."
            )


class HBMArray:
    """An array in HBM. Slices read from it arrive in SRAM as plain NumPy arrays; assigned slices go back."""

    def __init__(self, hbm, values):
        self._hbm = hbm
        self._values = values
        self.bytes_read = 0  # of this array alone

    shape = property(lambda self: self._values.shape)
    dtype = property(lambda self: self._values.dtype)
    nbytes = property(lambda self: self._values.nbytes)

    @property
    def T(self):
        raise TypeError("this array lies in HBM, where nothing is computed: read a tile of it, as k = K[cols], and then take k.T")

    def __len__(self):
        return len(self._values)

    def __getitem__(self, index):
        tile = np.array(self._values[index]).view(_Tile)
        tile.hbm = self._hbm
        self._hbm.bytes_read += tile.nbytes
        self.bytes_read += tile.nbytes
        self._hbm._hold(_buffer(tile))
        return tile

    def __setitem__(self, index, tile):
        self._values[index] = tile
        self._hbm.bytes_written += self._values[index].nbytes

    def numpy(self):
        """A copy to look at. Not counted: this is you looking, not the kernel."""
        return self._values.copy()

    def __repr__(self):
        return f"HBMArray(shape={self.shape}, dtype={self.dtype}, bytes={self.nbytes:,})"


class _Tile(np.ndarray):
    """An array in SRAM. Whatever NumPy computes from it is a `_Tile` of the same HBM, and is held against the budget."""

    hbm = None

    def __array_finalize__(self, source):
        self.hbm = getattr(source, "hbm", None)
        if self.hbm is not None and self.nbytes:
            self.hbm._hold(_buffer(self))

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return array[()] if return_scalar else super().__array_wrap__(array, context)


def _buffer(array):
    """The array that owns the memory which `array` looks at."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


# ------------------------------------------------------------------------------------------------ what the traffic should be


def naive_bytes(seqlen, head_dim, itemsize=4):
    """HBM traffic of three kernels that pass S×S matrices to each other (Dao et al. 2022, Algorithm 0).

    Reads Q, K, S, P, V; writes S, P, Out. Each matrix once: what a perfect matrix product would move.
    """
    return itemsize * (4 * seqlen * head_dim + 4 * seqlen**2)


def tiled_bytes(seqlen_q, seqlen_k, head_dim, BLOCK_M, itemsize=4):
    """HBM traffic of the tiled forward pass: Q, Out and lse once, K and V once for every tile of queries."""
    passes = math.ceil(seqlen_q / BLOCK_M)
    return itemsize * (2 * seqlen_q * head_dim + seqlen_q + passes * 2 * seqlen_k * head_dim)


def tiled_backward_bytes(seqlen_q, seqlen_k, head_dim, BLOCK_M, BLOCK_N, itemsize=4):
    """HBM traffic of the tiled backward pass: delta, then dK and dV, then dQ."""
    delta = 2 * seqlen_q * head_dim + seqlen_q
    dkdv = 4 * seqlen_k * head_dim + math.ceil(seqlen_k / BLOCK_N) * (2 * seqlen_q * head_dim + 2 * seqlen_q)
    dq = 3 * seqlen_q * head_dim + 2 * seqlen_q + math.ceil(seqlen_q / BLOCK_M) * 2 * seqlen_k * head_dim
    return itemsize * (delta + dkdv + dq)


def paper_bytes(seqlen, head_dim, sram_bytes, itemsize=4):
    """The paper's Θ(S² D² / M) for SRAM of M numbers (Dao et al. 2022, Theorem 2), with the constant of the tiled forward pass.

    Four tiles of M / 4D rows fill the SRAM (as in the paper's Algorithm 1), so K and V are read 4 S D / M times.
    """
    sram = sram_bytes / itemsize
    return itemsize * (2 * seqlen * head_dim + 8 * seqlen**2 * head_dim**2 / sram)


# ------------------------------------------------------------------------------------------------------------------ roofline


@dataclass(frozen=True)
class GPU:
    """What a vendor's datasheet says of a GPU. Rates are for dense float16 or bfloat16 on tensor cores."""

    name: str
    tflops: float  # 10¹² floating-point operations a second
    gigabytes_per_second: float  # HBM (or GDDR) bandwidth
    multiprocessors: int
    sram_kib: int  # shared memory that one program may use on a multiprocessor
    memory_gb: int  # size of the large memory, 10⁹ bytes
    threads: int  # that a multiprocessor keeps at once

    @property
    def ridge(self):
        """Operations a byte at which arithmetic and memory take equally long."""
        return self.tflops * 1e12 / (self.gigabytes_per_second * 1e9)

    def attainable(self, intensity):
        """The roof: TFLOP/s that code of this intensity (operations a byte) can reach (Williams et al. 2009)."""
        return np.minimum(self.tflops, intensity * self.gigabytes_per_second * 1e9 / 1e12)

    def seconds(self, flops, bytes_moved):
        """The least time for this much arithmetic and this much traffic, when they overlap perfectly."""
        return max(flops / (self.tflops * 1e12), bytes_moved / (self.gigabytes_per_second * 1e9))


GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("T4", 65, 320, 40, 64, 16, 1024),
        GPU("L4", 121, 300, 58, 99, 24, 1536),
        GPU("RTX 4090", 165, 1008, 128, 99, 24, 1536),
        GPU("A100", 312, 2039, 108, 163, 80, 2048),
        GPU("H100", 989, 3350, 132, 227, 80, 2048),
        GPU("H200", 989, 4800, 132, 227, 141, 2048),
    )
}


def attention_flops(seqlen_q, seqlen_k, head_dim, is_causal=False):
    """Operations of one head's forward pass: two matrix products, 4·Sq·Sk·D; half of it when causal."""
    return 4 * seqlen_q * seqlen_k * head_dim * (0.5 if is_causal else 1)
