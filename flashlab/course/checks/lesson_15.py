"""Exercise 15, by hand for Hopper: places and parities, the carrier, a craft that multiplies some tiles, what each unit needs."""

from collections import Counter

import numpy as np

from flashlab.course import workshop
from flashlab.course.checks import compare
from flashlab.course.checks.edited import mistake
from flashlab.course.checks.task import Case, Mistake, Task
from flashlab.course.steps.workers import carrier, carrier_of, craft, craft_of, place_and_parity
from flashlab.course.workshop import Trouble, drawn, steady

RUNS = 40  # of a workshop, each with other times
TENSOR, EXPONENTIALS, ISSUE = 4096, 16, 4  # of a Hopper multiprocessor in a clock: operations, powers of two, instructions of a warp


# ------------------------------------------------------------------------------------------------------------ what is right


def clocks_of_a_tile(rows, keys, D, instructions):
    """(tensor cores, exponentials, issue): the clocks that a tile takes of each unit alone. instructions: of each thread."""
    warps = rows // 16
    return 4 * rows * keys * D / TENSOR, rows * keys / EXPONENTIALS, warps * instructions / ISSUE


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


def clock_cases(rng):
    return [
        Case("head dim 128", (64, 128, 128, 460)),
        Case("head dim 64", (64, 128, 64, 415)),
        Case("fewer keys", (64, 64, 128, 240)),
        Case("twice the rows", (128, 128, 128, 460)),
        Case("three warps, and nothing divides", (48, 20, 40, 461)),
        Case("drawn at random", (64 * int(rng.integers(1, 4)), 2 ** int(rng.integers(5, 9)), 64, int(rng.integers(100, 900)))),
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


def compare_clocks(answer, case):
    if not isinstance(answer, (tuple, list, np.ndarray)) or len(answer) != 3:
        return f"return three numbers, (tensor cores, exponentials, issue); got {answer!r}"
    for name, got, want in zip(("tensor cores", "exponentials", "issue"), answer, clocks_of_a_tile(*case.arguments), strict=True):
        difference = compare.number(got, want, " clocks")
        if difference:
            return f"{name}: {difference}"
    return ""


# ---------------------------------------------------------------------------------------------------- the mistakes people make


PLACE_MISTAKES = (
    Mistake("the other order", "(place, parity) was asked for, in this order.", 1, lambda n, places: place_and_parity(n, places)[::-1]),
    Mistake(
        "the round itself", "the round was returned: its parity is the last bit of it.", 2, lambda n, places: (n % places, n // places)
    ),
    Mistake("a true division", "the round has a fraction: divide with //.", 1, lambda n, places: (n % places, n / places % 2)),
    Mistake("the tile's parity", "the tile's own parity was taken: it is the round that counts.", 2, lambda n, places: (n % places, n % 2)),
    Mistake(
        "the place's parity",
        "the place's parity was taken: it is the round that counts.",
        2,
        lambda n, places: (n % places, n % places % 2),
    ),
    Mistake(
        "rounds from 1", "rounds are counted from 0: the first one has parity 0.", 1, lambda n, places: (n % places, 1 - n // places % 2)
    ),
    Mistake(
        "blocks of tiles",
        "place and round changed roles: neighbours among the tiles lie in different places.",
        2,
        lambda n, places: (n // places, n % places % 2),
    ),
)
CARRIER_MISTAKES = (
    mistake(
        carrier,
        "the crafts' parity",
        "in the first round the carrier waits for parity 0, the round's own: that one is over only when the tile it is about "
        "to bring has been given back. In the first round nothing has been given back yet.",
        2,
        "1 - parity",
        "parity",
    ),
    mistake(
        carrier,
        "no wait",
        "nothing holds the carrier back, and it fills places while their last tiles may still be multiplied: the "
        "wait is missing, or not yielded, or for a parity that is over already (parity 1 in every round, say).",
        1,
        "        yield shop.wait(shop.empty[place], 1 - parity)\n",
        "",
    ),
    mistake(
        carrier, "the wrong barrier", "full[place] is what the copy itself arrives at: wait for empty[place].", 1, "shop.empty", "shop.full"
    ),
    mistake(
        carrier,
        "one place",
        "place 0 is always used: tiles take places in turn.",
        1,
        "place, parity = place_and_parity(n, shop.places)",
        "place, parity = 0, n % 2",
    ),
    mistake(carrier, "one tile too few", "the last tile never comes.", 1, "range(tiles)", "range(tiles - 1)"),
    mistake(
        carrier,
        "no first tile",
        "tile 0 never comes: the loop begins with 1, or the copy is not yielded.",
        1,
        "range(tiles)",
        "range(1, tiles)",
    ),
    mistake(
        carrier,
        "one tile too many",
        "a tile comes that nobody waits for: the last one is tiles − 1.",
        1,
        "range(tiles)",
        "range(tiles + 1)",
    ),
    mistake(
        carrier,
        "waits for its own copy",
        "the carrier waits until its copy is there: it need not, and could ask for the next tile meanwhile.",
        1,
        "        yield shop.copy(n, place)\n",
        "        yield shop.copy(n, place)\n        yield shop.wait(shop.full[place], parity)\n",
    ),
    mistake(
        carrier,
        "the first places alone",
        "only the first tile of each place has a parity of its own: it changes in every round.",
        2,
        "1 - parity",
        "1 if n < shop.places else 0",
    ),
    mistake(
        carrier,
        "in lockstep",
        "the carrier waits until the tile that it has just brought is given back: nothing is under way meanwhile.",
        2,
        "        yield shop.wait(shop.empty[place], 1 - parity)\n        yield shop.copy(n, place)",
        "        yield shop.copy(n, place)\n        yield shop.wait(shop.empty[place], parity)",
    ),
    mistake(
        carrier,
        "copied before the wait",
        "the copy begins before the wait: it is the copy that must wait.",
        1,
        "        yield shop.wait(shop.empty[place], 1 - parity)\n        yield shop.copy(n, place)",
        "        yield shop.copy(n, place)\n        yield shop.wait(shop.empty[place], 1 - parity)",
    ),
)
CRAFT_MISTAKES = (
    mistake(
        craft,
        "given back unseen",
        "tiles of other crafts are given back without a wait: an arrival that comes too early counts for the tile that "
        "lay in the place before, which another craft may still multiply.",
        2,
        "        yield shop.wait(shop.full[place], parity)\n        if begin <= n < end:\n            yield",
        "        if begin <= n < end:\n            yield shop.wait(shop.full[place], parity)\n            yield",
    ),
    mistake(
        craft,
        "tiles of others kept",
        "tiles of other crafts are never given back: their places stay full for ever.",
        1,
        "            yield shop.multiply(n, place)\n        yield shop.give_back(place)",
        "            yield shop.multiply(n, place)\n            yield shop.give_back(place)",
    ),
    mistake(
        craft,
        "its own tiles alone",
        "the other crafts' tiles are skipped: they must be given back too.",
        1,
        "range(tiles)",
        "range(begin, end)",
    ),
    mistake(
        craft,
        "stops at its end",
        "the loop ends with its own last tile: those behind it must be given back too.",
        1,
        "range(tiles)",
        "range(end)",
    ),
    mistake(
        craft,
        "begins with its own",
        "tiles before its own are left out, or come too late: every tile must be given back, in order.",
        1,
        "range(tiles)",
        "range(begin, tiles)",
    ),
    mistake(
        craft,
        "everything is multiplied",
        "every tile is multiplied: only begin … end − 1 are this craft's.",
        1,
        "if begin <= n < end",
        "if True",
    ),
    mistake(
        craft,
        "no wait behind its end",
        "tiles behind its own are given back without a wait: an arrival that comes too early counts for the tile that lay in "
        "the place before, which another craft may still multiply.",
        2,
        "        yield shop.wait(shop.full[place], parity)\n",
        "        if n < end:\n            yield shop.wait(shop.full[place], parity)\n",
    ),
    mistake(
        craft,
        "no wait before its beginning",
        "tiles before its own are given back without a wait: the craft runs ahead of the rounds, and then takes the end of an "
        "older round for that of its own.",
        2,
        "        yield shop.wait(shop.full[place], parity)\n",
        "        if n >= begin:\n            yield shop.wait(shop.full[place], parity)\n",
    ),
    mistake(craft, "begin left out", "tile `begin` is not multiplied: the range begins with it.", 1, "begin <= n", "begin < n"),
    mistake(craft, "the wrong barrier", "empty[place] is what crafts arrive at: wait for full[place].", 1, "shop.full", "shop.empty"),
    mistake(
        craft,
        "product not yielded",
        "the product is not yielded: without `yield` nothing is done.",
        1,
        "yield shop.multiply",
        "shop.multiply",
    ),
    mistake(
        craft,
        "given back twice",
        "a tile is given back twice: each craft arrives once for each tile.",
        1,
        "        yield shop.give_back(place)\n",
        "        yield shop.give_back(place)\n        yield shop.give_back(place)\n",
    ),
    mistake(
        craft, "always parity 0", "the parity is 0 in every round: it changes from round to round.", 1, "[place], parity", "[place], 0"
    ),
    mistake(
        craft,
        "others given back twice",
        "tiles of other crafts are given back twice: each craft arrives once for each tile.",
        1,
        "        yield shop.give_back(place)\n",
        "        yield shop.give_back(place)\n        if not begin <= n < end:\n            yield shop.give_back(place)\n",
    ),
    mistake(
        craft,
        "in lockstep",
        "the craft waits until the others have given the tile back, too: it need not, and could take the next one meanwhile.",
        1,
        "        yield shop.give_back(place)\n",
        "        yield shop.give_back(place)\n        yield shop.wait(shop.empty[place], parity)\n",
    ),
    mistake(
        craft,
        "counted from its own",
        "places are counted from the craft's own first tile: tile 0 of the walk lies in place 0, for all crafts.",
        1,
        "place_and_parity(n, shop.places)",
        "place_and_parity(max(0, n - begin), shop.places)",
    ),
    mistake(craft, "end included", "tile `end` is multiplied too: the range ends before it.", 1, "n < end", "n <= end"),
    mistake(
        craft,
        "no wait",
        "a tile is multiplied before it is there: the wait for full[place] is missing, or not yielded, or for the other "
        "parity (1 − parity is the carrier's).",
        1,
        "        yield shop.wait(shop.full[place], parity)\n",
        "",
    ),
    mistake(
        craft,
        "never given back",
        "nothing is given back in the loop, or it is not yielded: the carrier waits for ever.",
        1,
        "        yield shop.give_back(place)\n",
        "",
    ),
    mistake(
        craft,
        "given back before",
        "the tile is given back before it is multiplied: it may be overwritten meanwhile.",
        2,
        "        if begin <= n < end:\n            yield shop.multiply(n, place)\n        yield shop.give_back(place)",
        "        yield shop.give_back(place)\n        if begin <= n < end:\n            yield shop.multiply(n, place)",
    ),
)


def _clocks(name, sentence, hint, *changes):
    return mistake(clocks_of_a_tile, name, sentence, hint, *changes)


CLOCK_MISTAKES = (
    _clocks(
        "half the operations",
        "half of the operations are counted: there are two products, and each term of a sum is a multiplication and an addition.",
        1,
        "4 * rows",
        "2 * rows",
    ),
    _clocks(
        "no head dim", "D is missing in the products: each score is a sum over D.", 1, "rows * keys * D / TENSOR", "rows * keys / TENSOR"
    ),
    _clocks(
        "powers for each dim",
        "there is one power of two for each score, not for each of its D terms.",
        2,
        "rows * keys / EXPONENTIALS",
        "rows * keys * D / EXPONENTIALS",
    ),
    _clocks(
        "powers for each row",
        "there is one power of two for each score: rows × keys of them.",
        1,
        "rows * keys / EXPONENTIALS",
        "rows / EXPONENTIALS",
    ),
    _clocks("one warp", "the instructions of one warp are counted: 16 rows make a warp.", 2, "warps * instructions", "instructions"),
    _clocks(
        "threads, not warps",
        "each thread's instructions were counted one by one: a warp's 32 threads share each.",
        2,
        "rows // 16",
        "rows // 16 * 32",
    ),
    _clocks("one scheduler", "a multiprocessor issues 4 instructions in a clock.", 2, "/ ISSUE", "/ 1"),
    _clocks(
        "the instructions themselves",
        "a thread's instructions were returned: that is right for 4 warps alone, and 4 that are issued in a clock.",
        2,
        "warps * instructions / ISSUE",
        "instructions",
    ),
    _clocks("warps of 32 rows", "32 rows were counted to a warp: it is 16 here.", 2, "rows // 16", "rows // 32"),
    Mistake(
        "the other order",
        "(tensor cores, exponentials, issue) was asked for, in this order.",
        1,
        lambda *call: clocks_of_a_tile(*call)[::-1],
    ),
)

TASKS = (
    Task("15.1", "places in turn", "place_and_parity", 15, place_cases, compare_place, PLACE_MISTAKES),
    Task("15.2", "the carrier", "carrier", 25, carrier_cases, compare_outcome, CARRIER_MISTAKES, call=try_carrier),
    Task("15.3", "a craft", "craft", 35, craft_cases, compare_outcome, CRAFT_MISTAKES, call=try_craft),
    Task("15.4", "what each unit needs", "clocks_of_a_tile", 25, clock_cases, compare_clocks, CLOCK_MISTAKES),
)
