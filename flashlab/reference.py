"""The oracle: attention in float64 with the whole S×S matrix in memory and no tricks.

Every other implementation is judged against this one. Only tests, lessons and the benchmark's check call it.
"""

import torch

from flashlab.spec import NO_EXTRAS, Extras, Pairs, Spec, drop, shape_scores


def attention(query, key, value, spec: Spec, extras: Extras = NO_EXTRAS):
    """softmax(shaped(scale · QKᵀ)) V over the pairs that `spec` lets see each other.

    Args:
        query: (B, Hq, Sq, D).
        key: (B, Hkv, Sk, D); value: (B, Hkv, Sk, Dv). Each of their heads serves Hq / Hkv heads of query.
    Returns:
        out (B, Hq, Sq, Dv) and lse (B, Hq, Sq), both float64. A row that sees no key has out 0 and lse −inf.

    Source: Vaswani et al., Attention Is All You Need (2017), equation 1.
    """
    query, key, value = _in_float64(query, key, value)
    pairs = all_pairs(query, key, spec, extras)
    _, probs, lse = _probabilities(query, key, spec, extras, pairs)
    return drop(probs, spec, pairs) @ value, lse


def attention_backward(grad_out, query, key, value, spec: Spec, grad_lse=None, extras: Extras = NO_EXTRAS):
    """Gradients of `attention`, written out term by term, for grad_out (B, Hq, Sq, Dv) and grad_lse (B, Hq, Sq).

    Returns grad_query, grad_key, grad_value in the shapes of query, key and value, float64.

    Source: Dao et al., FlashAttention (2022), appendix B.2.
    """
    return all_gradients(grad_out, query, key, value, spec, grad_lse, extras)[:3]


def all_gradients(grad_out, query, key, value, spec: Spec, grad_lse=None, extras: Extras = NO_EXTRAS):
    """grad_query, grad_key, grad_value, grad_attn_mask (B, Hq, Sq, Sk; to be summed where the mask was broadcast) and grad_sinks (Hq,)."""
    heads_kv = key.shape[1]
    query, key, value = _in_float64(query, key, value)
    grad_out = grad_out.double()
    pairs = all_pairs(query, key, spec, extras)
    capped, probs, lse = _probabilities(query, key, spec, extras, pairs)

    grad_value = drop(probs, spec, pairs).mT @ grad_out
    grad_probs = drop(grad_out @ value.mT, spec, pairs)  # the mask is linear: its gradient is the mask
    delta = (probs * grad_probs).sum(-1, keepdim=True)
    if grad_lse is not None:  # d lse / d score is the probability itself
        delta = delta - grad_lse.double()[..., None]
    grad_shaped = probs * (grad_probs - delta)
    grad_scores = grad_shaped * (1 - (capped / spec.softcap) ** 2) if spec.softcap else grad_shaped  # tanh' = 1 − tanh²
    grad_query = spec.scale * grad_scores @ key
    grad_key = spec.scale * grad_scores.mT @ query
    grad_sinks = None
    if extras.sinks is not None:  # a key whose value is 0
        share = torch.exp(extras.sinks.double()[:, None] - lse).masked_fill(lse == -torch.inf, 0.0)
        grad_sinks = -(share * delta[..., 0]).sum((0, 2))
    return grad_query, _sum_groups(grad_key, heads_kv), _sum_groups(grad_value, heads_kv), grad_shaped, grad_sinks


def all_pairs(query, key, spec, extras):
    """Index tensors for every pair of (B, Hq, Sq, Sk)."""
    device, (batch, heads, seqlen_q, _), seqlen_k = query.device, query.shape, key.shape[2]
    b = spec.first_batch + torch.arange(batch, dtype=torch.int32, device=device)[:, None, None, None]
    h = torch.arange(heads, dtype=torch.int32, device=device)[:, None, None]
    return Pairs(
        batch=b,
        head=h,
        i=torch.arange(seqlen_q, dtype=torch.int32, device=device)[:, None],
        j=torch.arange(seqlen_k, dtype=torch.int32, device=device),
        band=spec.band(seqlen_q, seqlen_k),
        diagonal=spec.diagonal(seqlen_q, seqlen_k),
        plane=b * heads + h,
        attn_mask=extras.attn_mask,
        slopes=None if extras.alibi_slopes is None else extras.alibi_slopes[:, :, None, None],
        seed=extras.seed,
        label_i=None if extras.query_labels is None else extras.query_labels[:, None, :, None],
        label_j=None if extras.key_labels is None else extras.key_labels[:, None, None, :],
    )


def _in_float64(query, key, value):
    group = query.shape[1] // key.shape[1]
    key, value = (x.double().repeat_interleave(group, dim=1) for x in (key, value))
    return query.double(), key, value


def _probabilities(query, key, spec, extras, pairs):
    scores = spec.scale * query @ key.mT
    capped = spec.softcap * torch.tanh(scores / spec.softcap) if spec.softcap else scores
    shaped = shape_scores(scores, spec, pairs)
    terms = shaped
    if extras.sinks is not None:
        sinks = extras.sinks.double()[:, None, None].expand(*shaped.shape[:3], 1)
        terms = torch.cat([shaped, sinks], dim=-1)
    lse = torch.logsumexp(terms, dim=-1)
    probs = torch.exp(shaped - lse[..., None]).masked_fill(lse[..., None] == -torch.inf, 0.0)
    return capped, probs, lse


def _sum_groups(grad, heads_kv):
    """The gradient of a key head is the sum over the query heads that it serves."""
    return grad.unflatten(1, (heads_kv, -1)).sum(2)
