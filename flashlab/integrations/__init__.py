"""flashlab behind the names that code already calls: `flash_attn`, `sdpa` (torch's function) and `transformers` (Hugging Face)."""
