"""Exercise 15 as people write it: the right workers, each with other words in a place where many go wrong."""

from flashlab.course.checks.edited import mistake
from flashlab.course.checks.task import Mistake
from flashlab.course.steps.workers import carrier, craft, place_and_parity

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
        carrier, "one barrier", "each place has a barrier of its own: wait for that of this tile's place.", 1, "empty[place]", "empty[0]"
    ),
    mistake(
        carrier,
        "the tile's parity",
        "the tile's own parity was taken: it is the round that counts (place_and_parity gives it).",
        1,
        "1 - parity",
        "1 - n % 2",
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
    mistake(craft, "one barrier", "each place has a barrier of its own: wait for that of this tile's place.", 1, "full[place]", "full[0]"),
    mistake(
        craft,
        "the tile's parity",
        "the tile's own parity was taken: it is the round that counts (place_and_parity gives it).",
        1,
        "[place], parity",
        "[place], n % 2",
    ),
    mistake(
        craft,
        "always the first place",
        "place 0 is given back each time: give back the place of this tile.",
        1,
        "give_back(place)",
        "give_back(0)",
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
