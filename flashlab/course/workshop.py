"""A multiprocessor as a workshop, simulated: one carrier, some crafts, places on a shelf, and barriers between them.

Workers are generators. What they yield are the actions of a `Shop`; a worker that waits goes on when its barrier lets it.
"""

import heapq
import itertools
from dataclasses import dataclass

import numpy as np

MOST_ACTIONS = 5000


class Trouble(Exception):
    """What went wrong in a workshop, in words."""


@dataclass(repr=False)
class Barrier:
    """As Hopper has them. A phase is over when all have arrived, and the next begins. It waits for arrivals, not for anybody's name."""

    name: str
    arrivals: int  # that end a phase
    phase: int = 0  # the one that is going on
    arrived: int = 0

    def arrive(self):
        self.arrived += 1
        if self.arrived == self.arrivals:
            self.phase, self.arrived = self.phase + 1, 0

    def __repr__(self):
        return self.name

    def is_over(self, parity):
        """Whether the phase of this parity is over: one bit is all that a barrier tells, so it is asked of the last two phases alone."""
        return self.phase % 2 != parity


class Shop:
    """What workers see: its places, a barrier `full[place]` and one `empty[place]` for each, and the actions."""

    def __init__(self, places, crafts):
        self.places = places
        self.full = [Barrier(f"full[{place}]", 1) for place in range(places)]
        self.empty = [Barrier(f"empty[{place}]", crafts) for place in range(places)]

    def __repr__(self):
        return f"a shop of {self.places} places"

    def wait(self, barrier, parity):
        """Wait until the phase of this parity, 0 or 1, is over."""
        if not isinstance(barrier, Barrier):
            raise Trouble(f"shop.wait was asked to wait for {barrier!r}: wait for shop.full[place] or shop.empty[place], and its parity")
        if parity not in (0, 1):
            raise Trouble(f"shop.wait was given parity {parity!r}: a parity is 0 or 1")
        return "wait", barrier, int(parity)

    def copy(self, tile, place):
        """Start to copy a tile into a place. Whoever asked goes on; when the tile is there, it arrives at full[place]."""
        return "copy", tile, self._known(place)

    def multiply(self, tile, place):
        """Multiply the tile that lies in a place."""
        return "multiply", tile, self._known(place)

    def give_back(self, place):
        """Arrive at empty[place]."""
        return "give back", self._known(place), None

    def _known(self, place):
        if isinstance(place, float) or place not in range(self.places):
            raise Trouble(f"there is no place {place!r}: this shop has the places 0 to {self.places - 1}")
        return place


@dataclass
class Worker:
    name: str
    actions: object  # generator
    waits_for: tuple | None = None  # (barrier, parity)


def run(carrier, crafts, places, took):
    """[(worker, "copy", "multiply" or "give back", tile, place, begin, end)] of a carrier and crafts: functions of a Shop, generators.

    took: (action, tile) → how long it takes.

    Raises:
        Trouble: a tile was multiplied that is not there, or was overwritten while it was multiplied; or nobody can go on.
    """
    shop = Shop(places, len(crafts))
    workers = [_worker("the carrier", carrier, shop), *(_worker(f"craft {c}", craft, shop) for c, craft in enumerate(crafts))]
    holds, busy = [None] * places, {}  # tile in each place; {worker: (tile, place)} that are multiplied
    trace, ends, numbers, now = [], [], itertools.count(), 0
    ready = list(workers)
    for _ in range(MOST_ACTIONS):
        if not ready:
            ready = [worker for worker in workers if worker.waits_for and worker.waits_for[0].is_over(worker.waits_for[1])]
            for worker in ready:
                worker.waits_for = None
        if not ready:
            if not ends:
                break
            now, _, what, tile, place, worker = heapq.heappop(ends)
            if what == "copy":
                holds[place] = tile
                shop.full[place].arrive()
            else:
                del busy[worker.name]
                ready.append(worker)
            continue
        worker = ready.pop(0)
        what, first, second = _next(worker)
        if what == "wait":
            worker.waits_for = first, second
            continue
        if what == "give back":
            trace.append((worker.name, what, None, first, now, now))
            shop.empty[first].arrive()
            ready.append(worker)
        elif what in ("copy", "multiply"):
            tile, place = first, second
            if what == "copy":
                for other, (read, where) in busy.items():
                    if where == place:
                        raise Trouble(f"tile {tile} was copied over tile {read} in place {place}, while {other} multiplied that one")
                holds[place] = None
                ready.append(worker)
            else:
                if holds[place] != tile:
                    lies = "nothing yet" if holds[place] is None else f"tile {holds[place]}"
                    raise Trouble(f"{worker.name} multiplied tile {tile} from place {place}, where {lies} lay")
                busy[worker.name] = tile, place
            end = now + took(what, tile)
            trace.append((worker.name, what, tile, place, now, end))
            heapq.heappush(ends, (end, next(numbers), what, tile, place, worker))
    else:
        raise Trouble(f"the workshop did not come to an end within {MOST_ACTIONS:,} actions")
    stuck = [f"{w.name} for {w.waits_for[0].name}, parity {w.waits_for[1]}" for w in workers if w.waits_for]
    if stuck:
        raise Trouble(f"nobody can go on: {'; '.join(stuck)}")
    return trace


def _worker(name, function, shop):
    actions = function(shop)
    if not hasattr(actions, "__next__"):
        raise Trouble(f"{name} returned {actions!r} and yielded nothing: a function is a generator where it says `yield`")
    return Worker(name, actions)


def _next(worker):
    """The worker's next action, or a wait for nothing when it has no more."""
    action = next(worker.actions, ("done", None, None))
    if not (isinstance(action, tuple) and len(action) == 3 and action[0] in ("wait", "copy", "multiply", "give back", "done")):
        raise Trouble(f"{worker.name} yielded {action!r}: yield what shop.wait, shop.copy, shop.multiply or shop.give_back return")
    return action


def multiplied(trace, craft):
    """The tiles that a craft multiplied, in order."""
    return [tile for name, what, tile, *_ in trace if (name, what) == (f"craft {craft}", "multiply")]


def drawn(seed):
    """`took` for `run`: every action takes another time, drawn from a seed."""
    rng = np.random.default_rng(seed)
    return lambda what, tile: int(rng.integers(1, 12))


def steady(copy=4, multiply=3):
    """`took` for `run`: every copy takes as long, and every product."""
    return lambda what, tile: copy if what == "copy" else multiply
