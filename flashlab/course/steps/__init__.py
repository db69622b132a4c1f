"""The ladder: attention, one rung a file. Each file opens with what it changes from the rung below, and what that buys.

Every rung offers (those that are a forward pass alone lack `backward`)

    forward(Q, K, V, *, is_causal=False, scale=None) -> (Out, lse)
    backward(dOut, Q, K, V, Out, lse, *, is_causal=False, scale=None) -> (dQ, dK, dV)

NumPy rungs take one head, (S, D) arrays. Triton rungs take (B, H, S, D) tensors.
"""

RUNGS = ("naive", "online", "tiled", "triton_forward", "triton_backward", "real_forward", "fast_forward")
