"""Exercise 15's costs of a backward pass: the right ones, and how they go wrong."""

from flashlab.course.checks.edited import mistake
from flashlab.course.checks.task import Mistake


def backward_costs(rows, keys, D, own, tile):
    """(operations of two kernels, operations of one, bytes that one adds to dQ, steps that it takes in turns) of a head's backward pass."""
    product, programs, tiles = 2 * rows * keys * D, -(-keys // own), -(-rows // tile)
    return 7 * product, 5 * product, programs * rows * D * 4, tiles + programs - 1


def _in_order(first, second, third, call):
    right = backward_costs(*call)
    return right[first], right[second], right[third], right[3]


def _costs(name, sentence, hint, *changes):
    return mistake(backward_costs, name, sentence, hint, *changes)


SEVEN, FIVE, PROGRAMS, TILES, STEPS = "7 * product", "5 * product", "-(-keys // own)", "-(-rows // tile)", "tiles + programs - 1"
COST_MISTAKES = (
    _costs(
        "half the operations",
        "each term of a sum is a multiplication and an addition, two operations (and no mask hides any).",
        1,
        "2 * rows",
        "rows",
    ),
    _costs(
        "no head dim",
        "D is missing in the products: each of their numbers is a sum of many terms.",
        1,
        "rows * keys * D, -",
        "rows * keys, -",
    ),
    _costs("rows alone", "rows and keys differ: a product has rows × keys pairs.", 1, "rows * keys * D, -", "rows * rows * D, -"),
    _costs("keys alone", "rows and keys differ: a product has rows × keys pairs.", 1, "rows * keys * D, -", "keys * keys * D, -"),
    _costs(
        "whole programs",
        "the last program has fewer keys: only those that exist are multiplied.",
        2,
        "product, programs, tiles = 2 * rows * keys * D, -(-keys // own), -(-rows // tile)",
        "programs, tiles = -(-keys // own), -(-rows // tile)\n    product = 2 * rows * programs * own * D",
    ),
    _costs(
        "one program's products", "all programs count, not one: together they own all keys.", 2, "rows * keys * D, -", "rows * own * D, -"
    ),
    _costs(
        "eight products",
        "two kernels need 4 and 3 products: dK and dV both belong to the first, dQ alone to the second.",
        2,
        SEVEN,
        "8 * product",
    ),
    _costs("six products", "two kernels need 4 and 3 products: each of them computes q · kᵀ and dO · vᵀ.", 2, SEVEN, "6 * product"),
    _costs("ten products", "each kernel computes its own gradients alone: 4 products and 3.", 2, SEVEN, "10 * product"),
    _costs("nothing twice", "the second kernel starts from nothing: it computes q · kᵀ and dO · vᵀ again.", 2, SEVEN, FIVE),
    _costs("nothing saved", "one kernel computes q · kᵀ and dO · vᵀ once for all three gradients.", 2, FIVE, SEVEN),
    _costs("the saving", "the second number is what one kernel needs, not what it saves.", 1, FIVE, "2 * product"),
    _costs("without dO · vᵀ", "dO · vᵀ is missing, in both: ds needs it.", 1, SEVEN, FIVE, FIVE + ", prog", "4 * product, prog"),
    _costs(
        "the forward pass, too",
        "the forward pass is over: count the products of the backward pass alone.",
        1,
        SEVEN,
        "9 * product",
        FIVE,
        SEVEN,
    ),
    _costs(
        "the two kernels apart",
        "these are the two kernels apart: add them, and then count the one.",
        1,
        SEVEN,
        "4 * product",
        FIVE,
        "3 * product",
    ),
    _costs(
        "the gradients alone, twice",
        "before the gradients come q · kᵀ and dO · vᵀ, in each kernel.",
        1,
        SEVEN,
        "3 * product",
        FIVE,
        "3 * product",
    ),
    _costs("no q · kᵀ", "one kernel needs q · kᵀ, dO · vᵀ, and a product for each of three gradients.", 1, FIVE, "4 * product"),
    _costs("the gradients alone", "before the three gradients come q · kᵀ and dO · vᵀ.", 1, FIVE, "3 * product"),
    _costs(
        "each program all", "programs share the keys: each pair is multiplied once, whoever owns it.", 2, FIVE, "5 * product * programs"
    ),
    _costs("programs rounded down", "the last program counts, too, if it owns fewer keys: round up.", 2, PROGRAMS, "keys // own"),
    _costs("at least one program", "the last program counts, too, if it owns fewer keys: round up.", 2, PROGRAMS, "max(1, keys // own)"),
    _costs(
        "always one more",
        "one program too many where `own` divides `keys`: round up, instead of adding one.",
        2,
        PROGRAMS,
        "keys // own + 1",
    ),
    _costs("without the first", "the first program adds, too: to zeros.", 2, PROGRAMS, PROGRAMS + " - 1"),
    _costs("a part of a program", "the last program adds a whole dQ, however few keys it owns: round up.", 2, PROGRAMS, "keys / own"),
    _costs("programs of rows", "programs own keys, not rows.", 2, PROGRAMS, "-(-rows // own)"),
    _costs(
        "tiles",
        "a program adds once for each row and column, over its whole walk: its tiles of rows do not count apart.",
        2,
        "programs * rows",
        "programs * -(-rows // own) * rows",
    ),
    _costs(
        "whole tiles of rows",
        "the last tile has fewer rows: only those that exist are added.",
        2,
        "programs * rows * D * 4",
        "programs * tiles * tile * D * 4",
    ),
    _costs("one program", "every program adds to dQ, not one alone.", 2, "programs * rows", "rows"),
    _costs("half the bytes", "the sum is float32: 4 bytes a number.", 2, "* D * 4", "* D * 2"),
    _costs("twice the bytes", "the sum is float32: 4 bytes a number.", 2, "* D * 4", "* D * 8"),
    _costs("numbers, not bytes", "bytes were asked for: 4 a number.", 2, "* D * 4", "* D"),
    _costs("dQ of the keys", "dQ has a number for each row and column, not for each key.", 2, "programs * rows * D", "programs * keys * D"),
    _costs(
        "dQ of its own keys",
        "dQ has a number for each of all rows: a program's keys all belong to the same rows.",
        2,
        "programs * rows",
        "programs * own",
    ),
    _costs("ds instead", "ds is not added: dQ is, D numbers a row.", 2, "programs * rows * D * 4", "rows * keys * 4"),
    _costs("one number a row", "dQ has D numbers a row.", 2, "programs * rows * D * 4", "programs * rows * 4"),
    _costs(
        "nobody waits",
        "without a mask all programs come to the same tile at once: each has to be a step behind the one before it.",
        2,
        STEPS,
        "tiles",
    ),
    _costs(
        "the waits of all",
        "the steps until everything is added were asked for, not those that programs wait.",
        2,
        STEPS,
        "programs * (programs - 1) // 2",
    ),
    _costs(
        "the waits, and the tiles",
        "programs wait at the same time: the last one is `programs - 1` steps late, and that is all.",
        2,
        STEPS,
        "tiles + programs * (programs - 1) // 2",
    ),
    _costs("steps from 0", "the first step is step 1: a program with one tile has added it then.", 1, STEPS, "tiles + programs - 2"),
    _costs("the lateness alone", "the last program is so many steps late, and then has all its tiles to go.", 2, STEPS, "programs - 1"),
    _costs("one step too many", "the first program is behind nobody: only the others add a step each.", 2, STEPS, "tiles + programs"),
    _costs("only the first step of each", "the last program, too, has all its tiles to go.", 2, STEPS, "programs"),
    _costs(
        "one after the other",
        "a program waits for a tile of the one before it, not for its whole walk: they run at the same time, a step apart.",
        2,
        STEPS,
        "tiles * programs",
    ),
    _costs(
        "two steps behind",
        "a tile counts as added at the end of a step: the next program may add its part in the step after it.",
        2,
        STEPS,
        "tiles + 2 * (programs - 1)",
    ),
    _costs(
        "tiles or programs",
        "tiles and programs both count: the last program begins to add late, and then walks.",
        2,
        STEPS,
        "max(tiles, programs)",
    ),
    _costs("tiles of own rows", "a tile has `tile` rows: `own` counts keys.", 2, TILES, "-(-rows // own)"),
    _costs("tiles of keys", "programs walk over tiles of rows, not of keys.", 2, TILES, "-(-keys // tile)"),
    _costs("tiles rounded down", "the last tile takes a step, too, if it has fewer rows: round up.", 2, TILES, "rows // tile"),
    _costs("steps of rows", "a step is a tile of `tile` rows, not a row.", 2, TILES, "rows"),
    Mistake(
        "one before two", "(two kernels, one kernel, bytes, steps) was asked for, in this order.", 2, lambda *call: _in_order(1, 0, 2, call)
    ),
    Mistake(
        "bytes first", "(two kernels, one kernel, bytes, steps) was asked for, in this order.", 2, lambda *call: _in_order(2, 0, 1, call)
    ),
    Mistake(
        "backwards", "(two kernels, one kernel, bytes, steps) was asked for, in this order.", 2, lambda *call: _in_order(2, 1, 0, call)
    ),
)
