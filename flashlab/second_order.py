"""Derivatives of the backward pass: what double backward needs. Plain differentiable torch, one tile of rows at a time.

Every shaping of a score is made of torch operations, so torch differentiates the gradients itself, to any order. Memory is O(tile · Sk)
for second derivatives. Gradient penalties and Hessian products ask for this; training does not.
"""

import torch

from flashlab import blockwise
from flashlab.layout import accumulation_dtype
from flashlab.spec import Extras, Spec, drop, shape_scores


def backward_of_backward(grads_of_grads, grad_out, grad_lse, query, key, value, spec: Spec, extras: Extras):
    """Gradients of Σ ⟨grad, its grad_of_grad⟩ with respect to (grad_out, grad_lse, query, key, value, attn_mask, sinks).

    grads_of_grads: what reaches (grad_query, grad_key, grad_value, grad_attn_mask, grad_sinks); None where nothing does.
    """
    if extras.cu_seqlens_q is not None:
        raise NotImplementedError(
            "second derivatives through attention_varlen are not computed: call flashlab.attention once a sequence, "
            "or pad the sequences into one batch and pass attn_mask."
        )
    mask = extras.attn_mask
    order = ("query", "key", "value", "attn_mask", "sinks")
    additive = mask if mask is not None and mask.is_floating_point() else None
    primals = {name: x for name, x in zip(order, (query, key, value, additive, extras.sinks), strict=True) if x is not None}
    given = {"out": grad_out, "lse": grad_lse} if grad_lse is not None else {"out": grad_out}
    reaching = {name: x for name, x in zip(order, grads_of_grads, strict=True) if name in primals}
    reaching = {name: torch.zeros_like(primals[name]) if x is None else x for name, x in reaching.items()}

    totals = None
    for start in range(0, query.shape[2], blockwise.BLOCK_M):
        rows = slice(start, min(start + blockwise.BLOCK_M, query.shape[2]))

        def gradients(given, primals, rows=rows):
            results, pull = torch.func.vjp(lambda primals: _attend(rows, spec, extras, primals), primals)
            return pull(
                {name: (given[name][:, :, rows] if name in given else torch.zeros_like(x)).to(x.dtype) for name, x in results.items()}
            )[0]

        _, pull = torch.func.vjp(gradients, given, primals)
        parts = pull(reaching)
        totals = parts if totals is None else _sum(totals, parts)
    if totals is None:  # no rows
        totals = tuple({name: torch.zeros_like(x) for name, x in group.items()} for group in (given, primals))
    to_given, to_primals = totals
    return to_given["out"], to_given.get("lse"), *(to_primals.get(name) for name in order)


def _sum(totals, parts):
    return tuple({name: x + part[name] for name, x in total.items()} for total, part in zip(totals, parts, strict=True))


def _attend(rows, spec, extras, primals):
    """out and lse of some rows over all keys, in operations that torch can differentiate."""
    query, key, value = (primals[name] for name in ("query", "key", "value"))
    extras = extras._replace(sinks=primals.get("sinks"), attn_mask=primals.get("attn_mask", extras.attn_mask))
    accumulate = accumulation_dtype(query)
    q = blockwise.grouped(query, key)[..., rows, :].to(accumulate)  # (B, Hkv, group, M, D)
    k, v = (x[:, :, None].to(accumulate) for x in (key, value))  # (B, Hkv, 1, Sk, D)
    pairs = blockwise.pairs_of(rows, slice(0, key.shape[2]), query, key, spec, extras)
    scores = shape_scores(spec.scale * q @ k.mT, spec, pairs)  # (B, Hkv, group, M, Sk)
    terms = scores
    if extras.sinks is not None:
        sinks = extras.sinks.to(accumulate).unflatten(0, (key.shape[1], -1))[..., None, None]
        terms = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1)], dim=-1)
    hidden = (terms == -torch.inf).all(-1)
    lse = torch.logsumexp(torch.where(hidden[..., None], 0.0, terms), dim=-1)  # a row that sees no key: no −inf − (−inf) on the way
    p = torch.exp(scores - lse[..., None])
    out = drop(p, spec, pairs) @ v
    return {"out": out.flatten(1, 2), "lse": torch.where(hidden, -torch.inf, lse).flatten(1, 2)}
