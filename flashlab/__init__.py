"""flashlab: FlashAttention that you can read, import and learn to build.

    from flashlab import attention
    out = attention(query, key, value, is_causal=True)

Importing this package needs neither Triton nor a GPU and sets no environment variable. The course lives in `flashlab.course`.
"""

from flashlab import masks
from flashlab.attention import attention, attention_varlen, block_mask
from flashlab.decoding import attention_decode
from flashlab.explain import explain

__all__ = ["attention", "attention_decode", "attention_varlen", "block_mask", "explain", "masks"]
__version__ = "0.1.0"
