"""Which path a call of `attention` takes, and why."""

from dataclasses import dataclass

from flashlab.attention import described
from flashlab.spec import UNLIMITED


@dataclass(frozen=True)
class Explanation:
    """What `flashlab.explain` found; prints as sentences."""

    path: str  # "triton" or "blockwise"
    reason: str
    features: tuple[str, ...]
    visited: str  # which pairs are visited at all
    tiles: dict  # kernel → (BLOCK_M, BLOCK_N, num_warps, num_stages) of portable kernels; empty on the CPU path
    extra_bytes: int  # beyond inputs and output, for the forward pass

    def __str__(self):
        lines = [f"path      {self.path}: {self.reason}", f"features  {', '.join(self.features) or 'none'}", f"visited   {self.visited}"]
        lines += [
            f"tiles     {name}: {m} rows × {n} keys, {warps} warps, {stages} stages" for name, (m, n, warps, stages) in self.tiles.items()
        ]
        tiles = ", and a few tiles of scores at a time" if self.path == "blockwise" else ""  # the kernels' lie in SRAM
        return "\n".join([*lines, f"memory    {self.extra_bytes:,} bytes beyond inputs and output{tiles}"])


def explain(query, key, value, **options):
    """Say which path `attention(query, key, value, **options)` would take, and why. Nothing is computed.

    Args and errors are those of `attention`; return_lse is accepted and changes nothing. Tensors may be on the meta device.

    Returns:
        an `Explanation`; print it.
    """
    options.pop("return_lse", None)
    if options.get("seed") is None:
        options["seed"] = 0  # any: none is drawn, so the next call drops what it would have dropped
    query, key, value, spec, extras = described(query, key, value, **options)
    if query.device.type == "cuda":
        more = _on_turing(query, value) + _on_hopper(query, key, value, spec, extras)
        path, reason = "triton", f"query is on {query.device}; every feature below is computed inside the kernels{more}"
    else:
        path, reason = (
            "blockwise",
            f"query is on {query.device}: plain torch, tile by tile, O(S·D) memory; Triton kernels need CUDA tensors",
        )
    tiles = _tiles(query, key, value, spec, extras) if path == "triton" else {}
    lse_bytes = query.shape[0] * query.shape[1] * query.shape[2] * (8 if query.element_size() == 8 else 4)
    more_bytes = 0
    if path == "triton":
        more_bytes = _part_bytes(query, value, spec) if "decode" in tiles else _bytes_by_hand(query, key, value, spec, extras)
    return Explanation(
        path, reason, tuple(_features(query, key, value, spec, extras)), _visited(path, query, key, spec, extras), tiles,
        lse_bytes + more_bytes,
    )  # fmt: skip


def _part_bytes(query, value, spec):
    """What the splits of a decoding hold until they are joined, float32."""
    from flashlab.kernels import configs, decode

    (batch, heads, rows, _), (_, heads_kv, seqlen_k, value_dim) = query.shape, value.shape
    config = configs.choose_decoding(query, value_dim)
    keys = decode.keys_in_sight(spec, rows, seqlen_k)
    splits = decode.how_many_splits(batch * heads_kv, keys, query, config)
    return 4 * splits * batch * heads * rows * (value_dim + 1) if splits > 1 else 0


def _bytes_by_hand(query, key, value, spec, extras):
    """What a forward pass that is scheduled by hand takes beside its results."""
    from flashlab.kernels import hopper

    return hopper.bytes_beside(key, extras) if hopper.serves("forward", query, key, value, spec, extras) else 0


def _on_turing(query, value):
    """What there is to say of a T4, whose tensor cores Triton does not use by itself."""
    from flashlab.kernels import configs, turing

    target = configs.target_of(query)
    if target[0] != 7:
        return ""
    if turing.serves(target, query.dtype, max(query.shape[-1], value.shape[-1])):
        return ", through Turing's tensor cores"
    versions = ", ".join(f"{major}.{minor}" for major, minor in turing.TRITON_VERSIONS)
    return (
        f", but not through this GPU's tensor cores (they serve float16, head dims to 128, Triton {versions}): where causal attention or "
        "a mask is all that is needed, torch's scaled_dot_product_attention (its memory-efficient backend) is faster here"
    )


def _on_hopper(query, key, value, spec, extras):
    """Whether the kernels are those scheduled by hand, on a Hopper GPU; few rows go to the kernel for decoding first."""
    from flashlab.kernels import configs, decode, hopper

    if configs.target_of(query) != (9, 0) or decode.suits(query, key, spec, extras):
        return ""
    call = query, key, value, spec, extras
    said = []
    for direction, grad_out in (("forward", None), ("backward", query)):  # grad_out most likely lies as query does
        why_not = hopper.why_not(direction, *call, grad_out)
        kernels = f"portable kernels: {why_not}" if why_not else "kernels that are scheduled by hand for Hopper GPUs"
        said.append(f"{direction}, {kernels}")
    if not spec.deterministic:
        in_any_order = not why_not and hopper.sums_in_any_order(query, key, spec, extras)
        said.append("query's gradient is summed in any order" if in_any_order else "deterministic all the same")
    return "".join(f"; {words}" for words in said)


def _tiles(query, key, value, spec, extras):
    from flashlab.kernels import configs, decode, hopper

    names = ["forward", "dkdv", "dq"]
    if extras.attn_mask is not None and extras.attn_mask.requires_grad:
        names.append("mask_gradient")
    chosen = {}
    if decode.suits(query, key, spec, extras):  # the forward pass is split over the keys
        config = configs.choose_decoding(query, value.shape[-1])
        chosen["decode"] = (decode.rows_of_a_tile(query, key), config.BLOCK_N, config.num_warps, config.num_stages)
        names.remove("forward")
    elif hopper.serves("forward", query, key, value, spec, extras):
        names.remove("forward")
    if hopper.serves("backward", query, key, value, spec, extras, grad_out=query):
        names = [name for name in names if name not in ("dkdv", "dq")]
    for name in names:
        described = configs.can_describe(name, (query, key, value), spec, extras)
        config = configs.choose(name, query, value, spec, extras, described)
        chosen[name] = (config.BLOCK_M, config.BLOCK_N, config.num_warps, config.num_stages)
    return chosen


def _features(query, key, value, spec, extras):
    if query.shape[1] != key.shape[1]:
        yield f"grouped heads ({query.shape[1]} of query read {key.shape[1]})"
    if query.shape[3] != value.shape[3]:
        yield f"value head_dim {value.shape[3]} beside {query.shape[3]}"
    if spec.softcap:
        yield f"softcap {spec.softcap:g}"
    if extras.alibi_slopes is not None:
        yield "ALiBi"
    if spec.bias_mod is not None:
        yield "bias_mod, inlined"
    if extras.attn_mask is not None:
        kind = "bool" if not extras.attn_mask.is_floating_point() else "additive"
        yield f"attn_mask ({kind}, {tuple(extras.attn_mask.shape)}, read tile by tile, not copied)"
    if extras.sinks is not None:
        yield "sinks"
    if spec.dropout_p:
        yield f"dropout {spec.dropout_p:g}, recomputed from a seed in the backward pass"


def _visited(path, query, key, spec, extras):
    if extras.row_blocks is not None:
        visited = f"{_share(extras.row_blocks)} of the tiles, by the block mask"
        if path == "triton":
            return f"{visited}; full ones are not tested"
        return f"{visited}, and more where heads or neighbouring rows differ; mask_mod is tested on each pair of them"
    left, right = spec.edges
    seqlen_q, seqlen_k = query.shape[2], key.shape[2]
    tested = "; mask_mod is tested on each pair of them (flashlab.block_mask would skip empty tiles)" if spec.mask_mod is not None else ""
    if left == right == UNLIMITED:
        return f"all {seqlen_q} × {seqlen_k} pairs{tested}"
    corner = "bottom right" if spec.bottom_right else "top left"
    sides = ", ".join(f"{side} {'all' if edge == UNLIMITED else edge}" for side, edge in (("left", left), ("right", right)))
    return f"tiles that meet the band around the diagonal ({sides}; it is aligned {corner}), masked only where an edge cuts{tested}"


def _share(row_blocks):
    """How many of a block mask's tiles hold a visible pair."""
    if row_blocks.is_meta:
        return "an unknown share (block_mask is on meta)"
    return f"{row_blocks[..., 1].sum().item() / max(1, row_blocks[..., 2:].numel()):.1%}"
