"""What each feature costs: its time over that of plain attention of the same visible area, in the same run on the same tensors.

Beside it runs everybody in torch who has the feature too: FlashAttention-2, FlexAttention compiled, and SDPA where there is a mask. And a
document mask over 16k tokens beside FlexAttention with the same block mask.
"""

import torch
import torch.nn.functional as F

from flashlab import attention, block_mask, masks
from flashlab.bench.problems import PACKED as DOCUMENTS
from flashlab.bench.problems import TOKENS, WIDTH
from flashlab.bench.timing import forward_and_backward

SEQLEN = 4096


def tensors(seqlen, head_dim):
    """(query, key, value) that want gradients, and grad_out, bfloat16."""
    batch, heads = TOKENS // seqlen, WIDTH // head_dim
    *leaves, grad_out = (torch.randn(batch, heads, seqlen, head_dim, dtype=torch.bfloat16, device="cuda") for _ in range(4))
    return [x.requires_grad_() for x in leaves], grad_out


def cases(head_dim):
    """(name, arguments of attention, visible share of the pairs, bytes of mask that each head reads) for every row of the record."""
    batch, heads = TOKENS // SEQLEN, WIDTH // head_dim
    pairs = SEQLEN * SEQLEN
    slopes = torch.rand(heads, device="cuda")
    full, causal = 1.0, (SEQLEN + 1) / (2 * SEQLEN)
    yield "causal", dict(is_causal=True), causal, 0
    yield "softcap", dict(softcap=50.0), full, 0
    yield "alibi, causal", dict(alibi_slopes=slopes, is_causal=True), causal, 0
    yield "sinks", dict(sinks=torch.randn(heads, device="cuda")), full, 0
    yield "dropout", dict(dropout_p=0.1, seed=1), full, 0
    yield "padding mask", dict(attn_mask=torch.ones(batch, 1, 1, SEQLEN, dtype=torch.bool, device="cuda")), full, SEQLEN
    yield "bool mask", dict(attn_mask=torch.ones(1, 1, SEQLEN, SEQLEN, dtype=torch.bool, device="cuda")), full, pairs
    yield "bias", dict(attn_mask=torch.randn(1, 1, SEQLEN, SEQLEN, dtype=torch.bfloat16, device="cuda")), full, 2 * pairs
    for left in (512, 1024):
        visible = sum(min(row, left) + 1 for row in range(SEQLEN)) / pairs
        yield f"window {left}", dict(window=(left, 0)), visible, 0


def measure(head_dim):
    """Rows of milliseconds and ratios; ratios are over a full, featureless call of the same area."""
    leaves, grad_out = tensors(SEQLEN, head_dim)
    plain = forward_and_backward(lambda: attention(*leaves), leaves, grad_out)
    causal = forward_and_backward(lambda: attention(*leaves, is_causal=True), leaves, grad_out)
    row = dict(feature="plain", head_dim=head_dim, seqlen=SEQLEN, visible=1.0, forward_ms=plain[0], backward_ms=plain[1])
    rows = [row | _beside({}, leaves, grad_out)]
    for name, options, visible, bytes_read in cases(head_dim):
        times = forward_and_backward(lambda options=options: attention(*leaves, **options), leaves, grad_out)
        base = causal if options.get("is_causal") and name != "causal" else tuple(visible * time for time in plain)
        row = dict(feature=name, head_dim=head_dim, seqlen=SEQLEN, visible=visible, forward_ms=times[0], backward_ms=times[1])
        row |= dict(forward_ratio=times[0] / base[0], backward_ratio=times[1] / base[1], bias_bytes=bytes_read)
        rows.append(row | _beside(options, leaves, grad_out))
    return rows


AGREES = 0.03  # of bfloat16: peers round at other places


def _beside(options, leaves, grad_out):
    """{"peers": {name: milliseconds}} of everybody who has these features, each seen to compute the same first."""
    found, ours = {}, attention(*leaves, **options)
    for name, has, prepare in PEERS:
        if not has(options):
            continue
        attend = prepare(*leaves, **options)
        difference = (attend() - ours).abs().max().item()
        if difference > AGREES and "dropout_p" not in options:  # everybody drops other pairs
            raise RuntimeError(f"{name} and flashlab differ by {difference:.3g} with {', '.join(options)}: they do not compute the same.")
        forward, backward = forward_and_backward(attend, leaves, grad_out)
        found[name] = dict(forward_ms=forward, backward_ms=backward)
    return dict(peers=found)


def _fa2(query, key, value, is_causal=False, dropout_p=0.0, window=(None, None), seed=None):
    """torch's FlashAttention-2 by its operator, since SDPA has no windows. (seed: torch's own generator draws.)"""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    lengths, (left, right) = (query.shape[1], key.shape[1]), window

    def attend():
        out, *_ = torch.ops.aten._flash_attention_forward(
            query, key, value, None, None, *lengths, dropout_p, is_causal, False, window_size_left=left, window_size_right=right
        )
        return out.transpose(1, 2)

    return attend


def _flex(query, key, value, is_causal=False, window=None, softcap=None, alibi_slopes=None, sinks=None, attn_mask=None):
    """FlexAttention, compiled for one feature."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.compiler.reset()  # after a few features torch would no longer compile the same function
    flex, mask, score_mod = torch.compile(flex_attention, dynamic=False), None, None
    if is_causal or window:
        left = window[0] if window else SEQLEN
        mask = create_block_mask(lambda b, h, i, j: (j <= i) & (i - j <= left), None, None, SEQLEN, SEQLEN)
    if softcap is not None:
        score_mod = lambda score, b, h, i, j: softcap * torch.tanh(score / softcap)  # noqa: E731
    if alibi_slopes is not None:
        score_mod = lambda score, b, h, i, j: score - alibi_slopes[h] * (i - j)  # noqa: E731
    if attn_mask is not None:
        score_mod = lambda score, b, h, i, j: score + attn_mask[0, 0, i, j]  # noqa: E731
    if sinks is None:
        return lambda: flex(query, key, value, score_mod=score_mod, block_mask=mask)

    @torch.compile(dynamic=False)
    def with_sinks():  # a sink takes its part of each row's sum, which lse tells
        out, lse = flex_attention(query, key, value, return_lse=True)
        return (out * torch.sigmoid(lse - sinks[:, None])[..., None]).to(out.dtype)

    return with_sinks


def _sdpa(query, key, value, attn_mask):
    return lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)


def _additive(options):
    return "attn_mask" in options and options["attn_mask"].dtype != torch.bool


PEERS = (  # name, whether it has these features, (query, key, value, **features) → a function that attends
    ("FlashAttention-2 in torch", lambda options: not options.keys() - {"is_causal", "dropout_p", "seed", "window"}, _fa2),
    (
        "FlexAttention",
        lambda options: bool(options.keys() & {"softcap", "alibi_slopes", "sinks", "window"}) or _additive(options),
        _flex,
    ),
    ("SDPA", lambda options: "attn_mask" in options, _sdpa),
)


def measure_documents(head_dim):
    """One row: a document mask over 16k tokens, flashlab and FlexAttention."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    leaves, grad_out = tensors(TOKENS, head_dim)
    lengths = torch.tensor(DOCUMENTS)
    document = torch.repeat_interleave(torch.arange(len(DOCUMENTS), dtype=torch.int32), lengths).to("cuda")
    ours = block_mask(masks.documents, TOKENS, TOKENS, query_labels=document[None], key_labels=document[None])

    def same_document(batch, head, i, j):
        return (document[i] == document[j]) & (j <= i)

    theirs = create_block_mask(same_document, None, None, TOKENS, TOKENS)
    flex = torch.compile(flex_attention, dynamic=False)
    row = dict(feature="documents", head_dim=head_dim, seqlen=TOKENS, visible=ours.visible_share)
    for name, attend in (
        ("flashlab", lambda: attention(*leaves, block_mask=ours)),
        ("flex", lambda: flex(*leaves, block_mask=theirs)),
    ):
        row[f"{name}_forward_ms"], row[f"{name}_backward_ms"] = forward_and_backward(attend, leaves, grad_out)
    return row
