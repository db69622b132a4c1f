"""What this GPU can do at best: the two roofs over every kernel, measured."""

import torch

from flashlab.bench.timing import milliseconds

SIZE = 8192  # of a square matrix product
COPIED_BYTES = 2**30


def measure():
    """TFLOP/s of torch's matrix product in 16 bits, and TB/s of a copy, read and written."""
    dtype = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    a, b = (torch.randn(SIZE, SIZE, dtype=dtype, device="cuda") for _ in range(2))
    source = torch.empty(COPIED_BYTES, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    product, copy = milliseconds(lambda: a @ b), milliseconds(lambda: target.copy_(source))
    return dict(dtype=str(dtype).removeprefix("torch."), matmul_tflops=2 * SIZE**3 / product / 1e9, copy_tb_s=2 * COPIED_BYTES / copy / 1e9)
