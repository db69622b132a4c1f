"""Exercise 15, by hand for Hopper: places and parities, the carrier, a craft that multiplies some tiles, jobs, and costs."""

from collections import Counter

import numpy as np
import torch

from flashlab.course import workshop
from flashlab.course.checks import compare
from flashlab.course.checks.lesson_15_costs import COST_MISTAKES, backward_costs
from flashlab.course.checks.lesson_15_jobs import JOB_MISTAKES, last_ends
from flashlab.course.checks.lesson_15_mistakes import CARRIER_MISTAKES, CRAFT_MISTAKES, PLACE_MISTAKES
from flashlab.course.checks.task import Case, Task
from flashlab.course.steps.workers import carrier_of, craft_of, place_and_parity
from flashlab.course.workshop import Trouble, drawn, steady

RUNS = 40  # of a workshop, each with other times


# -------------------------------------------------------------------------------------------------------------------- cases


def place_cases(rng):
    cases = [("the first tile", (0, 2)), ("the second place", (1, 2)), ("the second round", (2, 2)), ("the third round", (4, 2))]
    cases += [("one place", (3, 1)), ("three places", (7, 3)), ("four places", (13, 4))]
    return [Case(text, numbers) for text, numbers in cases] + [
        Case("drawn at random", (int(rng.integers(20, 90)), int(rng.integers(2, 6)))) for _ in range(3)
    ]


def carrier_cases(rng):
    return [
        Case("one tile, one place, one craft", (1, 1, 1)),
        Case("as many tiles as places", (2, 2, 1)),
        Case("more tiles than places", (5, 2, 1)),
        Case("one place for all", (4, 1, 2)),
        Case("two crafts", (9, 2, 2)),
        Case("three crafts, four places", (14, 4, 3)),
        Case("drawn at random", (int(rng.integers(15, 30)), int(rng.integers(2, 5)), 2)),
    ]


def craft_cases(rng):
    begin = int(rng.integers(1, 4))
    return [
        Case("one craft, and every tile is its own", (4, 2, ((0, 4),))),
        Case("two crafts, and every tile is theirs", (7, 2, ((0, 7), (0, 7)))),
        Case("the last tiles are another craft's alone", (8, 2, ((0, 6), (0, 8)))),
        Case("the first tiles are another craft's alone", (7, 2, ((0, 7), (2, 7)))),
        Case("many of the last tiles are another craft's alone", (10, 2, ((0, 4), (0, 10)))),
        Case("a window: each has a beginning and an end", (9, 3, ((0, 6), (1, 8), (3, 9)))),
        Case("one place", (5, 1, ((0, 4), (1, 5)))),
        Case("drawn at random", (12, 4, ((0, 12 - begin), (begin, 12)))),
    ]


def job_cases(rng):
    cases = [
        ("one job", [5], 1, 2),
        ("a job for each multiprocessor", [4, 3, 2], 3, 1),
        ("one multiprocessor", [3, 1, 2], 1, 2),
        ("the longest first", [6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1], 3, 2),
        ("the longest last", [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 9], 3, 2),
        ("all equally long", [4] * 10, 4, 3),
        ("more multiprocessors than jobs", [3, 7], 4, 1),
        ("nothing to begin", [5, 1, 4, 2, 3, 2, 2], 2, 0),
        ("drawn at random", rng.integers(1, 30, size=25), int(rng.integers(3, 7)), int(rng.integers(2, 6))),
    ]
    return [Case(text, (np.array(lengths), *numbers)) for text, lengths, *numbers in cases]


def cost_cases(rng):
    return [
        Case("one program, one tile", (64, 64, 16, 64, 64)),
        Case("four programs", (512, 512, 64, 128, 64)),
        Case("more keys than rows", (100, 640, 32, 128, 50)),
        Case("the last program owns fewer keys", (200, 300, 64, 128, 40)),
        Case("the last tile has fewer rows", (200, 256, 64, 128, 64)),
        Case("a program could own more keys than there are", (96, 50, 128, 128, 16)),
        Case("drawn at random", tuple(int(rng.integers(*limits)) for limits in ((100, 900), (1000, 4000), (16, 128), (33, 257), (16, 99)))),
    ]


# ------------------------------------------------------------------------------------------------ how workers are tried out


def outcome(work):
    """ "" where every run of a workshop goes well, otherwise what is wrong. work: a seed → "" or what is wrong in that run."""
    troubles = []
    for seed in range(RUNS):
        try:
            told = work(seed)
        except Trouble as trouble:
            told = str(trouble)
        if told:
            troubles.append(told)
    if len(troubles) == RUNS and len(set(troubles)) == 1:
        return troubles[0]
    return f"in {len(troubles)} of {RUNS} runs, each with other times, there was trouble; the first was: {troubles[0]}" if troubles else ""


def unlike(trace, name, what, tiles):
    """ "" where a worker has done this with these tiles, in order, otherwise what it has done."""
    found = [tile for worker, action, tile, *_ in trace if (worker, action) == (name, what)]
    return "" if found == tiles else f"{name} should {what} tiles {tiles}, and did so with {found}"


def given_back(trace, name, tiles, places):
    """ "" where a craft has given back each place as often as a tile lay in it, otherwise how often."""
    found = Counter(place for worker, what, _, place, *_ in trace if (worker, what) == (name, "give back"))
    wanted = Counter(n % places for n in range(tiles))
    wrong = next((place for place in wanted if found[place] != wanted[place]), None)
    return "" if wrong is None else f"{name} gave back place {wrong} {found[wrong]} times, and {wanted[wrong]} tiles came to it"


def try_carrier(attempt, tiles, places, crafts):
    every = list(range(tiles))

    def work(seed):
        trace = workshop.run(lambda shop: attempt(shop, tiles), [craft_of(tiles, 0, tiles)] * crafts, places, drawn(seed))
        told = (unlike(trace, f"craft {c}", "multiply", every) for c in range(crafts))
        return unlike(trace, "the carrier", "copy", every) or next(filter(None, told), "")

    return outcome(work) or wasted(
        lambda carry: workshop.run(carry, [craft_of(tiles, 0, tiles)] * crafts, places, steady()),
        lambda shop: attempt(shop, tiles),
        carrier_of(tiles),
    )


def try_craft(attempt, tiles, places, ranges):
    attempts = [lambda shop, own=own: attempt(shop, tiles, *own) for own in ranges]

    def run(crafts, took):
        return workshop.run(carrier_of(tiles), crafts, places, took)

    def work(seed):
        trace = run(attempts, drawn(seed))
        for c, (begin, end) in enumerate(ranges):
            told = unlike(trace, f"craft {c}", "multiply", list(range(begin, end))) or given_back(trace, f"craft {c}", tiles, places)
            if told:
                return told
        return ""

    return outcome(work) or wasted(lambda crafts: run(crafts, steady()), attempts, [craft_of(tiles, *own) for own in ranges])


def wasted(work, attempt, right):
    """ "" where a workshop ends as early with the attempt as with what is right, otherwise in words how much later."""
    mine, theirs = (max((end for *_, end in work(workers)), default=0) for workers in (attempt, right))
    if mine <= theirs:
        return ""
    return f"somebody waits who need not: where a copy takes 4 and a product 3, all is done after {mine}, and {theirs} would do"


def compare_outcome(answer, case):
    return answer


def compare_place(answer, case):
    if not isinstance(answer, (tuple, list, np.ndarray)) or len(answer) != 2:
        return f"return two numbers, (place, parity); got {answer!r}"
    for name, got, want in zip(("place", "parity"), answer, place_and_parity(*case.arguments), strict=True):
        if got != want:
            return f"{name}: you have {got!r}, expected {want}"
    return ""


def compare_ends(answer, case):
    return compare_numbers(answer, last_ends(*case.arguments), {"a program for each": "", "dealt out": "", "taken": ""})


def compare_costs(answer, case):
    units = {"two kernels": " operations", "one kernel": " operations", "added": " bytes", "in turns": " steps"}
    return compare_numbers(answer, backward_costs(*case.arguments), units)


def compare_numbers(answer, wanted, units):
    """ "" where some numbers are right, otherwise which is not. units: of each, by name."""
    what = f"{('three', 'four')[len(units) - 3]} numbers, ({', '.join(units)})"
    if isinstance(answer, torch.Tensor):
        answer = answer.tolist()
    if answer is None:
        return f"return {what}: is a return missing?"
    if not isinstance(answer, (tuple, list, np.ndarray)) or len(answer) != len(units):
        return f"return {what}; got {answer!r}"
    for (name, unit), got, want in zip(units.items(), answer, wanted, strict=True):
        difference = compare.number(got, want, unit)
        if difference:
            return f"{name}: {difference}"
    return ""


TASKS = (
    Task("15.1", "places in turn", "place_and_parity", 15, place_cases, compare_place, PLACE_MISTAKES),
    Task("15.2", "the carrier", "carrier", 25, carrier_cases, compare_outcome, CARRIER_MISTAKES, call=try_carrier),
    Task("15.3", "a craft", "craft", 35, craft_cases, compare_outcome, CRAFT_MISTAKES, call=try_craft),
    Task("15.4", "who does the next job", "last_ends", 15, job_cases, compare_ends, JOB_MISTAKES),
    Task("15.5", "two kernels or one", "backward_costs", 10, cost_cases, compare_costs, COST_MISTAKES),
)
