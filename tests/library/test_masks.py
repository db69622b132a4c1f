"""The example masks against FlexAttention: the same mask, in its own words."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from flashlab import attention, block_mask, masks
from flashlab.blocks import BLOCK

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEQLEN = 300
DOCUMENT = (torch.arange(SEQLEN, dtype=torch.int32) // 67).to(DEVICE)
PREFIX = (torch.arange(SEQLEN, dtype=torch.int32) < 45).int().to(DEVICE)
WIDTH = (torch.arange(SEQLEN, dtype=torch.int32) % 90 + 1).to(DEVICE)

# ours, its labels, FlexAttention's
EXAMPLES = {
    "documents": (masks.documents, DOCUMENT, lambda b, h, i, j: (DOCUMENT[i] == DOCUMENT[j]) & (j <= i)),
    "prefix_lm": (masks.prefix_lm, PREFIX, lambda b, h, i, j: (PREFIX[j] == 1) | (j <= i)),
    "dilated": (masks.dilated, None, lambda b, h, i, j: (j <= i) & (((i - j) % 4 == 0) | (i - j < 16))),
    "jagged": (masks.jagged, WIDTH, lambda b, h, i, j: (j <= i) & (i - j < WIDTH[i])),
}


@pytest.mark.parametrize("blocks", [False, True], ids=["tested", "block mask"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_what_flex_attention_computes(name, blocks):
    ours, labels, theirs = EXAMPLES[name]
    labels = {} if labels is None else dict(query_labels=labels[None], key_labels=labels[None])
    query, key, value, grad_out = (torch.randn(2, 2, SEQLEN, 32, device=DEVICE) for _ in range(4))
    leaves = [x.requires_grad_() for x in (query, key, value)]
    if blocks:
        out = attention(*leaves, block_mask=block_mask(ours, SEQLEN, SEQLEN, device=DEVICE, **labels))
    else:
        out = attention(*leaves, mask_mod=ours, **labels)
    flex = create_block_mask(theirs, None, None, SEQLEN, SEQLEN, device=DEVICE)
    with torch.no_grad():
        torch.testing.assert_close(out, flex_attention(*(x.detach() for x in leaves), block_mask=flex), atol=2e-5, rtol=1e-4)
    places = torch.arange(SEQLEN, device=DEVICE)
    dense = theirs(None, None, places[:, None], places[None, :])  # FlexAttention has no backward pass on a CPU
    expected = F.scaled_dot_product_attention(*leaves, attn_mask=dense)
    for grad, truth in zip(torch.autograd.grad(out, leaves, grad_out), torch.autograd.grad(expected, leaves, grad_out), strict=True):
        torch.testing.assert_close(grad, truth, atol=1e-4, rtol=1e-4)


def test_a_block_mask_visits_the_blocks_that_flex_attention_visits():
    for ours, labels, theirs in EXAMPLES.values():
        labels = {} if labels is None else dict(query_labels=labels[None], key_labels=labels[None])
        mine = block_mask(ours, SEQLEN, SEQLEN, device=DEVICE, **labels)
        flex = create_block_mask(theirs, None, None, SEQLEN, SEQLEN, device=DEVICE, BLOCK_SIZE=BLOCK)
        seen = flex.kv_num_blocks + (0 if flex.full_kv_num_blocks is None else flex.full_kv_num_blocks)
        assert torch.equal(mine.row_blocks[..., 1], seen.to(torch.int32))
