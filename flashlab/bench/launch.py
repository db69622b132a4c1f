"""What a call costs before the GPU begins: CPU time of a small call, flashlab's and that of SDPA."""

import statistics
import time

import torch
import torch.nn.functional as F

from flashlab import attention

BATCH, HEADS, SEQLEN, HEAD_DIM = 1, 8, 128, 64
CALLS, BATCHES = 100, 7


def measure(device="cuda"):
    """One row: microseconds of the CPU, medians of batches of calls."""
    shape = (BATCH, HEADS, SEQLEN, HEAD_DIM)
    query, key, value = (torch.randn(shape, dtype=torch.bfloat16, device=device, requires_grad=True) for _ in range(3))
    row = dict(batch=BATCH, heads=HEADS, seqlen=SEQLEN, head_dim=HEAD_DIM, dtype="bfloat16")
    for name, attend in (("flashlab", attention), ("sdpa", F.scaled_dot_product_attention)):
        row[f"{name}_us"] = _microseconds(lambda attend=attend: attend(query, key, value), device)
        with torch.no_grad():
            row[f"{name}_no_grad_us"] = _microseconds(lambda attend=attend: attend(query, key, value), device)
    return row


def _microseconds(call, device):
    """CPU time of a call. The GPU may still be busy with the last ones of a batch, and is waited for between batches."""
    found = []
    for _ in range(BATCHES + 1):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        found.append(1e6 * (time.perf_counter() - start) / CALLS)
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
    return statistics.median(found[1:])  # the first batch compiles
