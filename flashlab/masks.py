"""Masks to use or to copy: predicates of (batch, head, i, j), made of operators alone.

What FlexAttention needs a compiler for is one function here. Each says in one line who sees whom; what varies with the data comes as
labels, int32, one a position:

    from flashlab import attention, block_mask, masks

    mask = block_mask(masks.documents, S, S, query_labels=document, key_labels=document)   # once for many calls
    out = attention(query, key, value, block_mask=mask)

A mask of your own is a function like these; the kernels inline it. `@triton.jit` is welcome and not needed.
"""


def documents(batch, head, i, j, document_i, document_j):
    """Many documents in one row of tokens: a token sees the earlier ones of its own document. Labels: the document's number."""
    return (document_i == document_j) & (j <= i)


def prefix_lm(batch, head, i, j, prefix_i, prefix_j):
    """A prefix that all see, causal after it. Labels: 1 in the prefix, 0 elsewhere."""
    return (prefix_j == 1) | (j <= i)


def dilated(batch, head, i, j):
    """Every fourth of the earlier tokens, and the last sixteen."""
    return (j <= i) & (((i - j) % 4 == 0) | (i - j < 16))


def jagged(batch, head, i, j, width_i, width_j):
    """A causal window whose width each row chooses. Labels: the width, of which the row's counts."""
    return (j <= i) & (i - j < width_i)
