"""delta = rowsum(dO ∘ O): one number a row, computed once and read by both kernels that follow."""

import torch
import triton
import triton.language as tl


@triton.jit
def delta_kernel(dOut, Out, Delta, rows_total, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    inside = (rows < rows_total)[:, None] & (dims < D)[None, :]
    do = tl.load(dOut + rows[:, None] * D + dims[None, :], mask=inside, other=0.0).to(tl.float32)  # [BLOCK_M, BLOCK_D]
    out = tl.load(Out + rows[:, None] * D + dims[None, :], mask=inside, other=0.0).to(tl.float32)  # [BLOCK_M, BLOCK_D]
    tl.store(Delta + rows, tl.sum(do * out, axis=1), mask=rows < rows_total)


def compute_delta(dOut, Out, BLOCK_M=32):
    """(B, H, Sq), float32, from contiguous dOut and Out (B, H, Sq, D)."""
    D = Out.shape[-1]
    Delta = torch.empty(Out.shape[:-1], dtype=torch.float32, device=Out.device)
    grid = (triton.cdiv(Delta.numel(), BLOCK_M),)
    delta_kernel[grid](dOut, Out, Delta, Delta.numel(), D=D, BLOCK_D=max(16, triton.next_power_of_2(D)), BLOCK_M=BLOCK_M)
    return Delta
