"""Tensor cores on Turing (sm_75: T4, the GPU of a free Colab), where Triton by itself emits none.

Triton may lower a kernel as for Ampere while it assembles it for Turing. Both spread a tile over the lanes of a warp alike, so the code
fits, except for two instructions that Turing lacks. Each is replaced by some that it has:

    mma.m16n8k16                         D += A · B over 16 columns of A: twice m16n8k8, over the first 8 and over the last 8. A lane holds
                                         a0, a1 (rows g and g + 8) and b0 of the first half, a2, a3 and b1 of the second.
    cvt.rn.f16x2.f32                     two float32 to a packed pair: two conversions, and a move that packs.

This leans on PTX's text and on one public switch of Triton. So it is on for the versions of Triton that it is tested with, and text that is
not exactly as expected is refused: the scalar path then computes, with a warning. Never a wrong number.
"""

import contextlib
import re
import warnings

import torch
import triton
from triton import knobs

ARCH = "sm80"  # what a kernel is lowered for
TRITON_VERSIONS = ((3, 6), (3, 7))

_MMA = re.compile(
    r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.f16\.f16\.f32\s*"
    r"\{\s*(\S+), (\S+), (\S+), (\S+)\s*\},\s*\{\s*(\S+), (\S+), (\S+), (\S+)\s*\},\s*\{\s*(\S+), (\S+)\s*\},\s*"
    r"\{\s*(\S+), (\S+), (\S+), (\S+)\s*\};"
)
_PACK = re.compile(r"cvt\.rn\.f16x2\.f32\s+(%r\d+), (%r\d+), (%r\d+);")
_refused = []  # why a kernel was refused, once one was


class UnexpectedPTX(ValueError):
    """PTX that is not as `rewrite` knows it."""


def serves(target, dtype, head_dim):
    """Whether calls on this compute capability, dtype and largest head dim go through tensor cores in this way."""
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    return target == (7, 5) and dtype == torch.float16 and head_dim <= 128 and version in TRITON_VERSIONS and not _refused


def rewrite(ptx):
    """PTX lowered for Ampere, in Turing's instructions.

    Raises:
        UnexpectedPTX: an instruction for tensor cores, or a packed conversion, is not of the one known form.
    """
    ptx = _MMA.sub(_two_halves, ptx)
    ptx = _PACK.sub(_convert_and_pack, ptx)
    left = re.search(r"[^\n]*(mma\.sync\S*(?<!m16n8k8\.row\.col\.f32\.f16\.f16\.f32)\s|wgmma|cvt\S*(f16x2|bf16x2|e4m3|e5m2)\S*)[^\n]*", ptx)
    if left:
        raise UnexpectedPTX(f"expected mma.m16n8k16 of float16 into float32 and cvt.rn.f16x2.f32 alone, but found: {left[0].strip()[:200]}")
    return ptx


def _two_halves(match):
    d, a, b, c = match.groups()[:4], match.groups()[4:8], match.groups()[8:10], match.groups()[10:]

    def product(a, b, c):
        groups = ("{" + ", ".join(registers) + "}" for registers in (d, a, b, c))
        return f"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {', '.join(groups)};"

    return product(a[:2], b[:1], c) + "\n\t" + product(a[2:], b[1:], d)


def _convert_and_pack(match):
    packed, high, low = match.groups()
    return f"{{ .reg .b16 lo, hi; cvt.rn.f16.f32 lo, {low}; cvt.rn.f16.f32 hi, {high}; mov.b32 {packed}, {{lo, hi}}; }}"


def _pipeline(backend=None, stages=None, options=None, language=None, capability=None):
    """Triton's hook: asked without arguments for what to add to a cache's key, and with them to change the stages of a compilation."""
    if stages is not None and options.arch == ARCH:
        lower = stages["ptx"]
        stages["ptx"] = lambda source, metadata: rewrite(lower(source, metadata))
    return "flashlab.turing", "flashlab.turing"


@contextlib.contextmanager
def tensor_cores():
    """Kernels that are compiled in here, with the option arch=ARCH, are rewritten for Turing."""
    kept = knobs.runtime.add_stages_inspection_hook
    knobs.runtime.add_stages_inspection_hook = _pipeline
    try:
        yield
    finally:
        knobs.runtime.add_stages_inspection_hook = kept


def refuse(error):
    """Take the scalar path from now on, and say so."""
    _refused.append(error)
    warnings.warn(
        f"flashlab cannot use this GPU's tensor cores with Triton {triton.__version__}, and computes without them, correctly and slowly: "
        f"{error}. Please report this line. torch's scaled_dot_product_attention is faster here.",
        RuntimeWarning,
        stacklevel=2,
    )
