"""Every check of what `attention_decode` alone is given: caches, pages, new keys, angles, scales. As in `flashlab.checks`."""

import numbers

import torch
from torch.autograd import forward_ad

from flashlab.checks import MAX_HEAD_DIM, readable, same_device, shape_of, tensors

MOST_SPLITS = 128  # of the keys, in decoding
FP8 = torch.float8_e4m3fn
FP8_FROM = (8, 9)  # the first GPUs that convert it


def caches(query, k_cache, v_cache, block_table):
    """A query (B, Hq, Sq, D), and caches (B, Hkv, capacity, D) or, with a table, (pages, Hkv, page size, D)."""
    tensors(query, query, query, dims=4)
    layout = "(batch, key heads, capacity, head_dim)" if block_table is None else "(pages, key heads, page size, head_dim)"
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        if not isinstance(cache, torch.Tensor) or cache.dim() != 4:
            came = shape_of(cache) if isinstance(cache, torch.Tensor) else f"a {type(cache).__name__}"
            raise ValueError(f"{name} is {came}: pass a tensor {layout}.")
        same_device(name, cache, query.device)
        if cache.dtype not in (query.dtype, FP8):
            raise ValueError(
                f"{name} is {cache.dtype} and query {query.dtype}: a cache has query's dtype, or is {FP8} with k_scale and v_scale."
            )
    (batch, heads, _, head_dim), (batch_kv, heads_kv, _, head_dim_k) = query.shape, k_cache.shape
    if k_cache.shape[:3] != v_cache.shape[:3] or k_cache.dtype != v_cache.dtype:
        raise ValueError(
            f"k_cache is {shape_of(k_cache)}, {k_cache.dtype}, and v_cache {shape_of(v_cache)}, {v_cache.dtype}: "
            "all but the last must agree."
        )
    if block_table is not None and k_cache.shape[2] < 1:
        raise ValueError(f"k_cache is {shape_of(k_cache)}, pages without room for a key: pass {layout} with page size 1 or more.")
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
    if not isinstance(lengths, torch.Tensor) or lengths.dtype != torch.int32 or shape_of(lengths) != (batch,):
        came = f"{lengths.dtype}, {shape_of(lengths)}" if isinstance(lengths, torch.Tensor) else f"a {type(lengths).__name__}"
        raise ValueError(f"cache_lengths is {came}: pass an int32 tensor ({batch},), how many keys each sequence has so far.")
    same_device("cache_lengths", lengths, device)
    if look and batch and readable(lengths):
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
        came = f"{table.dtype}, {shape_of(table)}" if isinstance(table, torch.Tensor) else f"a {type(table).__name__}"
        raise ValueError(f"block_table is {came}: pass an int32 tensor ({batch}, pages of a sequence), numbers of pages in k_cache.")
    same_device("block_table", table, device)
    if look and batch and readable(table) and readable(lengths):
        used = [table.shape[1]] * batch if lengths is None else [-(-(length + added) // page) for length in lengths.tolist()]
        for number, (row, count) in enumerate(zip(table.tolist(), used, strict=True)):
            for place, entry in enumerate(row[:count]):
                if not 0 <= entry < pages:
                    raise ValueError(f"block_table is {entry} at sequence {number}, place {place}: k_cache has pages 0 to {pages - 1}.")
    return table


def cache_batch_idx(indices, batch, caches, device):
    """Whose cache each sequence reads: (batch,), int32. The numbers are looked at where that does not wait for a GPU."""
    if not isinstance(indices, torch.Tensor) or indices.dtype != torch.int32 or shape_of(indices) != (batch,):
        came = f"{indices.dtype}, {shape_of(indices)}" if isinstance(indices, torch.Tensor) else f"a {type(indices).__name__}"
        raise ValueError(f"cache_batch_idx is {came}: pass an int32 tensor ({batch},), the number of a cache in k_cache for each sequence.")
    same_device("cache_batch_idx", indices, device)
    if indices.device.type == "cpu" and readable(indices):
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
            came = f"{shape_of(x)}, {x.dtype}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
            raise ValueError(f"{name} is {came}: pass new keys and values together, {shape}, {query.dtype}, to be added to the cache.")
        same_device(name, x, query.device)
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
            came = f"{x.dtype}, {shape_of(x)}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
            raise ValueError(
                f"{name} is {came}: pass (positions, rotated dims / 2), at most {query.shape[3] // 2} columns, both or neither."
            )
        same_device(name, x, query.device)
    if cos.shape != sin.shape or lengths is None:
        raise ValueError(
            f"rotary_cos is {shape_of(cos)} and rotary_sin {shape_of(sin)}: they must agree, and cache_lengths say the positions."
        )
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
        if not isinstance(x, torch.Tensor) or x.dtype != torch.float32 or shape_of(x) != (k_cache.shape[1],):
            came = f"{x.dtype}, {shape_of(x)}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
            raise ValueError(f"{name} is {came}: an fp8 cache has one scale a key head, float32, ({k_cache.shape[1]},).")
        same_device(name, x, k_cache.device)
    return k_scale, v_scale


def splits(value):
    if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 1 <= value <= MOST_SPLITS):
        raise ValueError(f"splits is {value!r}: pass 1 to {MOST_SPLITS}, or None to choose by the GPU.")
    return value
