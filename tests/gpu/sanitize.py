"""A few small calls for compute-sanitizer, which finds reads and writes out of bounds, and races. `make gpu-sanitize` runs it.

Not a test by itself: compute-sanitizer is the judge.
"""

import itertools

import torch

from flashlab import attention, attention_decode, attention_varlen
from flashlab.attention import forget
from flashlab.kernels import hopper
from tests.library.test_decode import paged, problem
from tests.protocol import Case, attention_and_gradients

CASES = [
    (Case(67, 93, 40, True), torch.float16),
    (Case(130, 70, 64, heads=2, heads_kv=1, features=("window", "bottom_right")), torch.bfloat16),
    (Case(70, 130, 128, features=("bias", "sinks", "dropout", "softcap")), torch.bfloat16),
    (Case(130, 130, 64, features=("document_blocks", "alibi")), torch.float16),
    (Case(33, 65, 16, features=("key_bias",)), torch.float32),
    (Case(515, 520, 64, True), torch.bfloat16),  # from 512 rows on, the copy engine of a Hopper GPU brings the tiles
    (Case(600, 513, 128, features=("window",)), torch.float16),
]


BY_HAND = [  # taken, on a Hopper GPU, by the kernels that are scheduled by hand
    (Case(515, 520, 64, True), torch.bfloat16),
    (Case(300, 413, 128, features=("window",), heads=2, heads_kv=1), torch.float16),
    (Case(413, 300, 128, True, features=("bottom_right",)), torch.bfloat16),
    (Case(130, 150, 128, True, heads=140), torch.bfloat16),  # more jobs than there are multiprocessors
    (Case(130, 150, 64, True, heads=140), torch.bfloat16),
    (Case(131, 150, 64, True, heads=2, heads_kv=1, features=("alibi", "padding", "sinks")), torch.bfloat16),
    (Case(131, 150, 128, features=("key_bias",)), torch.float16),
]


def main():
    for case, dtype in CASES:
        attention_and_gradients(attention, case.tensors(dtype, "cuda"), case.options(dtype, "cuda"))
    forget()
    hopper.FEWEST_QUERIES, hopper.FEWEST_OPERATIONS, hopper.FEWEST_KEYS = 1, 0, dict.fromkeys(hopper.FEWEST_KEYS, 0)
    for deterministic, (case, dtype) in itertools.product((True, False), BY_HAND):
        options = case.options(dtype, "cuda") | dict(deterministic=deterministic)
        attention_and_gradients(attention, case.tensors(dtype, "cuda"), options)
    starts = torch.tensor([0, 5, 5, 75], dtype=torch.int32, device="cuda")
    query = torch.randn(75, 2, 64, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    attention_varlen(query, query, query, starts, starts, is_causal=True).sum().backward()
    inputs = problem((300, 0, 17), seqlen_q=2, head_dim=64, capacity=320, dtype=torch.bfloat16)
    key, value = torch.randn(2, 3, 2, 2, 64, dtype=torch.bfloat16, device="cuda")
    attention_decode(*inputs, key=key, value=value)
    query, k_cache, v_cache, lengths = problem((300, 0, 17), seqlen_q=2, head_dim=64, dtype=torch.bfloat16)
    *pages, table = paged(k_cache, v_cache, lengths, 16)
    attention_decode(query, *pages, lengths, block_table=table)
    torch.cuda.synchronize()
    print("done")


if __name__ == "__main__":
    main()
