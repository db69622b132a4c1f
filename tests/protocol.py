"""How an implementation is judged: flash-attention's protocol, against the float64 oracle.

Its error may be at most twice that of plain PyTorch in the same dtype, or what a float32 lse makes unavoidable.
"""

from dataclasses import dataclass

import torch
from torch.overrides import TorchFunctionMode

from flashlab import block_mask, reference
from flashlab.attention import described
from flashlab.masks import documents
from flashlab.spec import drop, shape_scores


def jagged(batch, head, i, j):
    """A window whose width depends on the row, the head and the batch element, and a few keys that all see."""
    return (j >= i - (i % 7) * 3 - head * 5 - batch) & (j <= i + 9) | (j < 2)


def nearer(batch, head, i, j):
    """A bias of the user's own."""
    return (j - i) * 0.01 * (head + 1)


# What a feature's name stands for: public arguments, drawn for a case.
FEATURES = {
    "bottom_right": lambda case, draw, device, dtype: dict(alignment="bottom_right"),
    "window": lambda case, draw, device, dtype: dict(window=(17, 5)),
    "left_window": lambda case, draw, device, dtype: dict(window=(30, None)),
    "narrow_window": lambda case, draw, device, dtype: dict(window=(0, 0)),
    "softcap": lambda case, draw, device, dtype: dict(softcap=3.0),
    "alibi": lambda case, draw, device, dtype: dict(alibi_slopes=draw(case.batch, case.heads).abs().to(device)),
    "bias": lambda case, draw, device, dtype: dict(attn_mask=draw(case.batch, case.heads, case.seqlen_q, case.seqlen_k).to(device, dtype)),
    "shared_bias": lambda case, draw, device, dtype: dict(attn_mask=draw(case.seqlen_q, case.seqlen_k).to(device)),
    "key_bias": lambda case, draw, device, dtype: dict(attn_mask=draw(case.batch, 1, 1, case.seqlen_k).to(device, dtype)),
    "row_bias": lambda case, draw, device, dtype: dict(attn_mask=draw(case.heads, case.seqlen_q, 1).to(device)),
    "bool_mask": lambda case, draw, device, dtype: dict(attn_mask=(draw(case.batch, 1, case.seqlen_q, case.seqlen_k) > 0.3).to(device)),
    "padding": lambda case, draw, device, dtype: dict(attn_mask=(draw(case.batch, 1, 1, case.seqlen_k) > -0.5).to(device)),
    "sinks": lambda case, draw, device, dtype: dict(sinks=draw(case.heads).to(device)),
    "dropout": lambda case, draw, device, dtype: dict(dropout_p=0.25, seed=7),
    "jagged": lambda case, draw, device, dtype: dict(mask_mod=jagged),
    "jagged_blocks": lambda case, draw, device, dtype: dict(
        block_mask=block_mask(jagged, case.seqlen_q, case.seqlen_k, batch=case.batch, heads=case.heads, device=device)
    ),
    "documents": lambda case, draw, device, dtype: dict(mask_mod=documents, **case.labels(device)),
    "document_blocks": lambda case, draw, device, dtype: dict(
        block_mask=block_mask(documents, case.seqlen_q, case.seqlen_k, **case.labels(device))
    ),
    "bias_mod": lambda case, draw, device, dtype: dict(bias_mod=nearer),
}


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
    value_dim: int | None = None  # None: head_dim
    features: tuple = ()

    @property
    def spec(self):
        return self.described(*self.tensors(torch.float32)[:3])[3]

    def tensors(self, dtype, device="cpu", seed=0):
        """query, key, value, grad_out."""
        draw = drawing(seed)
        value_dim = self.value_dim or self.head_dim
        return (
            (self.magnitude * draw(self.batch, self.heads, self.seqlen_q, self.head_dim)).to(device, dtype),
            (self.magnitude * draw(self.batch, self.heads_kv, self.seqlen_k, self.head_dim)).to(device, dtype),
            draw(self.batch, self.heads_kv, self.seqlen_k, value_dim).to(device, dtype),
            draw(self.batch, self.heads, self.seqlen_q, value_dim).to(device, dtype),
        )

    def options(self, dtype, device="cpu", seed=0):
        """The other arguments of `attention`."""
        draw = drawing(seed + 1)
        options = dict(is_causal=self.is_causal, enable_gqa=True)
        for feature in self.features:
            options |= FEATURES[feature](self, draw, device, dtype)
        return options

    def labels(self, device):
        """Documents of some forty positions, the same for every batch element."""
        return {
            name: (torch.arange(length, dtype=torch.int32, device=device) // 41)[None]
            for name, length in (("query_labels", self.seqlen_q), ("key_labels", self.seqlen_k))
        }

    def described(self, query, key, value):
        return described(query, key, value, **self.options(query.dtype, query.device))


def drawing(seed):
    """A function that draws normal tensors on the CPU, the same ones everywhere."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def plain_attention(query, key, value, spec, extras):
    """Attention as one would write it in PyTorch, in the inputs' own dtype."""
    dtype = query.dtype
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    pairs = reference.all_pairs(query, key, spec, extras)
    scores = shape_scores(query @ key.mT * spec.scale, spec, pairs).to(dtype)
    if extras.sinks is not None:
        scores = torch.cat([scores, extras.sinks.to(dtype)[:, None, None].expand(*scores.shape[:3], 1)], dim=-1)
    hidden = (scores == -torch.inf).all(-1, keepdim=True)
    probs = scores.masked_fill(hidden, 0.0).softmax(-1).masked_fill(hidden, 0.0)
    return drop(probs[..., : key.shape[2]], spec, pairs).to(dtype) @ value


class NumpyProducts(TorchFunctionMode):
    """Products of matrices as Triton's interpreter forms them, with NumPy, whose float32 sums are not rounded as PyTorch's are.

    Which of the two is closer to the truth depends on the processor: up to twice, at 256 terms.
    """

    def __torch_function__(self, function, types, arguments=(), named=None):
        if function in (torch.Tensor.__matmul__, torch.Tensor.matmul, torch.matmul):
            return _NumpyProduct.apply(*arguments)
        return function(*arguments, **(named or {}))


class _NumpyProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return torch.from_numpy(a.numpy(force=True) @ b.numpy(force=True))

    @staticmethod
    def backward(ctx, grad):
        a, b = (x.numpy(force=True) for x in ctx.saved_tensors)
        grad = grad.numpy(force=True)
        return torch.from_numpy(grad @ b.mT), torch.from_numpy(a.mT @ grad)


def differentiable(tensors, options):
    """The arguments that get gradients, by name, each a fresh leaf; and the other options."""
    leaves = {name: x.detach().requires_grad_() for name, x in zip(("query", "key", "value"), tensors, strict=False)}
    options = dict(options)
    for name in ("attn_mask", "sinks"):
        if name in options and options[name].is_floating_point():
            leaves[name] = options.pop(name).detach().requires_grad_()
    return leaves, options


def attention_and_gradients(attend, tensors, options=None):
    """{"out": …, "grad_query": …, …} of a function with the arguments of `flashlab.attention`."""
    leaves, options = differentiable(tensors, options or {})
    out = attend(**leaves, **options)
    grads = torch.autograd.grad(out, list(leaves.values()), tensors[3])
    return {"out": out.detach()} | {f"grad_{name}": grad for name, grad in zip(leaves, grads, strict=True)}


def assert_as_good_as_plain(case, ours, tensors, degenerate=False):
    """ours: what `attention_and_gradients` gives, compared one by one with the oracle. degenerate: see `float32_rounding`."""
    query, key, value, grad_out = tensors
    options = case.options(query.dtype, query.device)
    oracle = true_results(case, tensors)
    plain = [attention_and_gradients(lambda **arguments: plain_attention(*described(**arguments)), tensors, options)]
    if query.dtype == torch.float32 and query.device.type == "cpu":
        with NumpyProducts():
            plain += [attention_and_gradients(lambda **arguments: plain_attention(*described(**arguments)), tensors, options)]
    unavoidable = float32_rounding(case, tensors, degenerate)
    assert set(ours) == set(plain[0])
    for name, mine in ours.items():
        truth, theirs = oracle[name], [results[name] for results in plain]
        assert mine.shape == truth.shape and mine.dtype == theirs[0].dtype, f"{name}: {mine.shape}, {mine.dtype} for {case}"
        if truth.numel() == 0:
            continue
        rounded = truth.to(mine.dtype)
        one_addition = ((rounded + 0.3 - 0.3) - rounded).abs().max().item()
        error, allowed = worst(mine, truth), 2 * max(*(worst(x, truth) for x in theirs), one_addition, unavoidable[name])
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g} for {case}, {query.dtype}"


@torch.no_grad()
def true_results(case, tensors):
    """The oracle's out and gradients, by name."""
    query, key, value, grad_out = tensors
    query, key, value, spec, extras = case.described(query, key, value)
    grads = reference.all_gradients(grad_out, query, key, value, spec, None, extras)
    results = {"out": reference.attention(query, key, value, spec, extras)[0]}
    results |= dict(zip(("grad_query", "grad_key", "grad_value"), grads, strict=False))
    mask = case.options(query.dtype, query.device).get("attn_mask")
    if mask is not None and mask.is_floating_point():
        results["grad_attn_mask"] = grads[3].sum_to_size(extras.attn_mask.shape).reshape(mask.shape)
    if extras.sinks is not None:
        results["grad_sinks"] = grads[4]
    return results


@torch.no_grad()
def float32_rounding(case, tensors, degenerate=False):
    """What rounding every term of each sum once to float32 amounts to, where p = exp(score − lse) comes from a float32 lse.

    Plain PyTorch normalises by the sum of its own exponentials and keeps P; whoever recomputes P from lse is off by lse's rounding.

    degenerate: the problem may be so small that every gradient is 0 but for rounding, a row that sees one key for example. Then what
    remains of p · (dp − delta) is that delta comes from the rounded out, as in every FlashAttention. And with a handful of results the
    largest error of plain PyTorch may be small by luck: then a score's own rounding counts too, that of a sum of head_dim products
    and of what is added to it.
    """
    query, key, value, grad_out = tensors
    query, key, value, spec, extras = case.described(query, key, value)
    group = case.heads // case.heads_kv
    lse = reference.attention(query, key, value, spec, extras)[1]
    query, key, value, grad_out = (x.double() for x in (query, key, value, grad_out))
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    pairs = reference.all_pairs(query, key, spec, extras)
    finite = lse.masked_fill(lse == -torch.inf, torch.inf)
    scores = shape_scores(query @ key.mT * spec.scale, spec, pairs)
    p = torch.exp(scores - finite[..., None])
    largest = lse[lse.isfinite()].abs().max().item() if lse.isfinite().any() else 0.0
    if degenerate:  # relative to the rounding of lse, which `unit` holds
        summed = query.abs() @ key.abs().mT * abs(spec.scale) + scores.masked_fill(scores == -torch.inf, 0.0).abs()
        p = p * (1 + summed / (1 + largest))
    kept = drop(p, spec, pairs)
    dp = drop(grad_out.abs() @ value.abs().mT, spec, pairs)
    delta = (p * dp).sum(-1, keepdim=True)
    out_rounding = (
        (grad_out.abs() * (kept @ value).abs()).sum(-1, keepdim=True) * torch.finfo(tensors[0].dtype).eps / torch.finfo(torch.float32).eps
    )
    ds = p * (dp + delta + (out_rounding if degenerate else 0.0))
    terms = {
        "out": kept @ value.abs(),
        "grad_query": ds @ key.abs() * abs(spec.scale),
        "grad_key": ds.mT @ query.abs() * abs(spec.scale),
        "grad_value": kept.mT @ grad_out.abs(),
    }
    # Gradients of masks and sinks are sums of p · (dp − delta), of which little but delta's rounding may remain in any problem.
    if extras.attn_mask is not None:
        terms["grad_attn_mask"] = (ds + p * out_rounding).sum_to_size(extras.attn_mask.shape)
    if extras.sinks is not None:
        share = torch.exp(extras.sinks.double()[:, None] - finite)
        terms["grad_sinks"] = (share * (delta + out_rounding)[..., 0]).sum((0, 2))
    unit = torch.finfo(torch.float32).eps / 2 * (1 + largest)
    return {name: unit * group * (term.max().item() if term.numel() else 0.0) for name, term in terms.items()}


def worst(x, truth):
    """Largest absolute error; NaN never passes."""
    error = (x.double() - truth).abs().max().item()
    return float("inf") if error != error else error


ODD_SIZES = [(1, 1), (1, 257), (2, 3), (64, 64), (65, 63), (113, 203), (203, 113), (128, 217)]
HEAD_DIMS = [1, 8, 40, 64, 96, 128, 192, 256]

PLAIN_CASES = [
    *(Case(sq, sk, 40, is_causal) for sq, sk in ODD_SIZES for is_causal in (False, True)),
    *(Case(67, 93, d, is_causal, heads=4, heads_kv=4) for d in HEAD_DIMS for is_causal in (False, True)),
    Case(70, 90, 32, True, heads=6, heads_kv=2, batch=2),
    Case(70, 90, 32, False, heads=3, heads_kv=1),
    Case(70, 90, 24, True, value_dim=80),
    Case(70, 90, 80, False, value_dim=24),
    Case(64, 64, 16, False, magnitude=10),
    Case(64, 64, 16, True, magnitude=10),
    Case(0, 5, 16),
]
FEATURE_CASES = [
    *(Case(75, 140, 24, heads=2, heads_kv=1, batch=2, features=(feature,)) for feature in FEATURES),
    *(Case(sq, sk, 24, True, features=("bottom_right",)) for sq, sk in ((140, 75), (1, 90), (130, 131))),
    *(Case(140, 75, 24, features=features) for features in (("window", "bottom_right"), ("left_window", "bottom_right", "sinks"))),
    *(Case(90, 90, 24, True, heads=4, heads_kv=2, features=features) for features in (
        ("alibi", "window", "softcap"), ("bias", "softcap", "sinks", "dropout"), ("bool_mask", "alibi", "left_window"),
        ("jagged", "bias_mod", "softcap"), ("key_bias", "dropout"),
    )),
    Case(150, 150, 16, features=("document_blocks", "dropout", "sinks", "alibi"), value_dim=48),
]  # fmt: skip
CASES = PLAIN_CASES + FEATURE_CASES
