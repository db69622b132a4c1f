"""A server's cache memory over time, under three ways to share it out: where room is lost, and why pages lose so little.

Memory is a row of slots, each for the keys and values of one token. Requests wait in a queue, are admitted when there is room, write a
token at every step, and leave. The three ways differ in how they find room, and in nothing else.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

SLOTS = 2048
LONGEST = 512  # tokens that a sequence may have
PAGE = 16
FREE = -1


@dataclass
class Request:
    """A prompt of `prompt` tokens, to which the model writes until there are `total`."""

    number: int
    prompt: int
    total: int
    slots: list = field(default_factory=list)  # that are its own
    length: int = 0  # of them hold a token


@dataclass(frozen=True)
class Snapshot:
    """The memory after a step: whose each slot is (FREE: nobody's), which hold a token, and how many requests are done."""

    owner: np.ndarray
    filled: np.ndarray
    running: int
    done: int

    @property
    def share_filled(self):
        return self.filled.mean()


class Reserved:
    """Every sequence gets one stretch with room for the longest that may come."""

    name = f"a stretch of {LONGEST} for each"

    def room_for(self, request):
        return LONGEST

    def admit(self, request, owner):
        """Slots for a new request, or None where there is no room: the first hole that is large enough."""
        length, run = self.room_for(request), 0
        for slot in range(len(owner)):
            run = run + 1 if owner[slot] == FREE else 0
            if run == length:
                return list(range(slot - length + 1, slot + 1))
        return None

    def grow(self, request, owner):
        """More slots for a request whose own are full, or None."""
        raise AssertionError("a stretch is never outgrown")


class Foreseen(Reserved):
    """The same, if one knew how long each text will become."""

    name = "a stretch of just its length"

    def room_for(self, request):
        return request.total


class Paged:
    """Pages of a few tokens, in any place, and another one when the last is full (Kwon et al. 2023)."""

    name = f"pages of {PAGE}"

    def admit(self, request, owner):
        return self._pages(-(-request.prompt // PAGE), owner)

    def grow(self, request, owner):
        return self._pages(1, owner)

    def _pages(self, count, owner):
        free = np.flatnonzero((owner.reshape(-1, PAGE) == FREE).all(1))[:count]
        return None if len(free) < count else [slot for page in free for slot in range(page * PAGE, (page + 1) * PAGE)]


WAYS = (Reserved(), Foreseen(), Paged())


def requests(count=400, seed=0):
    """Prompts and answers of many lengths, most of them short."""
    rng = np.random.default_rng(seed)
    prompts = np.clip(rng.lognormal(3.6, 0.8, count), 4, LONGEST // 2).astype(int)
    answers = np.clip(rng.lognormal(4.0, 0.8, count), 4, LONGEST // 2).astype(int)
    return [Request(n, int(prompt), int(prompt + answer)) for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))]


def serve(way, steps=300, seed=0):
    """The `Snapshot` after each step. Every running request writes one token a step."""
    queue, running, done, owner, snapshots = deque(requests(seed=seed)), [], 0, np.full(SLOTS, FREE), []

    def take(request, slots):
        request.slots += slots
        owner[slots] = request.number

    def release(request):
        owner[request.slots] = FREE
        request.slots = []
        running.remove(request)

    for _ in range(steps):
        while queue and (slots := way.admit(queue[0], owner)) is not None:
            request = queue.popleft()
            take(request, slots)
            request.length = request.prompt
            running.append(request)
        for request in list(running):
            if request not in running:  # it made room for an older one
                continue
            while request.length == len(request.slots) and request in running:
                more = way.grow(request, owner)
                if more is None:  # the youngest makes room: it waits, and its prompt will be read again
                    youngest = running[-1]
                    release(youngest)
                    queue.appendleft(youngest)
                else:
                    take(request, more)
            if request in running:
                request.length += 1
                if request.length >= request.total:
                    release(request)
                    done += 1
        filled = np.zeros(SLOTS, bool)
        for request in running:
            filled[request.slots[: request.length]] = True
        snapshots.append(Snapshot(owner.copy(), filled, len(running), done))
    return snapshots
