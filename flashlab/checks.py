"""Every check of an argument, and its message: which argument, what came, what is allowed, what to do. Of caches: `decoding_checks`."""

import math
import numbers
import types

import torch

from flashlab.blocks import BLOCK, BlockMask
from flashlab.spec import UNLIMITED

MAX_HEAD_DIM = 256
LONGEST = 2**30  # no sequence is: a window's side from here on is all of it, and positions and sides add up within 32 bits
DTYPES = {
    "cuda": (torch.float16, torch.bfloat16, torch.float32),
    "cpu": (torch.float16, torch.bfloat16, torch.float32, torch.float64),
}
LAYOUT = {4: "(batch, heads, sequence, head_dim)", 3: "(total, heads, head_dim)"}


def tensors(query, key, value, dims):
    """Three tensors of one dtype and device that flashlab computes on."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}: pass a torch.Tensor of shape {LAYOUT[dims]}.")
        if tensor.layout != torch.strided:
            raise ValueError(
                f"{name} has the layout {tensor.layout}: pass a dense tensor, {LAYOUT[dims]}, for example {name}.to_dense(); "
                "flashlab.attention_varlen takes sequences of different lengths."
            )
        if tensor.dim() != dims:
            raise ValueError(
                f"{name} has {tensor.dim()} dimensions, {shape_of(tensor)}: {dims} are needed, {LAYOUT[dims]}. "
                "For one head, unsqueeze the missing ones."
            )
    for name, tensor in (("key", key), ("value", value)):
        if tensor.dtype != query.dtype:
            raise ValueError(
                f"{name} is {tensor.dtype} and query {query.dtype}: cast them to one dtype, for example {name}.to(query.dtype)."
            )
        same_device(name, tensor, query.device)
    device = query.device.type
    if device != "cpu":
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            _addressable(name, tensor)
    if device not in DTYPES and device != "meta":
        raise ValueError(f"query is on {query.device}: flashlab runs on cuda and cpu. Move the tensors with .to('cpu') or .to('cuda').")
    allowed = DTYPES.get(device, DTYPES["cpu"])
    if query.dtype not in allowed:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise ValueError(f"query is {query.dtype}: on {device} flashlab computes {names}. Cast query, key and value to one of them.")


def heads(query, key, value, enable_gqa):
    """Shapes (B, H, S, D) that fit each other."""
    (batch, count, _, head_dim), (batch_k, count_kv, seqlen_k, head_dim_k) = query.shape, key.shape
    batch_v, count_v, seqlen_v, value_dim = value.shape
    if not batch == batch_k == batch_v:
        raise _misfit("batch sizes differ: query, key and value need the same first dimension", query, key, value)
    if count_kv != count_v or seqlen_k != seqlen_v:
        raise _misfit("key and value need the same heads and the same sequence length", query, key, value)
    if head_dim != head_dim_k:
        raise _misfit("head dims differ: query and key need the same last dimension (value's may be another)", query, key, value)
    for name, size in (("head_dim", head_dim), ("value's head_dim", value_dim)):
        if not 1 <= size <= MAX_HEAD_DIM:
            fix = f"flashlab computes 1 to {MAX_HEAD_DIM}. Split the model dimension over more heads"
            raise _misfit(f"{name} is {size}: {fix}", query, key, value)
    if count < 1 or count_kv < 1:
        raise _misfit("at least one head is needed, for query and for key", query, key, value)
    if count == count_kv:
        return
    if count % count_kv:
        divisors = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise _misfit(f"key has {count_kv} heads and query {count}: grouped heads need a divisor ({divisors})", query, key, value)
    if not enable_gqa:
        fix = "pass enable_gqa=True to let each key head serve a group"
        raise _misfit(f"key has {count_kv} heads and query {count}: {fix}", query, key, value)


def _misfit(problem, query, key, value):
    return ValueError(f"{problem}. query: {shape_of(query)}, key: {shape_of(key)}, value: {shape_of(value)}.")


def scale(value, head_dim):
    if value is None:
        return None if torch.compiler.is_compiling() else head_dim**-0.5  # compiled, the operator fills it in
    if not _finite(value):
        raise ValueError(f"scale is {value!r}: pass a finite number, or None for 1/sqrt(head_dim) = {head_dim**-0.5:.4g}.")
    return float(value)


def softcap(value):
    if value is None:
        return 0.0
    if not _finite(value) or value < 0:
        raise ValueError(f"softcap is {value!r}: pass a positive number (Gemma 2 uses 50), or None for no cap.")
    return float(value)


def dropout_p(value):
    if not _finite(value) or not 0 <= value < 1:
        raise ValueError(f"dropout_p is {value!r}: pass a number from 0 (no dropout) up to, but not including, 1.")
    return float(value)


def seed(value):
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not -(2**31) <= value < 2**31:
        raise ValueError(f"seed is {value!r}: pass an int of 32 bits, or None to draw one from torch's generator.")
    return int(value)


def alignment(value):
    if value not in ("top_left", "bottom_right"):
        raise ValueError(
            f"alignment is {value!r}: pass 'top_left' (row i meets key i) or 'bottom_right' (the last row meets the last key)."
        )
    return value


def window(value):
    if value is None:
        return (UNLIMITED, UNLIMITED)
    how = "pass (left, right), each the number of keys seen on that side of the diagonal, or -1 or None for all of them"
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"window is {value!r}: {how}.")
    sides = [UNLIMITED if side is None else side for side in value]
    for name, side in zip(("left", "right"), sides, strict=True):
        if isinstance(side, bool) or not isinstance(side, numbers.Integral) or not UNLIMITED <= side < 2**31:
            raise ValueError(f"window's {name} side is {side!r}: {how}.")
    return tuple(UNLIMITED if side >= LONGEST else int(side) for side in sides)


def mod(name, value):
    """A function of positions, or None. Triton inlines the source of functions, and other callables have none."""
    if value is None or isinstance(value, types.FunctionType) or hasattr(value, "fn"):
        return value
    kind = "may i see j?" if name == "mask_mod" else "what to add to the score"
    bound = " What it binds can be the default of a further argument: the kernels inline its source." if callable(value) else ""
    raise ValueError(f"{name} is a {type(value).__name__}: pass a function (batch, head, i, j) → {kind}, made of operators alone.{bound}")


def attn_mask(mask, query, key):
    """The mask as (B or 1, Hq or 1, Sq or 1, Sk or 1)."""
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor):
        raise ValueError(f"attn_mask is a {type(mask).__name__}: pass a torch.Tensor, bool (True: takes part) or additive.")
    same_device("attn_mask", mask, query.device)
    if mask.dtype not in (torch.bool, torch.float32, query.dtype):
        raise ValueError(
            f"attn_mask is {mask.dtype}: pass bool (True: takes part), or a number to add to each score in {query.dtype} or float32."
        )
    full = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    shape = (1,) * (4 - mask.dim()) + shape_of(mask)
    if mask.dim() > 4 or any(size not in (1, whole) for size, whole in zip(shape, full, strict=True)):
        raise ValueError(
            f"attn_mask is {shape_of(mask)}: it must broadcast to (batch, heads, seqlen_q, seqlen_k) = {full}; each size that or 1."
        )
    return mask.reshape(shape)


def alibi_slopes(slopes, query, batch):
    """The slopes as (B or 1, Hq)."""
    if slopes is None:
        return None
    count = query.shape[1]
    if not isinstance(slopes, torch.Tensor) or slopes.dtype != torch.float32:
        came = str(slopes.dtype) if isinstance(slopes, torch.Tensor) else type(slopes).__name__
        raise ValueError(f"alibi_slopes is {came}: pass a float32 tensor of shape ({count},) or ({batch}, {count}).")
    same_device("alibi_slopes", slopes, query.device)
    if shape_of(slopes) not in ((count,), (batch, count)):
        raise ValueError(f"alibi_slopes is {shape_of(slopes)}: pass one slope a query head, ({count},), or ({batch}, {count}).")
    if slopes.requires_grad:
        raise ValueError("alibi_slopes requires a gradient, which is not computed: pass slopes.detach(), or learn an attn_mask instead.")
    return slopes.reshape(-1, count)


def sinks(logits, query):
    if logits is None:
        return None
    count = query.shape[1]
    if not isinstance(logits, torch.Tensor) or logits.dtype not in (torch.float32, query.dtype):
        came = str(logits.dtype) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise ValueError(f"sinks is {came}: pass a tensor of shape ({count},), {query.dtype} or float32.")
    same_device("sinks", logits, query.device)
    if shape_of(logits) != (count,):
        raise ValueError(f"sinks is {shape_of(logits)}: pass one logit a query head, ({count},).")
    return logits


def labels(query_labels, key_labels, mask_mod, of_queries, of_keys, device):
    """Labels by name, as (B or 1, S), int32."""
    if query_labels is None and key_labels is None:
        return dict(query_labels=None, key_labels=None)
    if query_labels is None or key_labels is None:
        missing, given = ("query_labels", "key_labels") if query_labels is None else ("key_labels", "query_labels")
        raise ValueError(f"{missing} is missing where {given} is given: pass both, or neither. In self-attention they are one tensor.")
    if mask_mod is None:
        raise ValueError("query_labels and key_labels are read by a mask_mod (batch, head, i, j, label_i, label_j), and none is given.")
    for name, tensor, (batch, length) in (("query_labels", query_labels, of_queries), ("key_labels", key_labels, of_keys)):
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.int32:
            came = str(tensor.dtype) if isinstance(tensor, torch.Tensor) else f"a {type(tensor).__name__}"
            raise ValueError(f"{name} is {came}: pass an int32 tensor of shape ({batch} or 1, {length}).")
        same_device(name, tensor, device)
        if tensor.dim() != 2 or tensor.shape[0] not in (1, batch) or tensor.shape[1] != length:
            raise ValueError(f"{name} is {shape_of(tensor)}: pass one label a position, ({batch} or 1, {length}).")
    return dict(query_labels=query_labels, key_labels=key_labels)


def cu_seqlens(of_queries, of_keys, query, key):
    """Running totals of lengths, for query (1, H, total_q, D) and key (1, H, total_k, D)."""
    for name, starts, total in (("cu_seqlens_q", of_queries, query.shape[2]), ("cu_seqlens_k", of_keys, key.shape[2])):
        if not isinstance(starts, torch.Tensor) or starts.dtype != torch.int32 or starts.dim() != 1 or len(starts) < 1:
            came = f"{starts.dtype}, {shape_of(starts)}" if isinstance(starts, torch.Tensor) else f"a {type(starts).__name__}"
            raise ValueError(f"{name} is {came}: pass an int32 tensor (sequences + 1,): 0, then the running total of lengths.")
        same_device(name, starts, query.device)
        if starts.device.type == "cpu" and readable(starts):
            _running_total(name, starts.tolist(), total)
    if len(of_queries) != len(of_keys):
        raise ValueError(
            f"cu_seqlens_q describes {len(of_queries) - 1} sequences and cu_seqlens_k {len(of_keys) - 1}: "
            "each sequence has queries and keys."
        )


def block_mask(mask, query, key, mask_mod, query_labels, key_labels, is_causal, window):
    if not isinstance(mask, BlockMask):
        raise ValueError(f"block_mask is a {type(mask).__name__}: make one with flashlab.block_mask(mask_mod, seqlen_q, seqlen_k).")
    if mask_mod is not None or query_labels is not None or key_labels is not None:
        raise ValueError("block_mask brings its own mask_mod and labels: pass either block_mask, or mask_mod with its labels.")
    if is_causal or window is not None:
        raise ValueError("block_mask holds the whole mask: write is_causal and window into its mask_mod, for example `& (j <= i)`.")
    if (mask.seqlen_q, mask.seqlen_k) != (query.shape[2], key.shape[2]):
        raise ValueError(
            f"block_mask was made for {mask.seqlen_q} queries and {mask.seqlen_k} keys, and here are {query.shape[2]} and {key.shape[2]}: "
            "make one for these lengths."
        )
    batch, count = mask.row_blocks.shape[:2]
    if batch not in (1, query.shape[0]) or count not in (1, query.shape[1]):
        raise ValueError(
            f"block_mask was made for batch={batch}, heads={count}, and query has {query.shape[0]} and {query.shape[1]}: pass these, or 1."
        )
    if mask.row_blocks.device != query.device:
        raise ValueError(
            f"block_mask is on {mask.row_blocks.device} and query on {query.device}: make it there, with "
            "flashlab.block_mask(…, device=query.device)."
        )


def block_mask_sizes(mask_mod, seqlen_q, seqlen_k, batch, heads):
    if mask_mod is None:
        raise ValueError("mask_mod is None: pass a function (batch, head, i, j) → may i see j?, made of operators alone.")
    mod("mask_mod", mask_mod)
    for name, size, least in (("seqlen_q", seqlen_q, 0), ("seqlen_k", seqlen_k, 0), ("batch", batch, 1), ("heads", heads, 1)):
        if isinstance(size, bool) or not isinstance(size, numbers.Integral) or size < least:
            raise ValueError(f"{name} is {size!r}: pass a whole number from {least} on. Blocks are of {BLOCK} × {BLOCK} pairs.")


def readable(tensor):
    """Whether there are numbers to look at: the compiler has none yet, and under torch.vmap a tensor is many."""
    return not torch.compiler.is_compiling() and (tensor is None or not torch._C._functorch.is_batchedtensor(tensor))


def _running_total(name, starts, total):
    if starts[0] != 0 or starts[-1] != total:
        raise ValueError(f"{name} goes from {starts[0]} to {starts[-1]}: it must start at 0 and end at {total}, the number of rows.")
    for number, (begin, end) in enumerate(zip(starts, starts[1:], strict=False)):
        if end < begin:
            raise ValueError(
                f"{name} falls from {begin} to {end} at sequence {number}: it is a running total of lengths, pass lengths.cumsum(0)."
            )


def _addressable(name, tensor):
    """Inside of a tile of at most 256 rows and columns, kernels count elements in 32 bits."""
    for what, dim in (("row", 2 if tensor.dim() == 4 else 0), ("column", -1)):
        stride = tensor.stride(dim)
        if stride >= 2**23 and tensor.shape[dim] > 1:
            raise ValueError(
                f"{name}'s {what}s lie {stride} elements apart, and kernels address fewer than {2**23}: pass {name}.contiguous(), "
                "or a layout whose batch and heads lie outside of the sequence."
            )


def same_device(name, tensor, device):
    device = torch.device(device)
    if tensor.device.type != device.type or (device.index is not None and tensor.device != device):
        raise ValueError(f"{name} is on {tensor.device} and query on {device}: move it with {name}.to(query.device).")


def _finite(value):
    if torch.compiler.is_compiling():  # a number that the compiler keeps symbolic cannot be looked at
        return True
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)


def shape_of(tensor):
    return tuple(tensor.shape)
