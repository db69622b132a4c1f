"""Bad input: every refusal with its full message, as a table. A message names the argument, what came, what is allowed and what to do."""

import functools

import pytest
import torch

from flashlab import attention, attention_varlen, block_mask, explain
from flashlab.masks import documents
from tests.protocol import jagged


def zeros(*shape, dtype=torch.float32, **options):
    return torch.zeros(*shape, dtype=dtype, **options)


Q = zeros(1, 2, 4, 8)  # query, key and value of a good call
SHAPES = "query: (1, 2, 4, 8), key: (1, 2, 4, 8), value: (1, 2, 4, 8)"
LABELS = zeros(1, 4, dtype=torch.int32)
FIVE = zeros(1, 2, 5, 8)


def call(query=Q, key=Q, value=Q, **options):
    return attention, (query, key, value), options


P = zeros(9, 2, 8)  # packed
STARTS = torch.tensor([0, 4, 9], dtype=torch.int32)


def packed(query=P, key=P, value=P, starts_q=STARTS, starts_k=STARTS, **options):
    return attention_varlen, (query, key, value, starts_q, starts_k), options


TO_FOUR = "4 are needed, (batch, heads, sequence, head_dim). For one head, unsqueeze the missing ones."
WINDOW = "pass (left, right), each the number of keys seen on that side of the diagonal, or -1 or None for all of them."
RUNNING = "pass an int32 tensor (sequences + 1,): 0, then the running total of lengths."
BOUND = "made of operators alone. What it binds can be the default of a further argument: the kernels inline its source."
ANSWER = "it must be True or False of each pair. Compare, as in `j <= i`; behind a number write `!= 0`."
LENGTHS = "it is a running total of lengths, pass lengths.cumsum(0)."

REFUSALS = [
    # tensors
    (call([1.0]), "query is a list: pass a torch.Tensor of shape (batch, heads, sequence, head_dim)."),
    (call(value=None), "value is a NoneType: pass a torch.Tensor of shape (batch, heads, sequence, head_dim)."),
    (
        call(key=Q.to_sparse()),
        "key has the layout torch.sparse_coo: pass a dense tensor, (batch, heads, sequence, head_dim), for example key.to_dense(); "
        "flashlab.attention_varlen takes sequences of different lengths.",
    ),
    (call(zeros(2, 4, 8)), f"query has 3 dimensions, (2, 4, 8): {TO_FOUR}"),
    (call(key=zeros(1, 1, 2, 4, 8)), f"key has 5 dimensions, (1, 1, 2, 4, 8): {TO_FOUR}"),
    (call(key=Q.half()), "key is torch.float16 and query torch.float32: cast them to one dtype, for example key.to(query.dtype)."),
    (call(value=Q.double()), "value is torch.float64 and query torch.float32: cast them to one dtype, for example value.to(query.dtype)."),
    (call(value=Q.to("meta")), "value is on meta and query on cpu: move it with value.to(query.device)."),
    (
        call(*(Q.to(torch.int64),) * 3),
        "query is torch.int64: on cpu flashlab computes float16, bfloat16, float32, float64. Cast query, key and value to one of them.",
    ),
    (
        call(*(torch.empty_strided((1, 2, 4, 8), (8, 8, 2**24, 1), device="meta"),) * 3),
        "query's rows lie 16777216 elements apart, and kernels address fewer than 8388608: pass query.contiguous(), "
        "or a layout whose batch and heads lie outside of the sequence.",
    ),
    # shapes
    (
        call(zeros(2, 2, 4, 8)),
        "batch sizes differ: query, key and value need the same first dimension. "
        "query: (2, 2, 4, 8), key: (1, 2, 4, 8), value: (1, 2, 4, 8).",
    ),
    (
        call(key=FIVE),
        "key and value need the same heads and the same sequence length. query: (1, 2, 4, 8), key: (1, 2, 5, 8), value: (1, 2, 4, 8).",
    ),
    (
        call(key=zeros(1, 1, 4, 8)),
        "key and value need the same heads and the same sequence length. query: (1, 2, 4, 8), key: (1, 1, 4, 8), value: (1, 2, 4, 8).",
    ),
    (
        call(key=zeros(1, 2, 4, 6)),
        "head dims differ: query and key need the same last dimension (value's may be another). "
        "query: (1, 2, 4, 8), key: (1, 2, 4, 6), value: (1, 2, 4, 8).",
    ),
    (
        call(zeros(1, 2, 4, 257), zeros(1, 2, 4, 257)),
        "head_dim is 257: flashlab computes 1 to 256. Split the model dimension over more heads. "
        "query: (1, 2, 4, 257), key: (1, 2, 4, 257), value: (1, 2, 4, 8).",
    ),
    (
        call(value=zeros(1, 2, 4, 0)),
        "value's head_dim is 0: flashlab computes 1 to 256. Split the model dimension over more heads. "
        "query: (1, 2, 4, 8), key: (1, 2, 4, 8), value: (1, 2, 4, 0).",
    ),
    (
        call(zeros(1, 0, 4, 8)),
        "at least one head is needed, for query and for key. query: (1, 0, 4, 8), key: (1, 2, 4, 8), value: (1, 2, 4, 8).",
    ),
    (
        call(zeros(1, 12, 4, 8), zeros(1, 5, 4, 8), zeros(1, 5, 4, 8), enable_gqa=True),
        "key has 5 heads and query 12: grouped heads need a divisor (1, 2, 3, 4, 6, 12). "
        "query: (1, 12, 4, 8), key: (1, 5, 4, 8), value: (1, 5, 4, 8).",
    ),
    (
        call(zeros(1, 4, 4, 8)),
        "key has 2 heads and query 4: pass enable_gqa=True to let each key head serve a group. "
        "query: (1, 4, 4, 8), key: (1, 2, 4, 8), value: (1, 2, 4, 8).",
    ),
    # numbers
    (call(scale=float("nan")), "scale is nan: pass a finite number, or None for 1/sqrt(head_dim) = 0.3536."),
    (call(scale=([1.0],)), "scale is ([1.0],): pass a finite number, or None for 1/sqrt(head_dim) = 0.3536."),
    (call(scale="big"), "scale is 'big': pass a finite number, or None for 1/sqrt(head_dim) = 0.3536."),
    (call(softcap=-1.0), "softcap is -1.0: pass a positive number (Gemma 2 uses 50), or None for no cap."),
    (call(softcap=True), "softcap is True: pass a positive number (Gemma 2 uses 50), or None for no cap."),
    (call(dropout_p=1.0), "dropout_p is 1.0: pass a number from 0 (no dropout) up to, but not including, 1."),
    (call(dropout_p=-0.1), "dropout_p is -0.1: pass a number from 0 (no dropout) up to, but not including, 1."),
    (call(dropout_p=0.1, seed=0.5), "seed is 0.5: pass an int of 32 bits, or None to draw one from torch's generator."),
    (call(dropout_p=0.1, seed=2**31), "seed is 2147483648: pass an int of 32 bits, or None to draw one from torch's generator."),
    (
        call(alignment="bottom"),
        "alignment is 'bottom': pass 'top_left' (row i meets key i) or 'bottom_right' (the last row meets the last key).",
    ),
    (call(window=5), f"window is 5: {WINDOW}"),
    (call(window=(1, 2, 3)), f"window is (1, 2, 3): {WINDOW}"),
    (call(window=(-2, 0)), f"window's left side is -2: {WINDOW}"),
    (call(window=(0, 1.5)), f"window's right side is 1.5: {WINDOW}"),
    # masks
    (call(attn_mask=[True]), "attn_mask is a list: pass a torch.Tensor, bool (True: takes part) or additive."),
    (
        call(attn_mask=zeros(4, 4, dtype=torch.int64)),
        "attn_mask is torch.int64: pass bool (True: takes part), or a number to add to each score in torch.float32 or float32.",
    ),
    (
        call(attn_mask=zeros(4, 5)),
        "attn_mask is (4, 5): it must broadcast to (batch, heads, seqlen_q, seqlen_k) = (1, 2, 4, 4); each size that or 1.",
    ),
    (
        call(attn_mask=zeros(1, 1, 1, 4, 4)),
        "attn_mask is (1, 1, 1, 4, 4): it must broadcast to (batch, heads, seqlen_q, seqlen_k) = (1, 2, 4, 4); each size that or 1.",
    ),
    (call(attn_mask=zeros(4, 4, device="meta")), "attn_mask is on meta and query on cpu: move it with attn_mask.to(query.device)."),
    # features with tensors
    (call(alibi_slopes=[0.5, 0.25]), "alibi_slopes is list: pass a float32 tensor of shape (2,) or (1, 2)."),
    (call(alibi_slopes=zeros(2, dtype=torch.float64)), "alibi_slopes is torch.float64: pass a float32 tensor of shape (2,) or (1, 2)."),
    (call(alibi_slopes=zeros(3)), "alibi_slopes is (3,): pass one slope a query head, (2,), or (1, 2)."),
    (
        call(alibi_slopes=zeros(2, requires_grad=True)),
        "alibi_slopes requires a gradient, which is not computed: pass slopes.detach(), or learn an attn_mask instead.",
    ),
    (call(sinks=0.5), "sinks is a float: pass a tensor of shape (2,), torch.float32 or float32."),
    (call(sinks=zeros(4)), "sinks is (4,): pass one logit a query head, (2,)."),
    (call(sinks=zeros(2, dtype=torch.float16)), "sinks is torch.float16: pass a tensor of shape (2,), torch.float32 or float32."),
    # the user's own functions
    (
        call(mask_mod="causal"),
        "mask_mod is a str: pass a function (batch, head, i, j) → may i see j?, made of operators alone.",
    ),
    (call(bias_mod=0.5), "bias_mod is a float: pass a function (batch, head, i, j) → what to add to the score, made of operators alone."),
    (call(mask_mod=functools.partial(documents, 3)), f"mask_mod is a partial: pass a function (batch, head, i, j) → may i see j?, {BOUND}"),
    (call(bias_mod=zip), f"bias_mod is a type: pass a function (batch, head, i, j) → what to add to the score, {BOUND}"),
    ((block_mask, (zip, 4, 4), {}), f"mask_mod is a type: pass a function (batch, head, i, j) → may i see j?, {BOUND}"),
    (call(mask_mod=lambda batch, head, i, j: (j <= i) * 2), f"mask_mod gives torch.int64: {ANSWER}"),
    (call(mask_mod=lambda batch, head, i, j: i - j), f"mask_mod gives torch.int32: {ANSWER}"),
    (call(mask_mod=lambda batch, head, i, j: 1.0), f"mask_mod gives a float: {ANSWER}"),
    ((block_mask, (lambda batch, head, i, j: i - j, 4, 4), {}), f"mask_mod gives torch.int32: {ANSWER}"),
    (
        call(mask_mod=documents, query_labels=LABELS),
        "key_labels is missing where query_labels is given: pass both, or neither. In self-attention they are one tensor.",
    ),
    (
        call(query_labels=LABELS, key_labels=LABELS),
        "query_labels and key_labels are read by a mask_mod (batch, head, i, j, label_i, label_j), and none is given.",
    ),
    (
        call(mask_mod=documents, query_labels=LABELS, key_labels=LABELS.long()),
        "key_labels is torch.int64: pass an int32 tensor of shape (1 or 1, 4).",
    ),
    (
        call(mask_mod=documents, query_labels=LABELS[0], key_labels=LABELS),
        "query_labels is (4,): pass one label a position, (1 or 1, 4).",
    ),
    # block masks
    (call(block_mask=jagged), "block_mask is a function: make one with flashlab.block_mask(mask_mod, seqlen_q, seqlen_k)."),
    (
        call(block_mask=block_mask(jagged, 4, 4), mask_mod=jagged),
        "block_mask brings its own mask_mod and labels: pass either block_mask, or mask_mod with its labels.",
    ),
    (
        call(block_mask=block_mask(jagged, 4, 4), is_causal=True),
        "block_mask holds the whole mask: write is_causal and window into its mask_mod, for example `& (j <= i)`.",
    ),
    (
        call(block_mask=block_mask(jagged, 4, 5)),
        "block_mask was made for 4 queries and 5 keys, and here are 4 and 4: make one for these lengths.",
    ),
    (
        call(block_mask=block_mask(jagged, 4, 4, heads=3)),
        "block_mask was made for batch=1, heads=3, and query has 1 and 2: pass these, or 1.",
    ),
    (
        call(*(Q.to("meta"),) * 3, block_mask=block_mask(jagged, 4, 4)),
        "block_mask is on cpu and query on meta: make it there, with flashlab.block_mask(…, device=query.device).",
    ),
    ((block_mask, (None, 4, 4), {}), "mask_mod is None: pass a function (batch, head, i, j) → may i see j?, made of operators alone."),
    ((block_mask, (jagged, -1, 4), {}), "seqlen_q is -1: pass a whole number from 0 on. Blocks are of 64 × 64 pairs."),
    ((block_mask, (jagged, 4, 4), {"heads": 0}), "heads is 0: pass a whole number from 1 on. Blocks are of 64 × 64 pairs."),
    # packed sequences
    (packed(Q), "query has 4 dimensions, (1, 2, 4, 8): 3 are needed, (total, heads, head_dim). For one head, unsqueeze the missing ones."),
    (packed(starts_q=[0, 4, 9]), f"cu_seqlens_q is a list: {RUNNING}"),
    (packed(starts_k=STARTS.long()), f"cu_seqlens_k is torch.int64, (3,): {RUNNING}"),
    (packed(starts_q=STARTS[None]), f"cu_seqlens_q is torch.int32, (1, 3): {RUNNING}"),
    (packed(starts_k=STARTS[:2]), "cu_seqlens_k goes from 0 to 4: it must start at 0 and end at 9, the number of rows."),
    (
        packed(starts_q=torch.tensor([0, 6, 4, 9], dtype=torch.int32)),
        f"cu_seqlens_q falls from 6 to 4 at sequence 1: {LENGTHS}",
    ),
    (
        packed(starts_q=torch.tensor([0, 4, 6, 9], dtype=torch.int32)),
        "cu_seqlens_q describes 3 sequences and cu_seqlens_k 2: each sequence has queries and keys.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), REFUSALS, ids=[message[:60] for _, message in REFUSALS])
def test_the_refusal_says_what_came_and_what_to_do(wrong, message):
    function, arguments, options = wrong
    with pytest.raises(ValueError) as refusal:
        function(*arguments, **options)
    assert str(refusal.value) == message


def test_there_are_at_least_forty_and_the_good_calls_pass():
    assert len(REFUSALS) >= 40
    for function, arguments, options in (call(), packed()):
        function(*arguments, **options)


def test_explain_refuses_what_attention_refuses():
    with pytest.raises(ValueError, match="window is 5"):
        explain(Q, Q, Q, window=5)


@pytest.mark.parametrize(
    "allowed, refused", [(dict(scale=1.0), dict(scale=True)), (dict(window=(1, 0)), dict(window=(1.0, 0))), (dict(seed=1), dict(seed=True))]
)
def test_what_equals_an_allowed_number_is_still_looked_at(allowed, refused):
    attention(Q, Q, Q, **allowed)
    with pytest.raises(ValueError, match="True|1.0"):
        attention(Q, Q, Q, **refused)
