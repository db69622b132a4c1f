"""How an implementation is judged: flash-attention's protocol, against the float64 oracle.

Its error may be at most twice that of plain PyTorch in the same dtype, or what a float32 lse makes unavoidable.
"""

from dataclasses import dataclass

import torch

from flashlab import reference
from flashlab.spec import Spec


@dataclass(frozen=True)
class Case:
    """One problem. Its repr can be pasted back into a test."""

    seqlen_q: int
    seqlen_k: int
    head_dim: int
    is_causal: bool = False
    heads: int = 2
    heads_kv: int = 2
    batch: int = 1
    magnitude: float = 1.0  # of query and key: 10 makes scores of several hundred, where softmax is 0 or 1

    @property
    def spec(self):
        return Spec(self.head_dim**-0.5, self.is_causal)

    def tensors(self, dtype, device="cpu", seed=0):
        """query, key, value, grad_out."""
        generator = torch.Generator().manual_seed(seed)

        def draw(heads, seqlen, magnitude):
            x = magnitude * torch.randn(self.batch, heads, seqlen, self.head_dim, generator=generator)
            return x.to(device, dtype)

        return (
            draw(self.heads, self.seqlen_q, self.magnitude),
            draw(self.heads_kv, self.seqlen_k, self.magnitude),
            draw(self.heads_kv, self.seqlen_k, 1.0),
            draw(self.heads, self.seqlen_q, 1.0),
        )


def plain_attention(query, key, value, spec):
    """Attention as one would write it in PyTorch, in the inputs' own dtype."""
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    scores = query @ key.mT * spec.scale
    if spec.is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores.softmax(-1) @ value


def assert_as_good_as_plain(case, ours, tensors):
    """ours: (out, grad_query, grad_key, grad_value), compared one by one with the oracle."""
    query, key, value, grad_out = tensors
    with torch.no_grad():
        oracle = (
            reference.attention(query, key, value, case.spec)[0],
            *reference.attention_backward(grad_out, query, key, value, case.spec),
        )
    leaves = [x.detach().requires_grad_() for x in (query, key, value)]
    plain_out = plain_attention(*leaves, case.spec)
    plain = (plain_out, *torch.autograd.grad(plain_out, leaves, grad_out))
    unavoidable = float32_rounding(case, *tensors)
    for name, mine, theirs, truth in zip(("out", "grad_query", "grad_key", "grad_value"), ours, plain, oracle, strict=True):
        assert mine.shape == truth.shape and mine.dtype == query.dtype, f"{name}: {mine.shape}, {mine.dtype} for {case}"
        if truth.numel() == 0:
            continue
        rounded = truth.to(query.dtype)
        one_addition = ((rounded + 0.3 - 0.3) - rounded).abs().max().item()
        error, allowed = worst(mine, truth), 2 * max(worst(theirs, truth), one_addition, unavoidable[name])
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g} for {case}, {query.dtype}"


def float32_rounding(case, query, key, value, grad_out):
    """What rounding every term of each sum once to float32 amounts to, where p = exp(score − lse) comes from a float32 lse.

    Plain PyTorch normalises by the sum of its own exponentials and keeps P; whoever recomputes P from lse is off by lse's rounding.
    """
    group = case.heads // case.heads_kv
    query, key, value, grad_out = (x.double() for x in (query, key, value, grad_out))
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    _, lse = reference.attention(query, key, value, case.spec)
    i, j = torch.arange(case.seqlen_q, device=lse.device)[:, None], torch.arange(case.seqlen_k, device=lse.device)
    p = torch.exp(query @ key.mT * case.spec.scale - lse[..., None]).where(case.spec.visible(i, j), 0.0)
    dp = grad_out.abs() @ value.abs().mT
    ds = p * (dp + (p * dp).sum(-1, keepdim=True)) * abs(case.spec.scale)
    terms = {"out": p @ value.abs(), "grad_query": ds @ key.abs(), "grad_key": ds.mT @ query.abs(), "grad_value": p.mT @ grad_out.abs()}
    unit = torch.finfo(torch.float32).eps / 2 * (1 + (lse.abs().max().item() if lse.numel() else 0.0))
    return {name: unit * group * (term.max().item() if term.numel() else 0.0) for name, term in terms.items()}


def worst(x, truth):
    """Largest absolute error; NaN never passes."""
    error = (x.double() - truth).abs().max().item()
    return float("inf") if error != error else error


def attention_and_gradients(attend, tensors):
    """(out, grad_query, grad_key, grad_value) of a differentiable attention."""
    query, key, value, grad_out = tensors
    leaves = [x.detach().requires_grad_() for x in (query, key, value)]
    out = attend(*leaves)
    return (out.detach(), *torch.autograd.grad(out, leaves, grad_out))


ODD_SIZES = [(1, 1), (1, 257), (2, 3), (64, 64), (65, 63), (113, 203), (203, 113), (128, 217)]
HEAD_DIMS = [1, 8, 40, 64, 96, 128]

CASES = [
    *(Case(sq, sk, 40, is_causal) for sq, sk in ODD_SIZES for is_causal in (False, True)),
    *(Case(67, 93, d, is_causal, heads=4, heads_kv=4) for d in HEAD_DIMS for is_causal in (False, True)),
    Case(70, 90, 32, True, heads=6, heads_kv=2, batch=2),
    Case(70, 90, 32, False, heads=3, heads_kv=1),
    Case(64, 64, 16, False, magnitude=10),
    Case(64, 64, 16, True, magnitude=10),
    Case(0, 5, 16),
]
