"""flashlab: FlashAttention that you can read, import and learn to build.

    from flashlab import attention
    out = attention(query, key, value, is_causal=True)

Importing this package needs neither Triton nor a GPU and sets no environment variable. The course lives in `flashlab.course`.
"""

from flashlab.attention import attention

__all__ = ["attention"]
__version__ = "0.1.0"
