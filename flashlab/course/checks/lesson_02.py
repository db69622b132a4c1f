"""Exercise 02, the memory wall: the bytes of naive attention, operations for each byte, a GPU's roof, and the length that fits."""

import math

from flashlab.course import memory
from flashlab.course.checks import compare
from flashlab.course.checks.task import Case, Mistake, Task

# ------------------------------------------------------------------------------------------------------------ what is right


def naive_bytes(seqlen, head_dim, itemsize):
    return memory.naive_bytes(seqlen, head_dim, itemsize)


def intensity(seqlen, head_dim, itemsize):
    return memory.attention_flops(seqlen, seqlen, head_dim) / naive_bytes(seqlen, head_dim, itemsize)


def attainable(operations_a_byte, tflops, gigabytes_per_second):
    return min(tflops, operations_a_byte * gigabytes_per_second / 1000)


def longest(gigabytes, heads, itemsize):
    return math.isqrt(int(gigabytes * 10**9) // (2 * heads * itemsize))


# -------------------------------------------------------------------------------------------------------------------- cases


def byte_cases(rng):
    sizes = [
        (1, 1, 4),
        (4, 2, 4),
        (1024, 64, 2),
        (1024, 64, 4),
        (100, 128, 2),
        (int(rng.integers(50, 5000)), 8 * int(rng.integers(2, 17)), 2),
    ]
    return [Case(f"{s} tokens, head dim {d}, {b} bytes a number", (s, d, b)) for s, d, b in sizes]


def roof_cases(rng):
    gpus = ("T4", "A100", "H200")
    cases = [Case(f"{name}, half of its ridge", (memory.GPUS[name].ridge / 2, *_rates(name))) for name in gpus]
    cases += [Case(f"{name}, twice its ridge", (memory.GPUS[name].ridge * 2, *_rates(name))) for name in gpus]
    drawn = (float(rng.uniform(1, 1000)), float(rng.uniform(20, 900)), float(rng.uniform(100, 4000)))
    return [*cases, Case("a GPU drawn at random", drawn)]


def _rates(name):
    return memory.GPUS[name].tflops, memory.GPUS[name].gigabytes_per_second


def length_cases(rng):
    sizes = [(16, 1, 4), (16, 1, 2), (16, 12, 2), (80, 32, 2), (24, 16, 4), (int(rng.integers(8, 141)), int(rng.integers(1, 65)), 2)]
    return [Case(f"{g} GB, {h} heads, {b} bytes a number", (g, h, b)) for g, h, b in sizes]


# --------------------------------------------------------------------------------------------------------------- comparison


def judged(right, unit=""):
    """A comparison with the right number."""
    return lambda answer, case: compare.number(answer, right(*case.arguments), unit)


def compare_length(answer, case):
    want = longest(*case.arguments)
    if isinstance(answer, float) and not answer.is_integer():
        return f"a length is a whole number; got {answer:.6g}"
    return compare.number(answer, want, " tokens")


# ---------------------------------------------------------------------------------------------------- the mistakes people make


def _bytes_variant(matrices=4, rows=4, itemsize=None):
    return lambda S, D, size: (size if itemsize is None else itemsize) * (rows * S * D + matrices * S * S)


def _intensity_variant(flops=4, upside_down=False, of_bytes=naive_bytes):
    def wrong(S, D, size):
        value = flops * S * S * D / of_bytes(S, D, size)
        return 1 / value if upside_down else value

    return wrong


def _length_variant(matrices=2, all_heads=True, all_bytes=True, giga=10**9, root=True, away=0):
    def wrong(gigabytes, heads, itemsize):
        pairs = int(gigabytes * giga) // (matrices * (heads if all_heads else 1) * (itemsize if all_bytes else 1))
        return (math.isqrt(pairs) if root else pairs) + away

    return wrong


def _root(gigabytes, heads, itemsize):
    return (gigabytes * 10**9 / (2 * heads * itemsize)) ** 0.5


BYTE_MISTAKES = (
    Mistake(
        "half of the passes",
        "two passes of S×S are counted: scores *and* weights are written, and each is read again by the next kernel.",
        1,
        _bytes_variant(2),
    ),
    Mistake("no S×S", "the S×S matrices are missing: they are the point.", 1, _bytes_variant(0)),
    Mistake("Out is missing", "Q, K and V are there, and Out is written too: four matrices of S×D.", 2, _bytes_variant(4, 3)),
    Mistake("only the S×S", "Q, K, V and Out cross HBM too.", 2, _bytes_variant(4, 0)),
    Mistake("numbers, not bytes", "numbers are counted, not bytes: multiply by itemsize.", 2, _bytes_variant(itemsize=1)),
    Mistake("always float32", "4 bytes a number, whatever itemsize says.", 2, _bytes_variant(itemsize=4)),
    Mistake("three passes", "three passes of S×S are counted: S is written and read, and so is P. That makes four.", 1, _bytes_variant(3)),
    Mistake("only what is read", "what the kernels read is counted: S, P and Out are written too.", 1, _bytes_variant(2, 3)),
    Mistake("only what is written", "what the kernels write is counted: they read Q, K, V, S and P too.", 1, _bytes_variant(2, 1)),
    Mistake("one of each size", "the sizes are right, and four matrices of each size cross HBM.", 1, _bytes_variant(1, 1)),
    Mistake(
        "itemsize on S×S alone",
        "itemsize multiplies the S×S matrices alone: put the sum of both in parentheses.",
        2,
        lambda S, D, size: 4 * S * D + 4 * S * S * size,
    ),
    Mistake(
        "itemsize on S×D alone",
        "itemsize multiplies the matrices of S×D alone: put the sum of both in parentheses.",
        2,
        lambda S, D, size: size * 4 * S * D + 4 * S * S,
    ),
    Mistake("bits", "these are bits: itemsize is in bytes already.", 2, lambda S, D, size: 8 * naive_bytes(S, D, size)),
)
INTENSITY_MISTAKES = (
    Mistake("one product", "one matrix product is counted: there are two, Q Kᵀ and P V.", 1, _intensity_variant(2)),
    Mistake(
        "a multiply-add is two", "S·S·D multiply-adds are 2·S·S·D operations, in each of two products: 4·S·S·D.", 1, _intensity_variant(1)
    ),
    Mistake("upside down", "bytes were divided by operations.", 2, _intensity_variant(upside_down=True)),
    Mistake(
        "only inputs and output",
        "the bytes of Q, K, V and Out alone: this kernel moves the S×S matrices too.",
        2,
        _intensity_variant(of_bytes=_bytes_variant(0)),
    ),
    Mistake(
        "for each number", "operations for each number, not for each byte.", 2, _intensity_variant(of_bytes=_bytes_variant(itemsize=1))
    ),
    Mistake(
        "softmax too",
        "the five operations a score of softmax are counted, as in the lesson: this task leaves them out.",
        1,
        lambda S, D, size: (4 * D + 5) * S * S / naive_bytes(S, D, size),
    ),
    Mistake("two and two", "each product is 2·S·S·D operations, and there are two: 4·S·S·D in all, not 8.", 1, _intensity_variant(8)),
    Mistake("the limit", "D/2 is the limit for long texts in float16: divide by the bytes of this length.", 2, lambda S, D, size: D / 2),
    Mistake(
        "only the S×S",
        "the bytes of the S×S matrices alone: Q, K, V and Out cross HBM too.",
        2,
        _intensity_variant(of_bytes=_bytes_variant(4, 0)),
    ),
    Mistake(
        "half of the passes",
        "S and P are each written and read: four passes of S×S, as in task 2.1.",
        2,
        _intensity_variant(of_bytes=_bytes_variant(2)),
    ),
    Mistake(
        "whole numbers",
        "the fraction is cut off or rounded away: divide with /, and do not round.",
        2,
        lambda S, D, size: 4 * S * S * D // naive_bytes(S, D, size),
    ),
    Mistake(
        "no parentheses",
        "a / b * c divides by b alone: put all of the bytes in parentheses.",
        2,
        lambda S, D, size: 4 * S * S * D / size * (4 * S * D + 4 * S * S),
    ),
)
ROOF_MISTAKES = (
    Mistake(
        "the higher roof",
        "that is the higher of the two limits: both hold, so the lower one counts.",
        1,
        lambda i, t, g: max(t, i * g / 1000),
    ),
    Mistake(
        "arithmetic alone",
        "memory never limits here: is its roof missing, or are GB/s compared with TFLOP/s (divide by 1000)?",
        2,
        lambda i, t, g: t,
    ),
    Mistake("memory alone", "the flat roof is missing: no code is faster than the arithmetic.", 1, lambda i, t, g: i * g / 1000),
    Mistake(
        "divided by the intensity",
        "more operations for each byte make the memory's roof higher: multiply.",
        1,
        lambda i, t, g: min(t, g / i / 1000),
    ),
    Mistake("1024", "the prefixes of a datasheet are powers of 1000, not of 1024.", 2, lambda i, t, g: min(t, i * g / 1024)),
    Mistake("in GFLOP/s", "that is in GFLOP/s: return TFLOP/s, 1000 times fewer.", 2, lambda i, t, g: min(1000 * t, i * g)),
    Mistake("in FLOP/s", "that is in FLOP/s: return TFLOP/s, 10¹² times fewer.", 2, lambda i, t, g: 1e12 * min(t, i * g / 1000)),
    Mistake(
        "the slope in GFLOP/s",
        "the slope is in GFLOP/s and the ceiling in TFLOP/s: divide the slope by 1000.",
        2,
        lambda i, t, g: i * g if i < 1000 * t / g else t,
    ),
    Mistake(
        "the ridge",
        "that is the ridge, in operations a byte. Asked is the rate of code of this intensity.",
        1,
        lambda i, t, g: 1000 * t / g,
    ),
    Mistake("a share", "that is the share of the ceiling: return TFLOP/s.", 1, lambda i, t, g: min(1, i * g / 1000 / t)),
    Mistake(
        "one after the other",
        "both times are added: arithmetic and memory work at the same time, and the slower one decides.",
        1,
        lambda i, t, g: 1 / (1 / t + 1000 / (i * g)),
    ),
    Mistake("whole numbers", "the fraction is cut off: divide with /, and do not round.", 2, lambda i, t, g: int(min(t, i * g / 1000))),
)
LENGTH_MISTAKES = (
    Mistake(
        "one matrix",
        "one S×S matrix is counted: backward needs the scores' weights, and both matrices exist at a time.",
        1,
        _length_variant(1),
    ),
    Mistake("one head", "one head is counted: every head has matrices of its own.", 1, _length_variant(all_heads=False)),
    Mistake("numbers, not bytes", "a number takes itemsize bytes.", 2, _length_variant(all_bytes=False)),
    Mistake("GiB", "a GB is 10⁹ bytes here, not 2³⁰.", 2, _length_variant(giga=2**30)),
    Mistake("no root", "that is the number of pairs: S is its square root.", 1, _length_variant(root=False)),
    Mistake("one too many", "that is the first length that no longer fits: return the one before it.", 2, _length_variant(away=1)),
    Mistake("rounded up", "one token more does not fit: round down.", 2, lambda g, h, b: math.ceil(_root(g, h, b))),
    Mistake(
        "rounded to the nearest",
        "round takes the nearest whole number, which may be one too many: round down.",
        2,
        lambda g, h, b: round(_root(g, h, b)),
    ),
    Mistake("one too few", "one token more still fits.", 2, _length_variant(away=-1)),
    Mistake("four matrices", "four S×S matrices are counted. Four is how often one crosses HBM; two are held.", 1, _length_variant(4)),
    Mistake("GB are bytes", "gigabytes is in GB: times 10⁹ makes bytes.", 2, _length_variant(giga=1)),
    Mistake("MB", "a GB is 10⁹ bytes, not 10⁶.", 2, _length_variant(giga=10**6)),
    Mistake(
        "no parentheses",
        "a / b * c divides by b alone: put all that one pair takes in parentheses.",
        1,
        lambda g, h, b: int((g * 10**9 / 2 * h * b) ** 0.5),
    ),
    Mistake(
        "root of the memory alone",
        "the root of the memory alone was taken: divide first, and take the root of the quotient.",
        1,
        lambda g, h, b: int((g * 10**9) ** 0.5 / (2 * h * b)),
    ),
    Mistake(
        "half, not root",
        "that is half of the pairs, not their root: x ** 1 / 2 is (x ** 1) / 2, so write x ** 0.5.",
        1,
        lambda g, h, b: int(g * 10**9 / (2 * h * b) / 2),
    ),
    Mistake(
        "heads outside the root",
        "heads divides the root: every head takes its share of the memory, so divide before the root.",
        1,
        lambda g, h, b: int((g * 10**9 / (2 * b)) ** 0.5) // h,
    ),
)

TASKS = (
    Task("2.1", "the bytes of naive attention", "naive_bytes", 25, byte_cases, judged(naive_bytes, " bytes"), BYTE_MISTAKES),
    Task("2.2", "operations for each byte", "intensity", 25, byte_cases, judged(intensity), INTENSITY_MISTAKES),
    Task("2.3", "the roof", "attainable", 20, roof_cases, judged(attainable, " TFLOP/s"), ROOF_MISTAKES),
    Task("2.4", "the length that fits", "longest", 30, length_cases, compare_length, LENGTH_MISTAKES),
)
