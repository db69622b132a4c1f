"""Exercise 14, choosing and trusting: guards of the output, of the gradients, of the speed and of a loss curve. They are shown what is
right in several ways and what is wrong in many: a guard that lets a bug pass loses points, and one that cries wolf does, too."""

import math

import numpy as np

from flashlab.course.checks.planted import RIGHT, RIGHT_GRADIENTS, WRONG, WRONG_GRADIENTS, gradients, plain
from flashlab.course.checks.task import Case, Mistake, Task

# ------------------------------------------------------------------------------------------------------------ what is right

SIZES = ((1, 1, 8), (1, 70, 16), (64, 64, 32), (37, 53, 24), (70, 45, 64), (50, 130, 24))


def _inputs(sizes, magnitudes):
    rng = np.random.default_rng(1)
    for rows, keys, D in sizes:
        for magnitude in magnitudes:
            yield (
                magnitude,
                [
                    np.float32(factor) * rng.normal(size=(n, D)).astype(np.float32)
                    for n, factor in ((rows, magnitude), (keys, magnitude), (keys, 1))
                ],
            )


def _guard(attend, sizes=SIZES, magnitudes=(1, 12), causals=(False, True), tolerance=None, nan_passes=False, untouched=(0, 1, 2)):
    """A guard of outputs. tolerance: None for what float32 rounds; untouched: which inputs are looked at afterwards."""
    for magnitude, (Q, K, V) in _inputs(sizes, magnitudes):
        for is_causal in causals:
            given = [x.copy() for x in (Q, K, V)]
            try:
                out = attend(*given, is_causal)
            except Exception:
                return False
            exact = plain(*(x.astype(np.float64) for x in (Q, K, V)), is_causal)
            allowed = _rounding(plain(Q, K, V, is_causal) - exact, magnitude) if tolerance is None else tolerance
            error = np.abs(out - exact)
            if error.max() > allowed if nan_passes else not error.max() <= allowed:
                return False
            if any((given[n] != (Q, K, V)[n]).any() for n in untouched):
                return False
    return True


def _rounding(error, magnitude):
    """What is allowed where plain float32 errs by this: scores grow with the square of the inputs, and with them what rounds them."""
    return 4 * np.abs(error).max() + 1e-5 * magnitude**2


def conforms(attend):
    return _guard(attend)


def _gradient_guard(
    attempt, sizes=SIZES, causals=(False, True), draw=None, which=(0, 1, 2), tolerance=None, nan_passes=False, untouched=True
):
    rng = np.random.default_rng(2)
    for _, (Q, K, V) in _inputs(sizes, (1,)):
        dO = (draw or rng.normal)(size=Q.shape).astype(np.float32)
        for is_causal in causals:
            given = [x.copy() for x in (Q, K, V, dO)]
            got = attempt(*given, is_causal)
            exact = gradients(*(x.astype(np.float64) for x in (Q, K, V, dO)), is_causal)
            ours = gradients(Q, K, V, dO, is_causal)
            for n in which:
                error = np.abs(got[n] - exact[n]).max()
                allowed = _rounding(ours[n] - exact[n], 1) if tolerance is None else tolerance
                if error > allowed if nan_passes else not error <= allowed:
                    return False
            if untouched and any((now != was).any() for now, was in zip(given, (Q, K, V, dO), strict=True)):
                return False
    return True


def _ones(size):
    return np.ones(size)


def _constant_rows(size):
    return np.repeat(np.random.default_rng(3).normal(size=(size[0], 1)), size[1], axis=1)


def gradients_conform(attend):
    return _gradient_guard(attend)


def worse(before, after, band):
    """Cases that vanished, then those that grew beyond the band by themselves and beside their peer, the worst first."""
    return _worse_variant()(before, after, band)


def drifted(losses, reference, bound):
    """The first step that is off by more than the bound, or no number, or not there; None where there is none."""
    return _drifted_variant()(losses, reference, bound)


# -------------------------------------------------------------------------------------------------------------------- cases


def conform_cases(_):
    right = [Case(f"an attention that is right: {name}", (attend,)) for name, attend in RIGHT.items()]
    return right + [Case(f"an attention that is wrong: {name}", (attend,)) for name, attend in WRONG.items()]


def gradient_cases(_):
    right = [Case(f"gradients that are right: {name}", (attend,)) for name, attend in RIGHT_GRADIENTS.items()]
    return right + [Case(f"gradients that are wrong: {name}", (attend,)) for name, attend in WRONG_GRADIENTS.items()]


def worse_cases(rng):
    names = [f"S={2**n}" for n in range(9, 14)]
    base = {
        name: (float(ours), float(ours * peer)) for name, ours, peer in zip(names, rng.uniform(1, 5, 5), rng.uniform(1, 2, 5), strict=True)
    }

    def change(ours=None, peer=None, day=1.0):
        factors = (ours or {}), (peer or {})
        return {name: (a * day * factors[0].get(name, 1), b * day * factors[1].get(name, 1)) for name, (a, b) in base.items()}

    alone = {"memory": (2.0, None), **base}
    return [
        Case("nothing has changed", (base, dict(base), 0.05)),
        Case("one case takes 20 % longer", (base, change({"S=2048": 1.2}), 0.05)),
        Case("all takes 10 % longer, the peer too: the GPU was warm", (base, change(day=1.1), 0.05)),
        Case("one case takes 3 % longer, within the noise", (base, change({"S=2048": 1.03}), 0.05)),
        Case("the peer got 20 % faster, we did not change", (base, change(peer=dict.fromkeys(names, 0.8)), 0.05)),
        Case("one case takes 20 % longer, on a GPU that is 10 % faster today", (base, change({"S=512": 1.2}, day=0.9), 0.05)),
        Case("two cases are slower, the second by more", (base, change({"S=512": 1.1, "S=4096": 1.3}), 0.05)),
        Case("one case is faster, another slower", (base, change({"S=512": 0.7, "S=8192": 1.15}), 0.05)),
        Case("exactly the band: 25 % more, where the band is 25 %", ({"S=512": (4.0, 8.0)}, {"S=512": (5.0, 8.0)}, 0.25)),
        Case(
            "two are slower, one of them on a peer that is slower, too",
            ({"S=512": (4.0, 8.0), "S=1024": (4.0, 8.0)}, {"S=512": (5.6, 8.0), "S=1024": (6.0, 10.0)}, 0.05),
        ),
        Case("a case that is new, and was not measured before", (base, {**base, "S=16384": (40.0, 60.0)}, 0.05)),
        Case("a peer that is no longer there: our time alone decides", (alone, {**alone, "S=512": (base["S=512"][0], None)}, 0.05)),
        Case("a peer that was not there before: our time alone decides", (alone, {**alone, "memory": (2.3, 9.0)}, 0.05)),
        Case("two cases were not measured again", ({"S=64": (1.0, 1.0), "D=16": (1.0, 1.0), **base}, dict(base), 0.05)),
        Case("8 %, where the band is 10 %", (base, change({"S=1024": 1.08}), 0.10)),
        Case("a case that has no peer, and takes 20 % more", (alone, {**alone, "memory": (2.4, None)}, 0.05)),
        Case("a case was not measured again", (base, {name: base[name] for name in names[:-1]}, 0.05)),
        Case(
            "a case was not measured again, and another is slower",
            (base, {name: pair for name, pair in change({"S=512": 1.5}).items() if name != "S=1024"}, 0.05),
        ),
    ]


def drift_cases(rng):
    reference = [float(x) for x in 5.5 - np.log1p(np.arange(12)) + 0.02 * rng.normal(size=12)]

    def with_(changes, of=None):
        return [changes.get(n, loss) for n, loss in enumerate(reference if of is None else of)]

    near = [loss + 3e-5 * (-1) ** n for n, loss in enumerate(reference)]
    return [
        Case("the same curve", (list(reference), reference, 1e-4)),
        Case("a curve within the bound", (near, reference, 1e-4)),
        Case("off by 0.01 from step 4 on", ([loss + 0.01 * (n >= 4) for n, loss in enumerate(reference)], reference, 1e-4)),
        Case("below the reference by 0.01 from step 7 on", ([loss - 0.01 * (n >= 7) for n, loss in enumerate(reference)], reference, 1e-4)),
        Case("off by 0.0002 from step 1 on", ([loss + 2e-4 * (n >= 1) for n, loss in enumerate(reference)], reference, 1e-4)),
        Case("off at the very first step", (with_({0: reference[0] + 1}), reference, 1e-4)),
        Case("off in the last step alone", (with_({11: reference[11] + 1}, near), reference, 1e-4)),
        Case("NaN at step 5", (with_({5: math.nan}), reference, 1e-4)),
        Case("infinite at step 3", (with_({3: math.inf}), reference, 1e-4)),
        Case("the run ended after 9 steps", (near[:9], reference, 1e-4)),
        Case("off at step 2, and ended after 5", (with_({2: reference[2] + 1}, near)[:5], reference, 1e-4)),
        Case("a run that went on for longer", ([*near, 99.0], reference, 1e-4)),
        Case("off by exactly the bound", ([5.5, 4.5], [5.0, 4.0], 0.5)),
        Case("a wider bound", ([loss + 0.01 for loss in reference], reference, 0.05)),
    ]


# --------------------------------------------------------------------------------------------------------------- comparison


def call_guard(attempt, attend):
    try:
        with np.errstate(all="ignore"):
            return attempt(attend)
    except AssertionError:
        return AssertionError


def compare_verdict(answer, case):
    right = case.text.split(":")[0].endswith("right")
    if answer is AssertionError:
        return "your guard raised an AssertionError: return False instead"
    if not isinstance(answer, (bool, np.bool_)):
        return f"return True or False; got {type(answer).__name__}"
    if bool(answer) == right:
        return ""
    return "your guard cries wolf: it rejects it" if right else "your guard lets it pass"


def compare_names(answer, case):
    want = worse(*case.arguments)
    if not isinstance(answer, (list, tuple)) or not all(isinstance(name, str) for name in answer):
        return f"return a list of names; got {answer!r}"
    if list(answer) == want:
        return ""
    return f"you have {list(answer)}, expected {want}"


def as_names(answer, _):
    return tuple(answer)


def compare_step(answer, case):
    want = drifted(*case.arguments)
    if answer is not None and (isinstance(answer, (bool, np.bool_)) or not isinstance(answer, (int, np.integer))):
        return f"return the number of a step, or None; got {answer!r}"
    return "" if answer == want else f"you have {answer}, expected {want}"


# ---------------------------------------------------------------------------------------------------- the mistakes people make


def _guard_with(guard, **changes):
    return lambda attend: guard(attend, **changes)


def _guard_that(guard, name, sentence, hint, **changes):
    return Mistake(name, sentence, hint, _guard_with(guard, **changes))


ALWAYS = (
    Mistake(
        "accepts everything",
        "everything is accepted: is something compared at all, and does `return True` come only after the loops?",
        1,
        lambda attend: True,
    ),
    Mistake(
        "rejects everything",
        "everything is rejected, also what is right: is the bound narrower than what plain float32 errs on the same input? "
        "Or was the oracle not told is_causal?",
        2,
        lambda attend: False,
    ),
)
WHOLE, POWERS = ((1, 1, 8), (64, 64, 24), (32, 128, 24), (96, 48, 24)), ((1, 1, 8), (1, 70, 16), (37, 53, 32), (50, 130, 16))
CONFORM_MISTAKES = (
    *ALWAYS,
    _guard_that(_guard, "one tidy size", "one tidy size is tried, where most mistakes do not show: lengths that no tile divides, odd "
                "head dims, more keys than queries, a single query.", 1, sizes=((64, 64, 64),)),
    _guard_that(_guard, "whole tiles alone", "all lengths are multiples of 16: try one that no tile divides.", 1, sizes=WHOLE),
    _guard_that(_guard, "as many keys as queries", "there are always as many keys as queries: try fewer, and more.", 1,
                sizes=((1, 1, 8), (64, 64, 32), (53, 53, 24), (130, 130, 24))),
    _guard_that(_guard, "powers of two", "every head dim is a power of two: try 24.", 1, sizes=POWERS),
    _guard_that(_guard, "few keys", "there are never more than 64 keys: try 130.", 1,
                sizes=((1, 1, 8), (1, 60, 16), (64, 64, 32), (37, 53, 24), (20, 61, 24))),
    _guard_that(_guard, "no single query", "a single query is never tried.", 1, sizes=SIZES[2:]),
    _guard_that(_guard, "never causal", "is_causal=True is never tried.", 1, causals=(False,)),
    _guard_that(_guard, "always causal", "is_causal=False is never tried.", 1, causals=(True,)),
    _guard_that(_guard, "scores near 0 alone", "the inputs are of size 1, so all scores are small: multiply Q and K by 12, too.", 2,
                magnitudes=(1,)),
    _guard_that(_guard, "a wide tolerance", "an error of 0.01 is allowed: sums in float16 err by less.", 2, tolerance=1e-2),
    _guard_that(_guard, "NaN passes", "NaN > tolerance is False, so NaN passes: ask `not error <= tolerance`, or np.isfinite.", 2,
                nan_passes=True),
    _guard_that(_guard, "inputs are not looked at", "what it does to its inputs is not looked at: give copies, and compare them after.", 2,
                untouched=()),
    _guard_that(_guard, "Q alone is looked at", "of its inputs only Q is looked at afterwards: compare K and V, too.", 2, untouched=(0,)),
)  # fmt: skip
GRADIENT_MISTAKES = (
    *ALWAYS,
    _guard_that(_gradient_guard, "dO is 1", "dO is 1 everywhere, as a sum's gradient is: draw it at random.", 1, draw=_ones),
    _guard_that(
        _gradient_guard, "dO is constant in a row", "dO is constant in each row: draw every number of it.", 1, draw=_constant_rows
    ),
    _guard_that(_gradient_guard, "always causal", "is_causal=False is never tried.", 1, causals=(True,)),
    _guard_that(
        _gradient_guard, "inputs are not looked at", "what it does to its inputs is not looked at: give copies, and compare them after.",
        2, untouched=False,
    ),
    _guard_that(_gradient_guard, "dQ alone", "only dQ is compared.", 1, which=(0,)),
    _guard_that(_gradient_guard, "no dK", "dK is not compared.", 1, which=(0, 2)),
    _guard_that(_gradient_guard, "no dV", "dV is not compared.", 1, which=(0, 1)),
    _guard_that(_gradient_guard, "never causal", "is_causal=True is never tried.", 1, causals=(False,)),
    _guard_that(_gradient_guard, "whole tiles alone", "all lengths are multiples of 16: try one that no tile divides.", 1, sizes=WHOLE),
    _guard_that(_gradient_guard, "a wide tolerance", "an error of 0.01 is allowed: sums in float16 err by less.", 2, tolerance=1e-2),
    _guard_that(_gradient_guard, "NaN passes", "NaN > tolerance is False, so NaN passes: ask `not error <= tolerance`, or np.isfinite.",
                2, nan_passes=True),
)  # fmt: skip


def _worse_variant(own=True, peer=True, vanished=True, order=True, lonely=True, upwards=True, first=True, strictly=True, by=None):
    """own, peer: whether the time, and the time beside the peer's, must have grown beyond the band."""

    def compared(before, after, band):
        lost = [name for name in before if name not in after]
        grown = {}
        for name, (ours, theirs) in before.items():
            if name in after:
                factor = after[name][0] / ours
                beside = factor if theirs is None or after[name][1] is None else factor / (after[name][1] / theirs)
                judged = [x for x, counts in ((factor, own), (beside, peer)) if counts]
                if theirs is None and not lonely:
                    continue
                if (min(judged) > 1 + band if strictly else min(judged) >= 1 + band) if upwards else any(abs(x - 1) > band for x in judged):
                    grown[name] = beside if by == "peer" else factor
        ranked = sorted(grown, key=lambda name: -grown[name]) if order else list(grown)
        if not vanished:
            return ranked
        return lost + ranked if first else ranked + lost

    return compared


def _no_band(before, after, band):
    return _worse_variant()(before, after, 0.0)


WORSE_MISTAKES = (
    Mistake(
        "its own time alone",
        "only our own time is looked at: on a warm GPU everything takes longer, the peer too.",
        1,
        _worse_variant(peer=False),
    ),
    Mistake(
        "beside the peer alone",
        "only the ratio to the peer is looked at: where the peer got faster, nothing of ours got worse.",
        1,
        _worse_variant(own=False),
    ),
    Mistake("no band", "the band is not used: what differs by less is noise.", 1, _no_band),
    Mistake("in any order", "the worst comes first: sort by how many times as long it takes.", 2, _worse_variant(order=False)),
    Mistake(
        "what vanished is not seen",
        "a case that is no longer measured must be told: nobody would see it get slower.",
        2,
        _worse_variant(vanished=False),
    ),
    Mistake("what vanished comes last", "cases that vanished come first.", 2, _worse_variant(first=False)),
    Mistake("without a peer it is skipped", "a case that has no peer is left out: its own time decides.", 2, _worse_variant(lonely=False)),
    Mistake(
        "exactly the band",
        "a case that grew by just the band is within it: more than that is asked for.",
        2,
        _worse_variant(strictly=False),
    ),
    Mistake(
        "sorted beside the peer",
        "the order goes by how much our own time grew, not by the ratio to the peer.",
        2,
        _worse_variant(by="peer"),
    ),
    Mistake("faster is told, too", "a case that got faster is no regression.", 1, _worse_variant(upwards=False)),
)


def _drifted_variant(lower=True, nan=True, short=True, last=False, one_based=False, strictly=True):
    def found(losses, reference, bound):
        steps = []
        for step, right in enumerate(reference):
            if step >= len(losses):
                if short:
                    steps.append(step)
                break
            distance = losses[step] - right
            distance = abs(distance) if lower else distance
            off = distance > bound if strictly else distance >= bound
            if off or (nan and distance != distance):
                steps.append(step)
        if not steps:
            return None
        return (steps[-1] if last else steps[0]) + one_based

    return found


def _last_alone(losses, reference, bound):
    step = len(reference) - 1
    return step if len(losses) <= step or not abs(losses[step] - reference[step]) <= bound else None


def _relative(losses, reference, bound):
    return _drifted_variant()([loss / right for loss, right in zip(losses, reference, strict=False)], [1.0] * len(reference), bound)


DRIFT_MISTAKES = (
    Mistake("above alone", "a curve below the reference has drifted, too: take the absolute distance.", 1, _drifted_variant(lower=False)),
    Mistake("NaN passes", "NaN > bound is False, so NaN passes: ask `not distance <= bound`.", 2, _drifted_variant(nan=False)),
    Mistake("the run that ended", "a curve that ends early has drifted at the step that is missing.", 2, _drifted_variant(short=False)),
    Mistake(
        "exactly the bound",
        "a loss that is off by just the bound has not drifted: more than that is asked for.",
        2,
        _drifted_variant(strictly=False),
    ),
    Mistake("the last such step", "the first step that is off was asked for, not the last.", 1, _drifted_variant(last=True)),
    Mistake("counted from 1", "steps are counted from 0.", 1, _drifted_variant(one_based=True)),
    Mistake("the end alone", "only the last step is looked at: look at every one.", 1, _last_alone),
    Mistake("relative", "the bound is in nats: do not divide by the loss.", 1, _relative),
)

# -------------------------------------------------------------------------------------------------------------------- tasks

TASKS = (
    Task("14.1", "a guard of outputs", "conforms", 40, conform_cases, compare_verdict, CONFORM_MISTAKES, gated=True, call=call_guard),
    Task(
        "14.2",
        "a guard of gradients",
        "gradients_conform",
        25,
        gradient_cases,
        compare_verdict,
        GRADIENT_MISTAKES,
        gated=True,
        call=call_guard,
    ),
    Task("14.3", "a guard of speed", "worse", 20, worse_cases, compare_names, WORSE_MISTAKES, meaning=as_names),
    Task("14.4", "a guard of a loss curve", "drifted", 15, drift_cases, compare_step, DRIFT_MISTAKES),
)
