"""One description of an attention: which pairs (i, j) see each other, and how their score is shaped.

The oracle, the CPU path and the Triton kernels all read the same `Spec`, so a feature is defined once and tested three ways.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """Attention over scores `scale * query @ key^T`, restricted to the pairs that `visible` allows."""

    scale: float
    is_causal: bool = False

    def visible(self, i, j):
        """True where query row i may see key j. The diagonal starts top left, as in torch SDPA.

        i, j: integers, arrays or tensors that broadcast against each other.
        """
        return j <= i if self.is_causal else (i >= 0) & (j >= 0)

    def keys_end(self, last_row, seqlen_k):
        """Keys from here on are seen by no row up to `last_row`: a tile that starts here can be skipped."""
        return min(last_row + 1, seqlen_k) if self.is_causal else seqlen_k

    def sees_all(self, first_row, last_key):
        """True when every row from `first_row` on sees every key up to `last_key`: a tile that needs no mask."""
        return last_key <= first_row if self.is_causal else True
