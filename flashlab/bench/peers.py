"""Whom flashlab is measured against: what this machine has, by name and version, and how each is called.

A peer takes a `Problem` and its (query, key, value), (B, H, S, D), and returns a function without arguments that gives the output in the
same layout. What it cannot compute it refuses with an error, which the record keeps.
"""

import importlib.util
from dataclasses import dataclass
from importlib import metadata

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashlab import __version__, attention, attention_varlen, explain
from flashlab.bench import problems

MATH_LIMIT = 2048  # tokens: beyond, SDPA's formula in plain torch holds S×S matrices of many GiB
FLEX_AT = (1024, 4096, 16384)  # lengths of the main sweep at which FlexAttention is compiled anew, which takes longer than all else here


class Refused(ValueError):
    """A peer does not compute this problem."""


@dataclass(frozen=True)
class Peer:
    """One implementation of attention."""

    name: str
    version: str
    prepare: object  # (problem, query, key, value) → a function that attends


def found():
    """(the peers that are here, {name: why it is not} of the others)."""
    torch_version = torch.__version__
    here = [
        Peer("flashlab", __version__, _flashlab),
        Peer("flashlab, deterministic=False", __version__, _flashlab_in_any_order),
        Peer("FlashAttention-2 in torch", torch_version, _flash_in_torch),
        Peer("cuDNN in torch", torch_version, lambda *call: _sdpa(SDPBackend.CUDNN_ATTENTION, *call)),
        Peer("memory-efficient in torch", torch_version, lambda *call: _sdpa(SDPBackend.EFFICIENT_ATTENTION, *call)),
        Peer("the formula in torch", torch_version, _formula),
        Peer("FlexAttention", torch_version, _flex),
    ]
    missing = {}
    for name, module, distribution, prepare in (
        ("flash-attn 2", "flash_attn", "flash-attn", _flash_attn_2),
        ("flash-attn 3", "flash_attn_interface", "flash-attn-3", _flash_attn_3),
        ("flash-attn 4", "flash_attn.cute", "flash-attn-4", _flash_attn_4),
    ):
        if _importable(module):
            here.append(Peer(name, _version(distribution), prepare))
        else:
            missing[name] = f"no module {module}"
    return here, missing


def _flashlab(problem, query, key, value):
    if problem.packed:
        starts, (query, key, value) = _starts(problem, query), (x[0].transpose(0, 1) for x in (query, key, value))
        return lambda: attention_varlen(query, key, value, starts, starts, is_causal=problem.is_causal).transpose(0, 1)[None]
    options = _options(problem)
    return lambda: attention(query, key, value, **options)


def _flashlab_in_any_order(problem, query, key, value):
    options = _options(problem) | dict(deterministic=False)
    if problem.packed or "in any order" not in explain(query, key, value, **options).reason:
        raise Refused("takes the same kernels as with deterministic=True")
    return lambda: attention(query, key, value, **options)


def _options(problem):
    options = dict(is_causal=problem.is_causal, enable_gqa=problem.group > 1)
    return options if problem.window is None else options | dict(window=(problem.window, 0))


def _flash_in_torch(problem, query, key, value):
    if problem.window is None and not problem.packed:
        return _sdpa(SDPBackend.FLASH_ATTENTION, problem, query, key, value)
    starts, length, options = None, problem.seqlen, {}
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    if problem.packed:
        starts, length, (query, key, value) = _starts(problem, query), max(problem.packed), (x[0] for x in (query, key, value))
    if problem.window is not None:
        options = dict(window_size_left=problem.window, window_size_right=0)
    attend = torch.ops.aten._flash_attention_forward  # SDPA has neither windows nor packed sequences

    def call():
        out = attend(query, key, value, starts, starts, length, length, 0.0, problem.is_causal, False, **options)[0]
        return out.transpose(-3, -2) if out.dim() == 4 else out.transpose(0, 1)[None]

    return call


def _sdpa(backend, problem, query, key, value):
    if problem.window is not None or problem.packed:
        raise Refused("SDPA has neither windows nor packed sequences")

    def call():
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(query, key, value, is_causal=problem.is_causal, enable_gqa=problem.group > 1)

    return call


def _formula(problem, query, key, value):
    if problem.seqlen > MATH_LIMIT:
        raise Refused(f"not asked beyond {MATH_LIMIT} tokens, where its S×S matrices take many GiB")
    return _sdpa(SDPBackend.MATH, problem, query, key, value)


def _flex(problem, query, key, value):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if problem not in problems.main_sweep() or problem.seqlen not in FLEX_AT:
        raise Refused(f"compiled in the main sweep at {FLEX_AT} tokens alone")
    torch.compiler.reset()  # after a few problems torch would no longer compile the same function
    attend = torch.compile(flex_attention, dynamic=False)
    mask = None
    if problem.is_causal:
        mask = create_block_mask(lambda batch, head, i, j: j <= i, None, None, problem.seqlen, problem.seqlen, device=query.device)
    return lambda: attend(query, key, value, block_mask=mask)


def _flash_attn_2(problem, query, key, value):
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    return _as_flash_attn(flash_attn_func, flash_attn_varlen_func, problem, query, key, value)


def _flash_attn_3(problem, query, key, value):
    from flash_attn_interface import flash_attn_func, flash_attn_varlen_func

    return _as_flash_attn(flash_attn_func, flash_attn_varlen_func, problem, query, key, value)


def _flash_attn_4(problem, query, key, value):
    from flash_attn.cute import flash_attn_func, flash_attn_varlen_func

    return _as_flash_attn(flash_attn_func, flash_attn_varlen_func, problem, query, key, value)


def _as_flash_attn(attend, attend_packed, problem, query, key, value):
    options = dict(causal=problem.is_causal) | ({} if problem.window is None else dict(window_size=(problem.window, 0)))
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    first = lambda result: result[0] if isinstance(result, tuple) else result  # noqa: E731 (some versions return lse as well)
    if not problem.packed:
        return lambda: first(attend(query, key, value, **options)).transpose(1, 2)
    starts, longest = _starts(problem, query), max(problem.packed)
    lengths = dict(cu_seqlens_q=starts, cu_seqlens_k=starts, max_seqlen_q=longest, max_seqlen_k=longest)
    return lambda: first(attend_packed(query[0], key[0], value[0], **lengths, **options)).transpose(0, 1)[None]


def _starts(problem, tensor):
    """Where each packed sequence begins, and the end of the last."""
    return torch.tensor([0, *problem.packed], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(tensor.device)


def _importable(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is not here
        return False


def _version(distribution):
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"
