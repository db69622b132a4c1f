"""Before the ladder turns to Triton: three kernels that teach programs, pointers, masks and tiles."""

import torch
import triton
import triton.language as tl


@triton.jit
def add_kernel(X, Y, Out, n, BLOCK: tl.constexpr):
    """Out = X + Y, one block of numbers a program."""
    block = tl.program_id(0)
    offsets = block * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    inside = offsets < n  # the last block may reach past the end
    x = tl.load(X + offsets, mask=inside)
    y = tl.load(Y + offsets, mask=inside)
    tl.store(Out + offsets, x + y, mask=inside)


def add(x, y, BLOCK=64):
    """x + y for two contiguous tensors of one shape."""
    out = torch.empty_like(x)
    add_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, y, out, x.numel(), BLOCK)
    return out


@triton.jit
def softmax_kernel(X, Out, columns, BLOCK: tl.constexpr):
    """One row a program: read once, kept in SRAM for maximum, exponential and sum, written once."""
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)  # [BLOCK]
    inside = offsets < columns
    x = tl.load(X + row * columns + offsets, mask=inside, other=-float("inf"))  # exp(−inf) = 0 adds nothing
    p = tl.exp(x - tl.max(x, axis=0))
    tl.store(Out + row * columns + offsets, p / tl.sum(p, axis=0), mask=inside)


def softmax(x):
    """Softmax over the last axis of a contiguous (rows, columns) float32 tensor."""
    rows, columns = x.shape
    out = torch.empty_like(x)
    softmax_kernel[(rows,)](x, out, columns, triton.next_power_of_2(columns))
    return out


@triton.jit
def matmul_kernel(A, B, Out, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """Out (M, N) = A (M, K) · B (K, N): one tile of Out a program, which walks along K."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, K, BLOCK_K):
        inner = start + tl.arange(0, BLOCK_K)
        a = tl.load(  # [BLOCK_M, BLOCK_K]
            A + rows[:, None] * K + inner[None, :], mask=(rows[:, None] < M) & (inner[None, :] < K), other=0.0
        )
        b = tl.load(  # [BLOCK_K, BLOCK_N]
            B + inner[:, None] * N + cols[None, :], mask=(inner[:, None] < K) & (cols[None, :] < N), other=0.0
        )
        acc = tl.dot(a, b, acc, input_precision="ieee")
    tl.store(Out + rows[:, None] * N + cols[None, :], acc, mask=(rows[:, None] < M) & (cols[None, :] < N))


def matmul(a, b, BLOCK=32):
    """a @ b for contiguous float16 or float32 matrices of any size."""
    (M, K), N = a.shape, b.shape[1]
    out = torch.empty((M, N), dtype=a.dtype, device=a.device)
    matmul_kernel[(triton.cdiv(M, BLOCK), triton.cdiv(N, BLOCK))](a, b, out, M, N, K, BLOCK, BLOCK, BLOCK)
    return out
