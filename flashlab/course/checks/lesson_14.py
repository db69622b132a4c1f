"""Exercise 14, choosing and trusting: guards of the output, of the gradients, of the speed and of a loss curve. They are shown what is
right in several ways and what is wrong in many: a guard that lets a bug pass loses points, and one that cries wolf does, too."""

import math

import numpy as np

from flashlab.course.checks.lesson_14_mistakes import (
    CONFORM_MISTAKES,
    DRIFT_MISTAKES,
    GRADIENT_MISTAKES,
    WORSE_MISTAKES,
    drifted,
    worse,
)
from flashlab.course.checks.planted import RIGHT, RIGHT_GRADIENTS, WRONG, WRONG_GRADIENTS
from flashlab.course.checks.task import Case, Task

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
        Case("short times: 20 % more of 0.1 ms", ({"S=64": (0.1, 0.2)}, {"S=64": (0.12, 0.2)}, 0.05)),
        Case("twice the time, beside a slow peer", ({"S=64": (1.0, 100.0)}, {"S=64": (2.0, 100.0)}, 0.05)),
        Case("3 % more, on a peer that got 10 % faster", ({"S=64": (1.0, 1.0)}, {"S=64": (1.03, 0.9)}, 0.05)),
        Case("28 % more, where the band is 25 %", ({"S=64": (1.0, 1.0)}, {"S=64": (1.28, 1.0)}, 0.25)),
        Case("all takes twice as long today, and we 3 % more than that", ({"S=64": (1.0, 1.0)}, {"S=64": (2.06, 2.0)}, 0.05)),
        Case("we are twice as fast, and the peer four times", ({"S=64": (2.0, 4.0)}, {"S=64": (1.0, 1.0)}, 0.05)),
        Case("a case without a peer was not measured again", ({"memory": (1.0, None), **base}, dict(base), 0.05)),
        Case("many cases were not measured again", (dict.fromkeys("hamburg", (1.0, 1.0)), {}, 0.05)),
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
        Case("off at step 1, and more so at step 2", ([5.0, 4.1, 3.7], [5.0, 4.0, 3.0], 0.01)),
        Case("off by a little more than the bound", ([5.0, 4.00013], [5.0, 4.0], 1e-4)),
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
