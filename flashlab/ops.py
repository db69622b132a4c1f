"""torch custom operators: CPU and CUDA dispatch, shapes for the compiler; and the autograd functions that tie them together.

Operators take tensors and numbers alone, so a `Spec` and its `Extras` travel flattened: `flatten` and `_described` are inverses.
"""

import functools
import itertools

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from flashlab import blockwise, second_order
from flashlab.layout import empty_results
from flashlab.spec import NO_EXTRAS, Extras, Spec

TENSORS = ", ".join(f"Tensor? {name}" for name in Extras._fields)
NUMBERS = (
    "float? scale, bool is_causal, int left, int right, bool bottom_right, float softcap, float dropout_p, "
    "str mask_mod, str bias_mod, bool deterministic"
)
EXTRAS = len(Extras._fields)
FEATURES = f"{TENSORS}, {NUMBERS}"
SAVED = "Tensor query, Tensor key, Tensor value"

PLAIN = {torch.Tensor, torch.nn.Parameter}  # no subclass of which torch or others make more

_mods = {}  # the functions of (i, j) that operators know by name
_names = {}
_numbers = itertools.count()


def name_of(mod):
    """A name by which operators find a `mask_mod` or `bias_mod` again."""
    if mod is None:
        return ""
    if mod not in _names:
        _names[mod] = f"{getattr(mod, '__module__', '')}.{getattr(mod, '__name__', 'mod')}#{next(_numbers)}"
        _mods[_names[mod]] = mod
    return _names[mod]


# The compiler calls it and keeps the name: what it traces, it does only after the graph has run. This is what
# torch.compiler.assume_constant_result sets, which would import the compiler, and Triton.
name_of._dynamo_marked_constant = True


def _transforms():
    """How many of torch.func's transforms this call is inside of."""
    return torch._C._functorch.get_dynamic_layer_stack_depth()


_transforms._dynamo_marked_constant = True  # called while tracing: compilers of older torch do not know what it calls


def apply(query, key, value, spec: Spec, extras: Extras):
    """(out, lse), differentiable."""
    transformed = torch._C._are_functorch_transforms_active()
    if torch.compiler.is_compiling():
        tensors = (query, key, value, *extras)  # inside of torch.func.grad they want gradients without saying so
        if forward_ad._current_level >= 0:
            raise NotImplementedError("attention has no forward-mode derivatives (torch.func.jvp, jacfwd): use torch.func.vjp or jacrev.")
        if transformed and _transforms() > 1:  # torch would compile second derivatives that are zero
            raise NotImplementedError(
                "attention is not compiled inside of two or more transforms of torch.func: compile inside of them, or without fullgraph."
            )
        if not (torch.is_grad_enabled() and (transformed or any(x is not None and x.requires_grad for x in tensors))):
            return attention_forward(query, key, value, *flatten(spec, extras))
        # The compiler wants each tensor once, and attention(x, x, x) is common.
        query, key, value, *extras = (x if x is None else x.view_as(x) for x in tensors)
        return Attention.apply(query, key, value, *flatten(spec, extras))
    if transformed or is_traced():
        return Attention.apply(query, key, value, *flatten(spec, extras))
    tensors = (query, key, value) if extras is NO_EXTRAS else (query, key, value, *extras)
    wanted = torch.is_grad_enabled() and (spec.bias_mod is not None or any(x is not None and x.requires_grad for x in tensors))
    if not wanted and forward_ad._current_level < 0:  # the function raises in forward mode, and keeps no graph of what a bias_mod reads
        return attention_forward.of(spec, extras, query, key, value)
    return _differentiable(query, key, value, spec, functools.partial(attention_forward.of, spec, extras), extras)


def apply_again(query, key, value, spec, forward):
    """`apply` of a call like one before, without extras. forward: what `forward_like` found out then."""
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        return _differentiable(query, key, value, spec, forward)
    return forward(query, key, value)


def _differentiable(query, key, value, spec, forward, extras=NO_EXTRAS):
    """EagerAttention.apply, or what it comes down to once default arguments are bound, of which there are none: that takes a while."""
    return super(torch.autograd.Function, EagerAttention).apply(query, key, value, spec, forward, *(() if extras is NO_EXTRAS else extras))


def is_traced():
    """Whether torch's compiler or torch.jit.trace looks on, rather than that anything is computed for good."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def is_watched():
    """Whether anybody wants to see which operators run: who traces, transforms, intercepts, or differentiates forward."""
    return is_traced() or torch._C._are_functorch_transforms_active() or is_in_torch_dispatch_mode() or forward_ad._current_level >= 0


def is_plain(x):
    """Whether a tensor is no more than its memory: no subclass, and no view that means the negative."""
    return type(x) in PLAIN and not x.is_neg()


def flatten(spec: Spec, extras: Extras):
    """Spec and Extras as the flat list that operators take."""
    numbers = (spec.scale, spec.is_causal, *spec.window, spec.bottom_right, spec.softcap, spec.dropout_p)
    return (*extras, *numbers, name_of(spec.mask_mod), name_of(spec.bias_mod), spec.deterministic)


def _described(query, features):
    """(Spec, Extras) of the flat list."""
    extras, (scale, *numbers) = features[:EXTRAS], features[EXTRAS:]
    scale = query.shape[-1] ** -0.5 if scale is None else scale  # the compiler may keep head_dim symbolic
    return _spec(scale, *numbers), NO_EXTRAS if all(x is None for x in extras) else Extras(*extras)


@functools.lru_cache(1024)
def _spec(scale, is_causal, left, right, bottom_right, softcap, dropout_p, mask_mod, bias_mod, deterministic):
    mods = (_mods[name] if name else None for name in (mask_mod, bias_mod))
    return Spec(scale, is_causal, (left, right), bottom_right, softcap, dropout_p, *mods, deterministic)


@torch.autocast("cpu", enabled=False)
def _forward_on_cpu(query, key, value, spec, extras):
    return blockwise.forward(query, key, value, spec, extras)


@torch.autocast("cpu", enabled=False)
def _backward_on_cpu(grad_out, grad_lse, query, key, value, out, lse, spec, extras):
    return blockwise.backward(grad_out, query, key, value, out, lse, spec, grad_lse, extras)


@torch.autocast("cpu", enabled=False)
def _mask_gradient_on_cpu(grad_out, query, key, value, lse, delta, spec, extras):
    return blockwise.mask_gradient(grad_out, query, key, value, lse, delta, spec, extras)


def forward_like(query, key, value, spec):
    """(query, key, value) → (out, lse) of any tensors that lie as these do, where nobody watches."""
    if not query.is_cuda:
        return functools.partial(attention_forward.of, spec, NO_EXTRAS)
    forward = _kernels().forward_like(query, key, value, spec, NO_EXTRAS)
    if torch.cuda.device_count() == 1:
        return forward

    def on_its_gpu(query, key, value):
        with torch.cuda.device_of(query):
            return forward(query, key, value)

    return on_its_gpu


def _forward_on_cuda(query, key, value, spec, extras):
    with torch.cuda.device_of(query):
        return _kernels().forward_like(query, key, value, spec, extras)(query, key, value)


def _backward_on_cuda(grad_out, grad_lse, query, key, value, out, lse, spec, extras):
    with torch.cuda.device_of(query):
        return _kernels().backward(query, key, value, spec, extras, grad_out)(grad_out, query, key, value, out, lse, grad_lse=grad_lse)


def _mask_gradient_on_cuda(grad_out, query, key, value, lse, delta, spec, extras):
    from flashlab.kernels.mask_gradient import mask_gradient

    with torch.cuda.device_of(query):
        return mask_gradient(grad_out, query, key, value, lse, delta, spec, extras)


@functools.cache
def _kernels():
    """Which kernels serve a call: what imports Triton."""
    _require_triton()
    from flashlab.kernels import paths

    return paths


def _forward_shapes(query, key, value, *features):
    return empty_results(query, value, packed=False)


def _backward_shapes(grad_out, grad_lse, query, key, value, out, lse, *features):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), torch.empty_like(lse)


def _mask_gradient_shape(grad_out, query, key, value, lse, delta, *features):
    mask = features[0]
    return mask.new_empty(mask.shape)


class Operator:
    """An operator of torch, and the functions behind it.

    The compiler needs the operator, and so does whoever intercepts operators. Any other call of plain tensors goes straight to the
    function: torch's dispatcher takes longer to look at 25 arguments than a small kernel runs.
    """

    def __init__(self, name, arguments, results, on_cpu, on_cuda, shapes):
        torch.library.define(f"flashlab::{name}", f"({arguments}, {FEATURES}) -> {results}")
        self.by_device = {"cpu": on_cpu, "cuda": on_cuda}
        names = [argument.split()[-1] for argument in arguments.split(", ")]
        for device, function in self.by_device.items():
            torch.library.impl(f"flashlab::{name}", device, _flattened(function, len(names), names.index("query")))
        torch.library.register_fake(f"flashlab::{name}", shapes)
        self.registered = getattr(torch.ops.flashlab, name).default

    def __call__(self, *arguments):
        """Tensors, and features that are flattened."""
        return self.registered(*arguments)

    def of(self, spec, extras, *tensors):
        """The same, of features that are not flattened."""
        function = self.by_device.get(tensors[0].device.type)
        involved = tensors if extras is NO_EXTRAS else tensors + extras
        if function is None or is_watched() or not all(x is None or is_plain(x) for x in involved):
            return self.registered(*tensors, *flatten(spec, extras))
        return function(*tensors, spec, extras)


def _flattened(function, tensors, query):
    """A function of (*tensors, spec, extras) as the operator calls it. query: which of the tensors that is."""

    def flattened(*arguments):
        return function(*arguments[:tensors], *_described(arguments[query], arguments[tensors:]))

    return flattened


attention_forward = Operator("attention_forward", SAVED, "(Tensor, Tensor)", _forward_on_cpu, _forward_on_cuda, _forward_shapes)
attention_backward = Operator(
    "attention_backward", f"Tensor grad_out, Tensor? grad_lse, {SAVED}, Tensor out, Tensor lse", "(Tensor, Tensor, Tensor, Tensor)",
    _backward_on_cpu, _backward_on_cuda, _backward_shapes,
)  # fmt: skip
attention_mask_gradient = Operator(
    "attention_mask_gradient", f"Tensor grad_out, {SAVED}, Tensor lse, Tensor delta", "Tensor",
    _mask_gradient_on_cpu, _mask_gradient_on_cuda, _mask_gradient_shape,
)  # fmt: skip


class Attention(torch.autograd.Function):
    """(out, lse); differentiable in query, key, value, attn_mask and sinks. Forward-mode derivatives raise."""

    @staticmethod
    def forward(query, key, value, *features):
        return attention_forward(query, key, value, *features)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[: 3 + EXTRAS], *output)
        ctx.numbers = inputs[3 + EXTRAS :]
        ctx.set_materialize_grads(False)  # most callers drop lse: its gradient stays None instead of a tensor of zeros

    @staticmethod
    def backward(ctx, grad_out, grad_lse):
        query, key, value, *extras, out, lse = ctx.saved_tensors
        features = *extras, *ctx.numbers
        if grad_out is None:
            grad_out = torch.zeros_like(out)
        # Only create_graph=True leaves gradients on here. Compiled code is never differentiated twice.
        twice = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        gradients = AttentionBackward.apply if twice else AttentionBackward.forward
        grads = gradients(*_wanted(ctx.needs_input_grad[3:]), grad_out, grad_lse, query, key, value, out, lse, *features)
        return *grads[:3], *_of_extras(grads), *(None,) * len(ctx.numbers)

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _one_by_one(Attention, info, in_dims, arguments)


class EagerAttention(torch.autograd.Function):
    """`Attention` whose forward pass neither the compiler nor a transform looks at. A small call feels how many arguments there are."""

    @staticmethod
    def forward(ctx, query, key, value, spec, forward, *extras):
        out, lse = forward(query, key, value)
        ctx.save_for_backward(query, key, value, *extras, out, lse)
        ctx.spec = spec
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx, grad_out, grad_lse):
        query, key, value, *extras, out, lse = ctx.saved_tensors
        given = Extras(*extras) if extras else NO_EXTRAS
        if grad_out is None:
            grad_out = torch.zeros_like(out)
        compiling = torch.compiler.is_compiling()
        if not compiling and torch._C._functorch.is_legacy_batchedtensor(grad_out):
            raise NotImplementedError(
                "attention takes no batch of gradients (is_grads_batched; torch.autograd.functional with vectorize): use torch.func.jacrev."
            )
        arguments = *_wanted(ctx.needs_input_grad[5:]), grad_out, grad_lse, query, key, value, out, lse
        if torch.is_grad_enabled() and not compiling:  # create_graph=True
            grads = AttentionBackward.apply(*arguments, *flatten(ctx.spec, given))
        else:
            grads = _gradients(lambda operator, *tensors: operator.of(ctx.spec, given, *tensors), given.sinks, *arguments)
        return *grads[:3], None, None, *(_of_extras(grads) if extras else ())


def _wanted(extras):
    """(mask_wanted, sinks_wanted), from which of the extras want a gradient."""
    return (extras[0], extras[Extras._fields.index("sinks")]) if extras else (False, False)


def _of_extras(grads):
    """The gradients of extras, in their order."""
    *_, grad_mask, grad_sinks = grads
    by_name = {"attn_mask": grad_mask, "sinks": grad_sinks}
    return (by_name.get(name) for name in Extras._fields)


def _gradients(run, sinks, mask_wanted, sinks_wanted, grad_out, grad_lse, query, key, value, out, lse):
    """Those of query, key, value, attn_mask and sinks. run: calls an operator with tensors, and the features."""
    *grads, delta = run(attention_backward, grad_out, grad_lse, query, key, value, out, lse)
    grad_mask = run(attention_mask_gradient, grad_out, query, key, value, lse, delta) if mask_wanted else None
    grad_sinks = _sinks_gradient(sinks, lse, delta) if sinks_wanted else None
    return *grads, grad_mask, grad_sinks


class AttentionBackward(torch.autograd.Function):
    """The gradients of `Attention`, themselves differentiable."""

    @staticmethod
    def forward(mask_wanted, sinks_wanted, grad_out, grad_lse, query, key, value, out, lse, *features):
        sinks = Extras(*features[:EXTRAS]).sinks
        arguments = mask_wanted, sinks_wanted, grad_out, grad_lse, query, key, value, out, lse
        return _gradients(lambda operator, *tensors: operator(*tensors, *features), sinks, *arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, _, grad_out, grad_lse, query, key, value, _, _, *features = inputs
        ctx.save_for_backward(grad_out, grad_lse, query, key, value, *features[:EXTRAS])
        ctx.numbers = features[EXTRAS:]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grads_of_grads):
        grad_out, grad_lse, query, key, value, *extras = ctx.saved_tensors
        spec, extras = _described(query, (*extras, *ctx.numbers))
        with torch.autocast(query.device.type, enabled=False):
            grads = second_order.backward_of_backward(grads_of_grads, grad_out, grad_lse, query, key, value, spec, extras)
        # out and lse were functions of query, key and value: what they would receive is in those gradients already.
        return None, None, *grads[:-2], None, None, *_of_extras(grads), *(None,) * len(ctx.numbers)

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _one_by_one(AttentionBackward, info, in_dims, arguments)


def _one_by_one(function, info, in_dims, arguments):
    """The rule for torch.func.vmap: each slice as a call of its own, so every feature means what it means without vmap."""

    def slice_of(argument, dim, number):
        return argument.select(dim, number) if dim is not None else argument

    calls = [
        function.apply(*(slice_of(argument, dim, number) for argument, dim in zip(arguments, in_dims, strict=True)))
        for number in range(info.batch_size)
    ]
    stacked = tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*calls, strict=True))
    return stacked, tuple(None if x is None else 0 for x in stacked)


def _sinks_gradient(sinks, lse, delta):
    """A sink is a key whose value is 0: its gradient is −Σ p · delta over the rows of its head."""
    share = torch.exp(sinks.to(lse.dtype)[:, None] - lse).masked_fill(lse == -torch.inf, 0.0)  # (B, Hq, Sq)
    return -(share * delta).sum((0, 2)).to(sinks.dtype)


def _require_triton():
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "CUDA tensors need Triton, which is not installed: pip install triton (on Windows: triton-windows). "
            "`flashlab doctor` says what else this machine needs."
        ) from error
