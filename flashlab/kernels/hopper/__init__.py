"""Kernels for Hopper GPUs (H100, H200) that are scheduled by hand, in Gluon, and which calls take them.

| a call takes them when                                                              | otherwise                            |
|-------------------------------------------------------------------------------------|--------------------------------------|
| the GPU has compute capability 9.0                                                  | it lacks their instructions          |
| Triton is 3.6 or 3.7, with which they have run                                      | they are not tested; it is said once |
| float16 or bfloat16; head dim 64 or 128, values the same                            | none are written                     |
| it has no feature but a causal mask, a window, grouped heads, lse and its gradient, | only the portable ones have it       |
|   sinks, ALiBi under a causal mask, a mask of keys that is alike for all rows (with |                                      |
|   grouped heads also for all heads)                                                 |                                      |
| 512 queries or more, and rows that see enough keys (half a window's):               | the portable ones are faster         |
|   head dim 64: forward 1024, backward 2048, in any order 1024                       |                                      |
|   head dim 128: forward 256, backward 1024, in any order 256                        |                                      |
| 10¹¹ operations or more in the forward pass, about 0.2 ms                           | a CPU takes longer to launch these   |
| rows begin at multiples of 16 bytes                                                 | the copy engine cannot bring them    |

Every other call takes the portable kernels. `why_not` is this table as code: nothing is tried and caught.

A backward pass sums dQ in any order with `deterministic=False`, but for head dim 64 and rows that see more than 4096 keys: there that wins
less than 5 percent, or loses. Both ways are taken from lengths on where no call that was timed on an H200, causal or full, was slower than
with the portable kernels (512 to 4096 tokens, by a script that is not kept). Windows, grouped heads and other features follow the same
rules, and were not timed at these lengths.
"""

import functools
import warnings

import torch
import triton

from flashlab.kernels import configs
from flashlab.spec import UNLIMITED

TRITON_VERSIONS = ((3, 6), (3, 7))
FEWEST_QUERIES = 512
FEWEST_KEYS = {  # that a row sees
    ("forward", 64): 1024,
    ("forward", 128): 256,
    ("backward", 64): 2048,
    ("backward", 128): 1024,
    ("backward in any order", 64): 1024,
    ("backward in any order", 128): 256,
}
MOST_KEYS_IN_ANY_ORDER = {64: 4096}  # that a row sees
FEWEST_OPERATIONS = 1e11  # of the forward pass: less is done before a CPU has made ready what these kernels take


def why_not(what, query, key, value, spec, extras, grad_out=None):
    """Why a call on a Hopper GPU does without these kernels, in words; "" where it takes them.

    what: "forward" or "backward".
    """
    if triton_version() not in TRITON_VERSIONS:
        return f"Triton {triton.__version__}, with which they are not tested"
    if triton.knobs.runtime.interpret:
        return "Triton's interpreter, which does not know them"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"{str(query.dtype).removeprefix('torch.')}"
    if what == "backward" and sums_in_any_order(query, key, spec, extras):
        what = "backward in any order"
    head_dim, value_dim, fewest_keys = query.shape[3], value.shape[3], FEWEST_KEYS.get((what, query.shape[3]))
    if head_dim != value_dim:
        return f"head dim {head_dim} and value head dim {value_dim}"
    if fewest_keys is None:
        return f"head dim {head_dim} (served: {', '.join(sorted({str(dim) for _, dim in FEWEST_KEYS}, key=int))})"
    if not configs.is_plain(spec, extras._replace(alibi_slopes=None, attn_mask=None)) or extras.cu_seqlens_q is not None:
        return "a feature beyond causal masks, windows, grouped heads, sinks, ALiBi and masks of keys"
    if extras.alibi_slopes is not None and spec.edges[1] != 0:
        return "ALiBi without a causal mask"
    if extras.attn_mask is not None and not _is_of_keys(extras.attn_mask):
        return "a mask that is not one of keys, alike for all rows"
    if extras.attn_mask is not None and _differs_by_head(extras.attn_mask) and query.shape[1] != key.shape[1]:
        return "grouped heads whose masks differ"
    if spec.scale <= 0:
        return "a scale that is not positive"
    if query.shape[2] < FEWEST_QUERIES:
        return f"{query.shape[2]} queries (from {FEWEST_QUERIES} on these are faster)"
    keys = configs.keys_of_a_row(key.shape[2], spec, extras)
    if (keys // 2 if UNLIMITED not in spec.edges else keys) < fewest_keys:  # both edges of a window are walked with a mask
        return f"rows that see fewer than {fewest_keys} keys"
    if 4 * query.shape[:3].numel() * keys * head_dim < FEWEST_OPERATIONS:
        return f"fewer than {FEWEST_OPERATIONS:.0e} operations in the forward pass"
    if not all(configs.is_aligned(x) for x in (query, key, value, *(() if grad_out is None else (grad_out,)))):
        return "rows that do not begin at multiples of 16 bytes"
    return ""


def _is_of_keys(mask):
    """Whether a mask is alike for all rows, and says something of each key."""
    return (mask.shape[2] == 1 or mask.stride(2) == 0) and mask.shape[3] > 1


def _differs_by_head(mask):
    return mask.shape[1] > 1 and mask.stride(1) != 0


def sums_in_any_order(query, key, spec, extras):
    """Whether a backward pass by these kernels sums dQ as programs come by: where the caller allows it, and where it pays."""
    keys = configs.keys_of_a_row(key.shape[2], spec, extras)
    return not spec.deterministic and keys <= MOST_KEYS_IN_ANY_ORDER.get(query.shape[3], keys)


def serves(what, query, key, value, spec, extras, grad_out=None):
    """Whether a call takes these kernels; see `why_not`."""
    if query.shape[2] < FEWEST_QUERIES or configs.target_of(query) != (9, 0):  # a small call feels all that comes after
        return False
    if triton_version() not in TRITON_VERSIONS:
        _say_untested()
    return not why_not(what, query, key, value, spec, extras, grad_out)


def bytes_beside(key, extras):
    """What a forward pass by these kernels takes beside its results: programs count their jobs, and a mask becomes float32."""
    mask = extras.attn_mask
    return 4 + (0 if mask is None else 4 * mask.shape[0] * mask.shape[1] * padded_keys(key.shape[2]))


def padded_keys(seqlen_k):
    """How far a mask goes on past the last key: to the end of a tile, of 128 keys in either pass."""
    return triton.cdiv(seqlen_k, 128) * 128


@functools.cache
def triton_version():
    """(major, minor)"""
    return tuple(int(part) for part in triton.__version__.split(".")[:2])


@functools.cache
def _say_untested():
    tested = ", ".join(f"{major}.{minor}" for major, minor in TRITON_VERSIONS)
    warnings.warn(
        f"flashlab's kernels for Hopper GPUs are tested with Triton {tested}, and this is {triton.__version__}: the portable ones compute.",
        RuntimeWarning,
        stacklevel=2,
    )
