"""A block mask: which tiles a `mask_mod` leaves empty, and which full, found once.

The kernels skip empty tiles and do not test full ones, so a document mask over long text costs what its visible area costs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flashlab.spec import asked

BLOCK = 64  # rows and keys of a block; the tiles that kernels load in a walk divide it
OWN_ROWS = 64  # so many rows share a list of the blocks of keys that they see: a multiple of the tiles that forward and dq own
OWN_KEYS = 128  # so many keys share a list of the blocks of rows that see them: of the tiles that dkdv owns


@dataclass(frozen=True)
class BlockMask:
    """What `flashlab.attention(…, block_mask=…)` takes. Made by `block_mask`; holds for these lengths and no others.

    row_blocks (B or 1, H or 1, ⌈Sq / 64⌉, 2 + ⌈Sk / 64⌉), int32: how many blocks of 64 keys a block of 64 rows sees in part, how many it
    sees at all, then their indices, partial ones first. key_blocks (B or 1, H or 1, ⌈Sk / 128⌉, 2 + ⌈Sq / 64⌉) is the same seen from the
    keys, for 128 of them at a time.
    """

    mask_mod: Callable
    seqlen_q: int
    seqlen_k: int
    row_blocks: Tensor
    key_blocks: Tensor
    query_labels: Tensor | None = None
    key_labels: Tensor | None = None

    @property
    def visible_share(self):
        """The share of blocks that hold at least one visible pair."""
        return self.row_blocks[..., 1].sum().item() / max(1, self.row_blocks[..., 2:].numel())

    def __repr__(self):
        batch, heads, rows, listed = self.row_blocks.shape
        partial, seen = (int(self.row_blocks[..., k].sum()) for k in (0, 1))
        return (
            f"BlockMask({self.seqlen_q} × {self.seqlen_k}, {batch} × {heads} planes of {rows} × {listed - 2} blocks: "
            f"{seen - partial} full, {partial} partial, {self.visible_share:.1%} visible)"
        )


def build(mask_mod, seqlen_q, seqlen_k, batch, heads, query_labels, key_labels, device):
    """The BlockMask of checked arguments, in O((Sq + 64·Sk)·heads) memory: one row of blocks at a time."""
    i = torch.arange(seqlen_q, dtype=torch.int32, device=device)
    j = torch.arange(seqlen_k, dtype=torch.int32, device=device)
    h = torch.arange(heads, dtype=torch.int32, device=device)[:, None, None]
    blocks_q, blocks_k = -(-seqlen_q // BLOCK), -(-seqlen_k // BLOCK)
    some = torch.zeros(batch, heads, blocks_q, blocks_k, dtype=torch.bool, device=device)
    every = torch.zeros_like(some)
    for b in range(batch):
        label_j = () if key_labels is None else (key_labels[b if len(key_labels) > 1 else 0],)
        for block in range(blocks_q):
            rows = slice(block * BLOCK, (block + 1) * BLOCK)
            label_i = () if query_labels is None else (query_labels[b if len(query_labels) > 1 else 0, rows, None],)
            own = i[rows, None]
            seen = asked(mask_mod, torch.full_like(h, b), h, own, j, *label_i, *label_j)
            padded = torch.zeros(heads, len(own), blocks_k * BLOCK, dtype=torch.bool, device=device)
            padded[..., :seqlen_k] = seen  # a ragged block is never full: kernels must not read past the end
            tiles = padded.unflatten(-1, (blocks_k, BLOCK))
            some[b, :, block] = tiles.any(-1).any(1)
            every[b, :, block] = tiles.all(-1).all(1) & (len(own) == BLOCK)
    by_keys = _together(some.mT, "any"), _together(every.mT, "all")
    return BlockMask(mask_mod, seqlen_q, seqlen_k, _lists(some, every), _lists(*by_keys), query_labels, key_labels)


def keys_seen_by(row_blocks, rows, longest):
    """The keys that any head sees from a slice of rows: slices of neighbouring blocks, none over `longest`; the last may pass the end."""
    lists = row_blocks[:, :, rows.start // OWN_ROWS : (rows.stop - 1) // OWN_ROWS + 1].flatten(0, 2)
    numbers = torch.arange(lists.shape[1] - 2, device=lists.device)
    slices = []
    for block in torch.unique(lists[:, 2:][numbers < lists[:, 1:2]]).tolist():
        start, stop = block * BLOCK, (block + 1) * BLOCK
        if slices and slices[-1].stop == start and stop - slices[-1].start <= longest:
            start = slices.pop().start
        slices.append(slice(start, stop))
    return slices


def _together(blocks, how):
    """Any or all of the blocks of keys that share a list: (…, ⌈Sk / 64⌉, blocks of rows) → (…, ⌈Sk / 128⌉, blocks of rows)."""
    padded = torch.nn.functional.pad(blocks, (0, 0, 0, -blocks.shape[-2] % (OWN_KEYS // BLOCK)))  # no key: nothing is seen, never full
    return getattr(padded.unflatten(-2, (-1, OWN_KEYS // BLOCK)), how)(-2)


def _lists(some, every):
    """(partial count, seen count, partial indices …, full indices …) for each row of blocks."""
    partial = some & ~every
    order = torch.where(partial, 0, torch.where(every, 1, 2)).to(torch.int8).sort(dim=-1, stable=True).indices
    counts = torch.stack([partial.sum(-1), some.sum(-1)], dim=-1)
    return torch.cat([counts, order], dim=-1).to(torch.int32).contiguous()
