"""The oracle: attention in float64 with the whole S×S matrix in memory and no tricks.

Every other implementation is judged against this one. Only tests and lessons call it.
"""

import torch

from flashlab.spec import Spec


def attention(query, key, value, spec: Spec):
    """softmax(scale · QKᵀ) V over the pairs that `spec` lets see each other.

    Args:
        query: (B, Hq, Sq, D).
        key, value: (B, Hkv, Sk, D); each of their heads serves Hq / Hkv heads of query.
    Returns:
        out (B, Hq, Sq, D) and lse (B, Hq, Sq), both float64. A row that sees no key has out 0 and lse −inf.

    Source: Vaswani et al., Attention Is All You Need (2017), equation 1.
    """
    query, key, value = _in_float64(query, key, value)
    probs, lse = _probabilities(query, key, spec)
    return probs @ value, lse


def attention_backward(grad_out, query, key, value, spec: Spec, grad_lse=None):
    """Gradients of `attention`, written out term by term, for grad_out (B, Hq, Sq, D) and grad_lse (B, Hq, Sq).

    Returns grad_query, grad_key, grad_value in the shapes of query, key and value, float64.

    Source: Dao et al., FlashAttention (2022), appendix B.2.
    """
    heads_kv = key.shape[1]
    query, key, value = _in_float64(query, key, value)
    grad_out = grad_out.double()
    probs, _ = _probabilities(query, key, spec)

    grad_value = probs.mT @ grad_out
    grad_probs = grad_out @ value.mT
    delta = (probs * grad_probs).sum(-1, keepdim=True)
    grad_scores = probs * (grad_probs - delta)
    if grad_lse is not None:  # d lse / d score is the probability itself
        grad_scores = grad_scores + probs * grad_lse.double()[..., None]
    grad_query = spec.scale * grad_scores @ key
    grad_key = spec.scale * grad_scores.mT @ query
    return grad_query, _sum_groups(grad_key, heads_kv), _sum_groups(grad_value, heads_kv)


def _in_float64(query, key, value):
    group = query.shape[1] // key.shape[1]
    key, value = (x.double().repeat_interleave(group, dim=1) for x in (key, value))
    return query.double(), key, value


def _probabilities(query, key, spec):
    scores = spec.scale * query @ key.mT
    i = torch.arange(query.shape[2], device=query.device)[:, None]
    j = torch.arange(key.shape[2], device=query.device)[None, :]
    scores = scores.masked_fill(~spec.visible(i, j), -torch.inf)
    lse = torch.logsumexp(scores, dim=-1)
    probs = torch.exp(scores - lse[..., None]).masked_fill(lse[..., None] == -torch.inf, 0.0)
    return probs, lse


def _sum_groups(grad, heads_kv):
    """The gradient of a key head is the sum over the query heads that it serves."""
    return grad.unflatten(1, (heads_kv, -1)).sum(2)
