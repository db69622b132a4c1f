"""Kernels for Hopper GPUs (H100, H200) that are scheduled by hand, in Gluon, and which calls take them.

| a call takes them when                                                             | otherwise                             |
|------------------------------------------------------------------------------------|---------------------------------------|
| the GPU has compute capability 9.0                                                 | it lacks their instructions           |
| Triton is 3.6 or 3.7, with which they have run                                     | they are not tested; it is said once  |
| float16 or bfloat16; head dim 64 or 128, values the same                           | none are written                      |
| it has no feature but a causal mask, a window, grouped heads, lse and its gradient | only the portable ones have it        |
| 512 queries or more, and rows that see enough keys (half a window's):              | the portable ones are faster          |
|   head dim 64: forward 1024, backward 2048, in any order 1024                      |                                       |
|   head dim 128: forward 256, backward 1024, in any order 256                       |                                       |
| 10¹¹ operations or more in the forward pass, about 0.2 ms                          | a CPU takes longer to launch these    |
| rows begin at multiples of 16 bytes                                                | the copy engine cannot bring them     |

Every other call takes the portable kernels. `why_not` is this table as code: nothing is tried and caught.

A backward pass sums dQ in any order with `deterministic=False`, but for head dim 64 and rows that see more than 4096 keys: there that wins
less than 5 percent, or loses. Both ways are taken from lengths on where no call that was timed on an H200, causal or full, was slower than
with the portable kernels (512 to 4096 tokens, by a script that is not kept). Windows and grouped heads follow the same rules, and were not
timed.
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
    if not configs.is_plain(spec, extras) or extras.sinks is not None or extras.cu_seqlens_q is not None:
        return "a feature beyond causal masks, windows and grouped heads"
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
