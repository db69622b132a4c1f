"""Every check of an argument, and its message: which argument, what came, what is allowed, what to do."""

import math
import numbers
import types

import torch
from torch.autograd import forward_ad

from flashlab.blocks import BLOCK, BlockMask
from flashlab.spec import UNLIMITED

MAX_HEAD_DIM = 256
MOST_SPLITS = 128  # of the keys, in decoding
LONGEST = 2**30  # no sequence is: a window's side from here on is all of it, and positions and sides add up within 32 bits
FP8 = torch.float8_e4m3fn
FP8_FROM = (8, 9)  # the first GPUs that convert it
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
        if tensor.dim() != dims:
            raise ValueError(
                f"{name} has {tensor.dim()} dimensions, {_shape(tensor)}: {dims} are needed, {LAYOUT[dims]}. "
                "For one head, unsqueeze the missing ones."
            )
    for name, tensor in (("key", key), ("value", value)):
        if tensor.dtype != query.dtype:
            raise ValueError(
                f"{name} is {tensor.dtype} and query {query.dtype}: cast them to one dtype, for example {name}.to(query.dtype)."
            )
        _same_device(name, tensor, query.device)
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
    return ValueError(f"{problem}. query: {_shape(query)}, key: {_shape(key)}, value: {_shape(value)}.")


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
    _same_device("attn_mask", mask, query.device)
    if mask.dtype not in (torch.bool, torch.float32, query.dtype):
        raise ValueError(
            f"attn_mask is {mask.dtype}: pass bool (True: takes part), or a number to add to each score in {query.dtype} or float32."
        )
    full = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    shape = (1,) * (4 - mask.dim()) + _shape(mask)
    if mask.dim() > 4 or any(size not in (1, whole) for size, whole in zip(shape, full, strict=True)):
        raise ValueError(
            f"attn_mask is {_shape(mask)}: it must broadcast to (batch, heads, seqlen_q, seqlen_k) = {full}; each size that or 1."
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
    _same_device("alibi_slopes", slopes, query.device)
    if _shape(slopes) not in ((count,), (batch, count)):
        raise ValueError(f"alibi_slopes is {_shape(slopes)}: pass one slope a query head, ({count},), or ({batch}, {count}).")
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
    _same_device("sinks", logits, query.device)
    if _shape(logits) != (count,):
        raise ValueError(f"sinks is {_shape(logits)}: pass one logit a query head, ({count},).")
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
        _same_device(name, tensor, device)
        if tensor.dim() != 2 or tensor.shape[0] not in (1, batch) or tensor.shape[1] != length:
            raise ValueError(f"{name} is {_shape(tensor)}: pass one label a position, ({batch} or 1, {length}).")
    return dict(query_labels=query_labels, key_labels=key_labels)


def cu_seqlens(of_queries, of_keys, query, key):
    """Running totals of lengths, for query (1, H, total_q, D) and key (1, H, total_k, D)."""
    for name, starts, total in (("cu_seqlens_q", of_queries, query.shape[2]), ("cu_seqlens_k", of_keys, key.shape[2])):
        if not isinstance(starts, torch.Tensor) or starts.dtype != torch.int32 or starts.dim() != 1 or len(starts) < 1:
            came = f"{starts.dtype}, {_shape(starts)}" if isinstance(starts, torch.Tensor) else f"a {type(starts).__name__}"
            raise ValueError(f"{name} is {came}: pass an int32 tensor (sequences + 1,): 0, then the running total of lengths.")
        _same_device(name, starts, query.device)
        if starts.device.type == "cpu" and _readable(starts):
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


def _readable(tensor):
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


def _same_device(name, tensor, device):
    device = torch.device(device)
    if tensor.device.type != device.type or (device.index is not None and tensor.device != device):
        raise ValueError(f"{name} is on {tensor.device} and query on {device}: move it with {name}.to(query.device).")


def _finite(value):
    if torch.compiler.is_compiling():  # a number that the compiler keeps symbolic cannot be looked at
        return True
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)


def _shape(tensor):
    return tuple(tensor.shape)


def caches(query, k_cache, v_cache, block_table):
    """A query (B, Hq, Sq, D), and caches (B, Hkv, capacity, D) or, with a table, (pages, Hkv, page size, D)."""
    tensors(query, query, query, dims=4)
    layout = "(batch, key heads, capacity, head_dim)" if block_table is None else "(pages, key heads, page size, head_dim)"
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        if not isinstance(cache, torch.Tensor) or cache.dim() != 4:
            came = _shape(cache) if isinstance(cache, torch.Tensor) else f"a {type(cache).__name__}"
            raise ValueError(f"{name} is {came}: pass a tensor {layout}.")
        _same_device(name, cache, query.device)
        if cache.dtype not in (query.dtype, FP8):
            raise ValueError(
                f"{name} is {cache.dtype} and query {query.dtype}: a cache has query's dtype, or is {FP8} with k_scale and v_scale."
            )
    (batch, heads, _, head_dim), (batch_kv, heads_kv, _, head_dim_k) = query.shape, k_cache.shape
    if k_cache.shape[:3] != v_cache.shape[:3] or k_cache.dtype != v_cache.dtype:
        raise ValueError(
            f"k_cache is {_shape(k_cache)}, {k_cache.dtype}, and v_cache {_shape(v_cache)}, {v_cache.dtype}: all but the last must agree."
        )
    if block_table is not None and k_cache.shape[2] < 1:
        raise ValueError(f"k_cache is {_shape(k_cache)}, pages without room for a key: pass {layout} with page size 1 or more.")
    if block_table is None and batch != batch_kv:
        raise ValueError(
            f"query has {batch} sequences and k_cache {batch_kv}: one each, or pass a block_table that says which pages are whose."
        )
    if head_dim != head_dim_k or not 1 <= head_dim <= MAX_HEAD_DIM or not 1 <= v_cache.shape[3] <= MAX_HEAD_DIM:
        raise ValueError(
            f"query's head_dim is {head_dim}, k_cache's {head_dim_k} and v_cache's {v_cache.shape[3]}: the first two must agree, "
            f"and all be from 1 to {MAX_HEAD_DIM}."
        )
    if heads_kv < 1 or heads < 1 or heads % heads_kv:
        raise ValueError(f"query has {heads} heads and k_cache {heads_kv}: query's must be a multiple of the cache's.")


def cache_lengths(lengths, batch, capacity, added, device, look):
    """How many keys of the cache each sequence has, before any are added. look: read the numbers where there are, which waits for a GPU."""
    if lengths is None:
        if added:
            raise ValueError("cache_lengths is missing where key and value are to be added: pass how many keys each sequence has so far.")
        return None
    if not isinstance(lengths, torch.Tensor) or lengths.dtype != torch.int32 or _shape(lengths) != (batch,):
        came = f"{lengths.dtype}, {_shape(lengths)}" if isinstance(lengths, torch.Tensor) else f"a {type(lengths).__name__}"
        raise ValueError(f"cache_lengths is {came}: pass an int32 tensor ({batch},), how many keys each sequence has so far.")
    _same_device("cache_lengths", lengths, device)
    if look and batch and _readable(lengths):
        for number, length in enumerate(lengths.tolist()):
            if not 0 <= length <= capacity - added:
                more = f" and {added} to be added" if added else ""
                raise ValueError(f"cache_lengths is {length} at sequence {number}: the cache holds 0 to {capacity} keys{more}.")
    return lengths


def block_table(table, batch, pages, page, lengths, added, device, look):
    """Which page holds which keys: (batch, pages of a sequence), int32. Entries past a sequence's length may be anything."""
    if table is None:
        return None
    if not isinstance(table, torch.Tensor) or table.dtype != torch.int32 or table.dim() != 2 or len(table) != batch:
        came = f"{table.dtype}, {_shape(table)}" if isinstance(table, torch.Tensor) else f"a {type(table).__name__}"
        raise ValueError(f"block_table is {came}: pass an int32 tensor ({batch}, pages of a sequence), numbers of pages in k_cache.")
    _same_device("block_table", table, device)
    if look and batch and _readable(table) and _readable(lengths):
        used = [table.shape[1]] * batch if lengths is None else [-(-(length + added) // page) for length in lengths.tolist()]
        for number, (row, count) in enumerate(zip(table.tolist(), used, strict=True)):
            for place, entry in enumerate(row[:count]):
                if not 0 <= entry < pages:
                    raise ValueError(f"block_table is {entry} at sequence {number}, place {place}: k_cache has pages 0 to {pages - 1}.")
    return table


def cache_batch_idx(indices, batch, caches, device):
    """Whose cache each sequence reads: (batch,), int32. The numbers are looked at where that does not wait for a GPU."""
    if not isinstance(indices, torch.Tensor) or indices.dtype != torch.int32 or _shape(indices) != (batch,):
        came = f"{indices.dtype}, {_shape(indices)}" if isinstance(indices, torch.Tensor) else f"a {type(indices).__name__}"
        raise ValueError(f"cache_batch_idx is {came}: pass an int32 tensor ({batch},), the number of a cache in k_cache for each sequence.")
    _same_device("cache_batch_idx", indices, device)
    if indices.device.type == "cpu" and _readable(indices):
        for number, index in enumerate(indices.tolist()):
            if not 0 <= index < caches:
                raise ValueError(f"cache_batch_idx is {index} at sequence {number}: k_cache has caches 0 to {caches - 1}.")
    return indices


def new_keys(key, value, query, k_cache, v_cache):
    """How many keys are added to each sequence."""
    if key is None and value is None:
        return 0
    expected = (
        (query.shape[0], k_cache.shape[1], "any number", query.shape[3]),
        (query.shape[0], k_cache.shape[1], "as many", v_cache.shape[3]),
    )
    for name, x, shape in (("key", key, expected[0]), ("value", value, expected[1])):
        fits = isinstance(x, torch.Tensor) and x.dim() == 4 and (x.shape[0], x.shape[1], x.shape[3]) == (shape[0], shape[1], shape[3])
        if not fits or x.dtype != query.dtype or key is None or x.shape[2] != key.shape[2]:
            came = f"{_shape(x)}, {x.dtype}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
            raise ValueError(f"{name} is {came}: pass new keys and values together, {shape}, {query.dtype}, to be added to the cache.")
        _same_device(name, x, query.device)
    return key.shape[2]


def written_once(**tensors):
    """Adding to a cache is one operation on all of it: torch.vmap has no rule for that."""
    for name, tensor in tensors.items():
        if tensor is not None and torch._C._functorch.is_batchedtensor(tensor):
            raise ValueError(
                f"{name} is mapped over by torch.vmap, and key and value are written into the cache in place: call attention_decode "
                "outside of vmap, where query, key, value and the cache have a batch dimension of their own."
            )


def no_gradient(*tensors):
    """Decoding is for inference: what wants derivatives would get none."""
    instead = "and decoding has none: call it under torch.no_grad(), or use flashlab.attention."
    if torch.is_grad_enabled():
        if torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():  # tensors do not say there what they require
            raise ValueError(f"an input may require a gradient, of a torch.func transform that is compiled, {instead}")
        if any(isinstance(x, torch.Tensor) and _without_vmap(x).requires_grad for x in tensors):
            raise ValueError(f"an input requires a gradient, {instead}")
    if forward_ad._current_level >= 0:  # whether a tensor has a tangent cannot be asked under every transform
        raise ValueError("forward-mode derivatives are taken here, and decoding has none: call it outside of jvp and dual_level.")


def _without_vmap(tensor):
    """All slices of a tensor of which torch.vmap shows one, and which does not say there what it requires."""
    while torch._C._functorch.is_batchedtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def rotary(cos, sin, query, lengths, capacity, furthest):
    """(positions, half the rotated dims), or None and None. furthest: positions that rows of query may need."""
    if cos is None and sin is None:
        return
    for name, x in (("rotary_cos", cos), ("rotary_sin", sin)):
        if not isinstance(x, torch.Tensor) or x.dim() != 2 or not x.is_floating_point() or not 1 <= 2 * x.shape[1] <= query.shape[3]:
            came = f"{x.dtype}, {_shape(x)}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
            raise ValueError(
                f"{name} is {came}: pass (positions, rotated dims / 2), at most {query.shape[3] // 2} columns, both or neither."
            )
        _same_device(name, x, query.device)
    if cos.shape != sin.shape or lengths is None:
        raise ValueError(f"rotary_cos is {_shape(cos)} and rotary_sin {_shape(sin)}: they must agree, and cache_lengths say the positions.")
    if len(cos) < capacity:
        raise ValueError(f"rotary_cos has {len(cos)} positions, and the cache has room for {capacity} keys: pass angles for all of them.")
    if len(cos) < furthest:
        raise ValueError(
            f"rotary_cos has {len(cos)} positions, and behind a full cache the rows of query need {furthest}: pass angles for all of them, "
            "or the keys of these rows as well."
        )


def cache_scales(k_scale, v_scale, k_cache):
    """Both as (Hkv,) float32, where the cache is fp8; else None."""
    if k_cache.dtype != FP8:
        if k_scale is not None or v_scale is not None:
            raise ValueError(f"k_scale and v_scale belong to a cache of {FP8}, and k_cache is {k_cache.dtype}: leave them out.")
        return None
    if k_cache.is_cuda and torch.cuda.get_device_capability(k_cache.device) < FP8_FROM:
        raise ValueError(
            f"k_cache is {FP8}, which GPUs convert from compute capability {'.'.join(map(str, FP8_FROM))} on: keep it in 16 bits."
        )
    for name, x in (("k_scale", k_scale), ("v_scale", v_scale)):
        if not isinstance(x, torch.Tensor) or x.dtype != torch.float32 or _shape(x) != (k_cache.shape[1],):
            came = f"{x.dtype}, {_shape(x)}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
            raise ValueError(f"{name} is {came}: an fp8 cache has one scale a key head, float32, ({k_cache.shape[1]},).")
        _same_device(name, x, k_cache.device)
    return k_scale, v_scale


def splits(value):
    if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 1 <= value <= MOST_SPLITS):
        raise ValueError(f"splits is {value!r}: pass 1 to {MOST_SPLITS}, or None to choose by the GPU.")
    return value
