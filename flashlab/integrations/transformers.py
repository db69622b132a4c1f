"""flashlab as an attention implementation of Hugging Face transformers.

    from flashlab.integrations.transformers import register
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation=register())

Importing this module does not import transformers; `register` does.
"""

import functools

import torch

from flashlab.attention import attention
from flashlab.integrations.sdpa import broadcast

# Not "flashlab": transformers takes every name with "flash" in it for a kernel to load from the hub, and refuses it, or loads another.
NAME = "lab_attention"

# What some models pass that changes the result and is not computed here.
UNHEARD = {
    "output_attentions": "probabilities are never formed",
    "head_mask": "probabilities are never formed",
    "sinks": "a sink of each row is not there yet (s_aux, a sink of each head, is)",
    "indices": "a choice of keys for each row is not there yet",
    "block_indices": "a choice of blocks for each row is not there yet",
}


def register(name=NAME):
    """Make flashlab known to transformers, masks included, and return the name for attn_implementation=….

    It computes what transformers' "sdpa" does, and also softcap (Gemma 2), attention sinks (gpt-oss) and learned position biases (T5).
    Calling it again changes nothing.

    Args:
        name: what the implementation is called; any name without "flash" or "sdpa" in it, which transformers handles specially.

    Returns:
        name.

    Raises:
        ImportError: transformers is missing, or older than 4.53, the first with an interface for masks.
        ValueError: a name that transformers would not treat as any other.
    """
    taken = [word for word in ("flash", "sdpa", "flex_attention", "eager", "/", "|") if word in name]
    if taken:
        raise ValueError(f"name is {name!r}: transformers treats names with {taken[0]!r} in them specially. Pass another, like {NAME!r}.")
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
    except ImportError as error:
        raise ImportError(
            "transformers is missing or too old for attention interfaces: pip install 'transformers>=4.53', "
            "or this project with its extra, pip install 'flashlab-course[hf]'."
        ) from error
    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, functools.partial(attention_mask, sdpa_mask))
    return name


def attention_mask(sdpa_mask, **arguments):
    """transformers' own bool mask (B, 1, Sq, Sk), or None where causality alone says it all: as many rows as keys, or one row.

    Where rows meet the empty end of a static cache, transformers would also leave the mask out and trust a diagonal that starts top left;
    but then models that later drop rows (Gemma 4) would see wrong keys. So None means here: the last row meets the last key.
    """
    rows = arguments["q_length"] if "q_length" in arguments else arguments["cache_position"].shape[0]  # the latter in older versions
    if rows != 1 and rows != arguments["kv_length"]:
        arguments["allow_is_causal_skip"] = False
    return sdpa_mask(**arguments)


def attention_forward(
    module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, softcap=None, s_aux=None, position_bias=None,
    **kwargs,
):  # fmt: skip
    """What a transformers attention module calls.

    Args:
        module: asked for its is_causal where the argument is None.
        query: (B, Hq, Sq, D); key, value: (B, Hkv, Sk, D) and (B, Hkv, Sk, Dv). A batch of 1 broadcasts.
        attention_mask: (B, 1 or Hq, Sq, Sk), bool or additive; None: causal if the module is, and a single row sees every key.
        dropout, scaling: dropout_p and scale of `flashlab.attention`.
        softcap: as there. s_aux: (Hq,), the sinks. position_bias: added to the scores, broadcasting to (B, Hq, Sq, Sk).
        kwargs: sliding windows are in the mask; what else transformers passes describes other implementations.

    Returns:
        (out (B, Sq, Hq, Dv), contiguous; None instead of probabilities).

    Raises:
        ValueError: an argument that would change the result and is not computed here.

    Source: transformers/integrations/sdpa_attention.py (5.24), its rules for is_causal.
    """
    for name, why in UNHEARD.items():
        if kwargs.get(name) is not None and kwargs[name] is not False:
            raise ValueError(f"{name} is given to {type(module).__name__}, and {why}: load this model with attn_implementation='eager'.")
    if query.shape[0] != key.shape[0]:
        query, key, value = broadcast(query, key, value, before=-3)
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    is_causal = is_causal and attention_mask is None

    mask = attention_mask
    if mask is not None and mask.dim() == 4:
        mask = mask[..., : key.shape[2]]  # transformers 4 makes it as long as the longest cache
    if position_bias is not None and mask is not None:
        mask = torch.where(mask, position_bias, -torch.inf) if mask.dtype == torch.bool else mask + position_bias
    elif position_bias is not None:
        mask = position_bias
    if s_aux is not None and s_aux.dtype != torch.float32:
        s_aux = s_aux.to(query.dtype)
    out = attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, scale=scaling, enable_gqa=True, alignment="bottom_right",
        softcap=softcap, sinks=s_aux,
    )  # fmt: skip
    return out.transpose(1, 2).contiguous(), None
