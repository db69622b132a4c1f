"""Guards as people write them: the right ones of exercise 14, and each with something that it does not try, allow or notice."""

import numpy as np

from flashlab.course.checks.planted import gradients, plain
from flashlab.course.checks.task import Mistake

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


def _guard(
    attend, sizes=SIZES, magnitudes=(1, 12), causals=(False, True), tolerance=None, nan_passes=False, untouched=(0, 1, 2),
    shaped=True, of=lambda difference: np.abs(difference).max(), given_as=np.float32,
):  # fmt: skip
    """A guard of outputs. tolerance: None for what float32 rounds; untouched: which inputs are looked at afterwards; of: the error."""
    for magnitude, (Q, K, V) in _inputs(sizes, magnitudes):
        for is_causal in causals:
            given = [x.astype(given_as) for x in (Q, K, V)]
            try:
                out = attend(*given, is_causal)
            except Exception:
                return False
            exact = plain(*(x.astype(np.float64) for x in (Q, K, V)), is_causal)
            allowed = _rounding(plain(Q, K, V, is_causal) - exact, magnitude) if tolerance is None else tolerance
            if shaped and out.shape != exact.shape:
                return False
            error = of(out - exact)
            if error > allowed if nan_passes else not error <= allowed:
                return False
            if any((given[n] != (Q, K, V)[n]).any() for n in untouched):
                return False
    return True


def _rounding(error, magnitude):
    """What is allowed where plain float32 errs by this: scores grow with the square of the inputs, and with them what rounds them."""
    return 4 * np.abs(error).max() + 1e-5 * magnitude**2


def _gradient_guard(
    attempt,
    sizes=SIZES,
    causals=(False, True),
    draw=None,
    which=(0, 1, 2),
    tolerance=None,
    nan_passes=False,
    untouched=True,
    of=lambda difference: np.abs(difference).max(),
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
                error = of(got[n] - exact[n])
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


def worse(before, after, band):
    """Cases that vanished, then those that grew beyond the band by themselves and beside their peer, the worst first."""
    return _worse_variant()(before, after, band)


def drifted(losses, reference, bound):
    """The first step that is off by more than the bound, or no number, or not there; None where there is none."""
    return _drifted_variant()(losses, reference, bound)


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
        "it rejects what is right: is the bound narrower than what float32 errs on the same input, in whatever order it adds? "
        "Or was the oracle not told is_causal?",
        2,
        lambda attend: False,
    ),
)
WHOLE, POWERS = ((1, 1, 8), (64, 64, 24), (32, 128, 24), (96, 48, 24)), ((1, 1, 8), (1, 70, 16), (37, 53, 32), (50, 130, 16))
CONFORM_MISTAKES = (
    *ALWAYS,
    _guard_that(_guard, "nothing overflows", "no score that you give overflows: multiply Q and K by 12, and turn them into float32 after "
                "that. rng.normal draws float64, which overflows much later.", 2, given_as=np.float64),
    _guard_that(_guard, "shorter than a tile", "no length is above 16, so whatever walks in tiles has a single one: try 70 and 130.", 1,
                sizes=((1, 1, 8), (1, 7, 24), (5, 3, 16), (7, 9, 24), (13, 13, 5))),
    Mistake(
        "the mean error", "the mean of the errors hides a single wrong number: take the largest.", 1,
        _guard_with(_guard, of=lambda x: np.abs(x).mean()),
    ),
    Mistake(
        "no absolute value", "where the output is too small, the difference is negative: take its absolute value.", 1,
        _guard_with(_guard, of=np.max),
    ),
    Mistake(
        "the shape is not looked at", "an output of another shape is compared by broadcasting, and may pass: ask for its shape.", 2,
        _guard_with(_guard, shaped=False),
    ),
    Mistake(
        "never more queries than keys", "there are never more queries than keys: try 70 over 45.", 1,
        _guard_with(_guard, sizes=((1, 1, 8), (1, 70, 16), (64, 64, 32), (37, 53, 24), (50, 130, 24))),
    ),
    Mistake(
        "turned round", "what is right is rejected, and what is wrong accepted: True means that you trust it.", 1, lambda a: not _guard(a)
    ),
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
    _guard_that(_guard, "a wide tolerance", "the bound is too wide, or nothing of size 1 is tried: there what is right errs by less than "
                "1e-5, and a wrong scale or a sum in float16 by less than 0.001.", 2, tolerance=1e-2),
    _guard_that(_guard, "NaN passes", "NaN > tolerance is False, so NaN passes: ask `not error <= tolerance`, or np.isfinite.", 2,
                nan_passes=True),
    _guard_that(_guard, "inputs are not looked at", "what it does to its inputs is not looked at: give copies, and compare them after.", 2,
                untouched=()),
    _guard_that(_guard, "Q alone is looked at", "of its inputs only Q is looked at afterwards: compare K and V, too.", 2, untouched=(0,)),
)  # fmt: skip
GRADIENT_MISTAKES = (
    *ALWAYS,
    Mistake(
        "turned round", "what is right is rejected, and what is wrong accepted: True means that you trust it.", 1,
        lambda a: not _gradient_guard(a),
    ),
    _guard_that(_gradient_guard, "dO is 1", "dO is 1 everywhere, as a sum's gradient is: draw it at random.", 1, draw=_ones),
    _guard_that(
        _gradient_guard, "dO is constant in a row", "dO is constant in each row: draw every number of it.", 1, draw=_constant_rows
    ),
    _guard_that(_gradient_guard, "always causal", "is_causal=False is never tried.", 1, causals=(True,)),
    _guard_that(
        _gradient_guard, "inputs are not looked at", "what it does to its inputs is not looked at: give copies, and compare them after.",
        2, untouched=False,
    ),
    Mistake(
        "no absolute value", "where a gradient is too small, the difference is negative: take its absolute value.", 2,
        _guard_with(_gradient_guard, of=np.max),
    ),
    Mistake(
        "the mean error", "the mean of the errors hides a single wrong number: take the largest.", 2,
        _guard_with(_gradient_guard, of=lambda x: np.abs(x).mean()),
    ),
    _guard_that(_gradient_guard, "never more keys than queries", "there are never more keys than queries: try 45 over 70.", 1,
                sizes=((1, 1, 8), (64, 64, 32), (53, 53, 24), (70, 45, 24))),
    _guard_that(_gradient_guard, "one tidy size", "one tidy size is tried, where most mistakes do not show: lengths that no tile divides, "
                "a head dim of 24, more keys than queries.", 1, sizes=((64, 64, 64),)),
    _guard_that(_gradient_guard, "powers of two", "every head dim is a power of two: try 24.", 1, sizes=POWERS),
    _guard_that(_gradient_guard, "dK alone", "only dK is compared.", 1, which=(1,)),
    _guard_that(_gradient_guard, "dV alone", "only dV is compared.", 1, which=(2,)),
    _guard_that(_gradient_guard, "dQ alone", "only dQ is compared.", 1, which=(0,)),
    _guard_that(_gradient_guard, "no dK", "dK is not compared.", 1, which=(0, 2)),
    _guard_that(_gradient_guard, "no dV", "dV is not compared.", 1, which=(0, 1)),
    _guard_that(_gradient_guard, "never causal", "is_causal=True is never tried.", 1, causals=(False,)),
    _guard_that(_gradient_guard, "whole tiles alone", "all lengths are multiples of 16: try one that no tile divides.", 1, sizes=WHOLE),
    _guard_that(_gradient_guard, "a tolerance of 0.001", "the bound is too wide: with inputs of size 1, what is right errs by less "
                "than 1e-5.", 2, tolerance=1e-3),
    _guard_that(_gradient_guard, "a wide tolerance", "the bound is too wide: sums in float16 err by less than 0.01.", 2, tolerance=1e-2),
    _guard_that(_gradient_guard, "NaN passes", "NaN > tolerance is False, so NaN passes: ask `not error <= tolerance`, or np.isfinite.",
                2, nan_passes=True),
)  # fmt: skip


def _worse_variant(
    own=True,
    peer=True,
    vanished=True,
    order=True,
    lonely=True,
    upwards=True,
    first=True,
    strictly=True,
    by=None,
    upside_down=False,
    either=False,
):
    """own, peer: whether the time, and the time beside the peer's, must have grown beyond the band."""

    def compared(before, after, band):
        lost = [name for name in before if name not in after]
        grown = {}
        for name, (ours, theirs) in before.items():
            if name in after:
                factor = after[name][0] / ours
                peers = 1 if None in (theirs, after[name][1]) else after[name][1] / theirs
                beside = factor * peers if upside_down else factor / peers
                judged = [x for x, counts in ((factor, own), (beside, peer)) if counts]
                if theirs is None and not lonely:
                    continue
                judged = [max(judged)] if either else judged
                if (min(judged) > 1 + band if strictly else min(judged) >= 1 + band) if upwards else any(abs(x - 1) > band for x in judged):
                    grown[name] = {"peer": beside, "more": after[name][0] - ours}.get(by, factor)
        ranked = sorted(grown, key=lambda name: -grown[name]) if order else list(grown)
        if not vanished:
            return ranked
        return lost + ranked if first else ranked + lost

    return compared


def _no_band(before, after, band):
    return _worse_variant()(before, after, 0.0)


def _worse_where(is_worse):
    def compared(before, after, band):
        factors = {name: after[name][0] / ours for name, (ours, _) in before.items() if name in after}
        peers = {name: None if None in (before[name][1], after[name][1]) else after[name][1] / before[name][1] for name in factors}
        grown = {name: x for name, x in factors.items() if x > 1 + band and (peers[name] is None or is_worse(x, peers[name], band))}
        return [name for name in before if name not in after] + sorted(grown, key=grown.get, reverse=True)

    return compared


_beside_without_band = _worse_where(lambda ours, peer, band: ours / peer > 1)


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
    Mistake(
        "the ratio upside down",
        "the peer's time is a divisor: where the peer grew as much as we did, the ratio stays what it was.",
        1,
        _worse_variant(upside_down=True),
    ),
    Mistake(
        "one of the two is enough",
        "our time alone, or the ratio to the peer alone, is enough to raise the alarm: both must have grown by more than the band.",
        1,
        _worse_variant(either=True),
    ),
    Mistake(
        "beside the peer without the band",
        "beside the peer, too, the growth must be beyond the band: our factor divided by the peer's, and that above 1 + band.",
        1,
        _beside_without_band,
    ),
    Mistake("sorted by milliseconds", "the order goes by the factor, after / before, not by milliseconds.", 2, _worse_variant(by="more")),
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


def _length_first(losses, reference, bound):
    return len(losses) if len(losses) < len(reference) else drifted(losses, reference, bound)


def _isclose(losses, reference, bound):
    near = [bool(np.isclose(loss, right, atol=bound)) for loss, right in zip(losses, reference, strict=False)]
    return near.index(False) if False in near else len(losses) if len(losses) < len(reference) else None


def _no_step_0(losses, reference, bound):
    return drifted(losses, reference, bound) or None


def _one_too_early(losses, reference, bound):
    found = drifted(losses, reference, bound)
    return found - 1 if found == len(losses) else found


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
    Mistake(
        "the end is asked for first",
        "the run's length is looked at first: it may have drifted before it ended, so walk over the steps, and ask at each whether it is "
        "there.",
        2,
        _length_first,
    ),
    Mistake(
        "np.isclose",
        "np.isclose allows a share of the reference on top of the bound (its rtol, 1e-5): use abs(…) <= bound, or rtol=0.",
        1,
        _isclose,
    ),
    Mistake("step 0 is lost", "step 0 counts as False in `or` and `if`: compare with None.", 1, _no_step_0),
    Mistake("the last step that is there", "the first step that is missing has the number len(losses), not one less.", 2, _one_too_early),
    Mistake("the last such step", "the first step that is off was asked for, not the last.", 1, _drifted_variant(last=True)),
    Mistake("counted from 1", "steps are counted from 0.", 1, _drifted_variant(one_based=True)),
    Mistake("the end alone", "only the last step is looked at: look at every one.", 1, _last_alone),
    Mistake("relative", "the bound is in nats: do not divide by the loss.", 1, _relative),
)
