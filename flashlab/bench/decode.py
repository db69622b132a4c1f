"""Decoding: one new token of each sequence against a long cache, beside whatever in torch does it, in the bytes a second that it reads.

What a decoding kernel must do is read the cache once: its bytes over its time, beside what a copy on the same GPU reaches, says all.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashlab import attention_decode, reference
from flashlab.bench.timing import interleaved
from flashlab.spec import Spec

HEADS, HEADS_KV, HEAD_DIM = 32, 8, 128
BATCHES, CAPACITIES = (1, 4, 16, 64), (4096, 32768, 131072)
PAGES = (16, 64, 256)
MOST_BYTES = 2**34  # of a cache
CHECKED = 2**15  # keys: beyond, the oracle's float64 scores take too long


@dataclass(frozen=True)
class Problem:
    """A cache of `capacity` keys for each of `batch` sequences, all of them full."""

    batch: int
    capacity: int

    @property
    def bytes(self):
        """Of keys and values."""
        return 2 * self.batch * self.capacity * HEADS_KV * HEAD_DIM * 2

    def tensors(self):
        """query, k_cache, v_cache, bfloat16."""
        shapes = (HEADS, 1), (HEADS_KV, self.capacity), (HEADS_KV, self.capacity)
        return tuple(torch.randn(self.batch, h, s, HEAD_DIM, dtype=torch.bfloat16, device="cuda") for h, s in shapes)


def grid():
    """Every problem of the record."""
    problems = (Problem(*sizes) for sizes in itertools.product(BATCHES, CAPACITIES))
    return [problem for problem in problems if problem.bytes <= MOST_BYTES]


def measure(problem):
    """One row: milliseconds of flashlab, its pages and its unsplit kernel, and of every peer; errors against the oracle."""
    query, k_cache, v_cache = problem.tensors()
    lengths = torch.full((problem.batch,), problem.capacity, dtype=torch.int32, device="cuda")
    works = {"flashlab": lambda: attention_decode(query, k_cache, v_cache, lengths)}
    if problem.batch == 1:
        works["flashlab, unsplit"] = lambda: attention_decode(query, k_cache, v_cache, lengths, splits=1)
    for page in PAGES:
        works[f"flashlab, pages of {page}"] = _paged(problem, page, query, k_cache, v_cache, lengths)
    works |= {name: attend for name, attend in _peers(query, k_cache, v_cache).items() if _runs(attend)}
    truth = None
    if problem.capacity <= CHECKED:
        truth, _ = reference.attention(query[:1, :4], k_cache[:1, :1], v_cache[:1, :1], Spec(HEAD_DIM**-0.5))
    row = dict(batch=problem.batch, capacity=problem.capacity, heads=HEADS, heads_kv=HEADS_KV, head_dim=HEAD_DIM, bytes=problem.bytes)
    errors = {name: None if truth is None else (work()[:1, :4] - truth).abs().max().item() for name, work in works.items()}
    times = interleaved(works, "cuda")
    return row | dict(ms={name: time.median for name, time in times.items()}, errors=errors)


def _paged(problem, page, query, k_cache, v_cache, lengths):
    """The same keys in pages that lie in a drawn order."""
    count = problem.batch * problem.capacity // page
    order = torch.randperm(count, device="cuda")
    pools = []
    for cache in (k_cache, v_cache):
        pages = cache.view(problem.batch, HEADS_KV, -1, page, HEAD_DIM).transpose(1, 2).reshape(count, HEADS_KV, page, HEAD_DIM)
        pool = torch.empty_like(pages)
        pool[order] = pages
        pools.append(pool)
    table = order.view(problem.batch, -1).to(torch.int32)
    return lambda: attention_decode(query, *pools, lengths, block_table=table)


def _peers(query, k_cache, v_cache):
    from torch.nn.attention.flex_attention import flex_attention

    def sdpa(backend):
        def attend():
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(query, k_cache, v_cache, enable_gqa=True)

        return attend

    torch.compiler.reset()  # after a few problems torch would no longer compile the same function
    flex = torch.compile(flex_attention, dynamic=False)
    return {
        "FlashAttention-2 in torch": sdpa(SDPBackend.FLASH_ATTENTION),
        "cuDNN in torch": sdpa(SDPBackend.CUDNN_ATTENTION),
        "memory-efficient in torch": sdpa(SDPBackend.EFFICIENT_ATTENTION),
        "FlexAttention": lambda: flex(query, k_cache, v_cache, enable_gqa=True),
    }


def _runs(attend):
    try:
        attend()
    except RuntimeError:  # not for one row, or not for grouped heads
        return False
    return True
