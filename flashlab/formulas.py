"""Formulas of positions, made of operators alone: torch calls them as they are, and the Triton kernels inline them.

The oracle, the CPU path and the kernels share these very functions, so a feature cannot mean two things. Integers are 32-bit and wrap.
"""


def alibi(slope, i, j):
    """What ALiBi adds to a score: the further apart, the less.

    i: the query row's place among the keys (its index plus the diagonal); j: the key's index.
    Source: Press et al., Train Short, Test Long (2022), section 3.
    """
    return (i - j).abs() * -slope


def hashed(x):
    """A 32-bit integer, scrambled: each input bit changes each output bit about half of the time (lowbias32, C. Wellons)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x21F0AAAD
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -0x2CA5D269
    return x ^ ((x >> 15) & 0x1FFFF)


def plane_seed(seed, plane):
    """Where the random numbers of one plane begin; a plane is one head of one batch element."""
    return hashed(hashed(seed) + plane)


def row_bits(plane_seed, i):
    """The two random numbers of a query row: an odd factor and an offset."""
    return hashed((plane_seed ^ 0x5BD1E995) + i) | 1, hashed((plane_seed ^ 0x2545F491) + i)


def key_bits(plane_seed, j):
    """The random number of a key. Kernels compute it for every tile, so it is scrambled once where a row's are scrambled twice."""
    x = ((plane_seed ^ 0x1B873593) + j) * 0x21F0AAAD
    return x ^ ((x >> 15) & 0x1FFFF)


def kept(row, key, threshold):
    """True where dropout keeps the pair, for `row` and `key` from `row_bits` and `key_bits`.

    Multiply-add of random 32-bit numbers, one instruction a pair. Tests hold neighbouring pairs, rows, keys and heads to be uncorrelated.
    After Dietzfelbinger, Universal hashing and k-wise independent random variables via integer arithmetic (1996), who adds in twice the
    width and can prove independence; here it is measured.
    """
    factor, offset = row
    return factor * key + offset >= threshold


def threshold(dropout_p):
    """Where `kept` cuts the 32-bit integers so that a share of dropout_p lies below."""
    return round(dropout_p * 2**32) - 2**31
