"""Which tiles the backward kernel for Hopper GPUs meets, masks and adds to, and in whose turn: its own functions, run as Python.

They compute with numbers alone, so a CPU can run them: `gl` becomes a handful of functions of whole numbers, everything else stays.
"""

import random
import types

import pytest

pytest.importorskip("triton")  # no build for macOS

from triton.runtime import JITFunction  # noqa: E402

from flashlab.kernels.hopper import fused, workshop  # noqa: E402


class Int(int):
    """A whole number as the GPU has it: quotients are cut off towards 0, and remainders have the sign of what is divided."""

    def __add__(self, other):
        return Int(int(self) + int(other))

    def __sub__(self, other):
        return Int(int(self) - int(other))

    def __rsub__(self, other):
        return Int(int(other) - int(self))

    def __mul__(self, other):
        return Int(int(self) * int(other))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return Int(-int(self))

    def __floordiv__(self, other):
        quotient = abs(int(self)) // abs(int(other))
        return Int(quotient if (self < 0) == (other < 0) else -quotient)

    def __mod__(self, other):
        return Int(int(self) - int(other) * int(self // other))

    def to(self, dtype):
        return self


def as_python(function, program=0):
    """A function of the kernels as one of Python; program: its number."""
    gl = types.SimpleNamespace(
        minimum=lambda a, b: Int(min(a, b)), maximum=lambda a, b: Int(max(a, b)), where=lambda which, a, b: Int(a if which else b),
        cdiv=lambda a, b: (Int(a) + b - 1) // b, to_tensor=Int, program_id=lambda axis: Int(program), int32=None, uint32=None,
    )  # fmt: skip
    names = {name: function.fn.__globals__[name] for name in function.fn.__code__.co_names if name in function.fn.__globals__}
    for name, value in names.items():
        if isinstance(value, JITFunction):
            names[name] = as_python(value, program)
        elif name.isupper():
            names[name] = Int(value.value)
    return types.FunctionType(function.fn.__code__, names | dict(gl=gl), function.fn.__name__, function.fn.__defaults__)


OWNED = workshop.CRAFT_ROWS.value * workshop.CRAFTS.value
met_at, steps_of = as_python(workshop.met_at), as_python(workshop.steps_of)


def programs(batch, heads_kv, group, seqlen_q, seqlen_k, lowest, highest, rows, together, down):
    """(Place, Walk, edges, Turn) of every program, in the order of their numbers."""
    band = workshop.Band(*(None if x is None else Int(x) for x in (lowest, highest)), Int(seqlen_q), Int(seqlen_k))
    mirrored = tuple(None if edge is None else -edge for edge in (band.highest, band.lowest))
    key = types.SimpleNamespace(shape=[Int(batch), Int(heads_kv), Int(seqlen_k)])
    for number in range(-(-seqlen_k // OWNED) * batch * heads_kv):
        at = as_python(fused.owned_keys, number)(key, Int(together))
        yield at, *as_python(fused.walk_of)(at.start, band, mirrored, group, down, Int(rows))


def problem(seed):
    draw = random.Random(seed)
    seqlen_q, seqlen_k = draw.randint(1, 1500), draw.randint(1, 1500)
    edges = [(None, None), (None, 0), (None, seqlen_k - seqlen_q), (-draw.randint(0, 900), draw.randint(0, 900))]
    edges += [(draw.randint(-1600, 1600), None), (None, draw.randint(-1600, 1600)), sorted(draw.randint(-1600, 1600) for _ in range(2))]
    lowest, highest = draw.choice(edges)
    return dict(
        batch=draw.randint(1, 2), heads_kv=draw.randint(1, 3), group=draw.randint(1, 3), seqlen_q=seqlen_q, seqlen_k=seqlen_k,
        lowest=lowest, highest=highest, rows=draw.choice([64, 128]), together=draw.randint(1, 5), down=draw.random() < 0.7,
    )  # fmt: skip


def hidden_and_seen(lowest, highest, rows, keys):
    """Whether any pair of these rows and keys (first and last of each) is hidden, and whether any is seen."""
    least, most = keys[0] - rows[1], keys[1] - rows[0]
    below = lowest is not None and least < lowest
    above = highest is not None and most > highest
    begins, ends = least if lowest is None else max(least, lowest), most if highest is None else min(most, highest)
    return below or above, begins <= ends


@pytest.mark.parametrize("seed", range(60))
def test_every_tile_in_sight_is_met_once_and_masked_where_it_must_be(seed):
    """A step that is not masked hides no pair, and has no key past the end. A tile that is not met has no pair that is seen."""
    it = problem(seed)
    for at, walk, edges, _ in programs(**it):
        steps = steps_of(walk)
        met = [met_at(n, walk) for n in range(steps)]
        assert sorted(met) == [(head, tile) for head in range(it["group"]) for tile in range(walk.begin, walk.end)]
        assert 0 <= edges[0] <= edges[1] <= steps
        keys = at.start, at.start + OWNED - 1
        for n in range(max(2, edges[0]), edges[1]):  # the first two steps are always masked
            first = met[n][1] * it["rows"]
            assert keys[1] < it["seqlen_k"]
            assert not hidden_and_seen(it["lowest"], it["highest"], (first, first + it["rows"] - 1), keys)[0]
        for tile in {*range(-(-it["seqlen_q"] // it["rows"]))} - {*range(walk.begin, walk.end)}:
            rows = tile * it["rows"], min((tile + 1) * it["rows"], it["seqlen_q"]) - 1
            assert not hidden_and_seen(it["lowest"], it["highest"], rows, (keys[0], min(keys[1], it["seqlen_k"] - 1)))[1]
        if walk.down and it["lowest"] is None:  # the kernel has no loop for masked steps in front, and none behind where it walks up
            assert edges[0] == 0
        if not walk.down and it["lowest"] is None:
            assert edges[1] == steps


@pytest.mark.parametrize("seed", range(60))
def test_programs_wait_for_the_one_before_them_alone_and_it_started_earlier(seed):
    """Who meets a tile waits for the last owner of earlier keys that meets it too, and that one has a smaller number."""
    it = problem(seed) | dict(down=True)
    added = {}  # (batch, head, tile) → (what the tile's number says, and which program wrote it)
    for number, (at, walk, _, turn) in enumerate(programs(**it)):
        for n in range(steps_of(walk)):
            head, tile = met_at(n, walk)
            place = at.batch, at.head, head, tile
            says, writer = added.get(place, (0, -1))
            awaited = turn.number if turn.begin_before <= tile < turn.end_before else 0  # as in `sender`
            assert says == awaited and writer < number
            added[place] = turn.number + 1, number


def test_all_keys_have_an_owner():
    it = problem(1)
    found = [at for at, *_ in programs(**it)]
    assert sorted(found) == [
        (batch, head, start) for batch in range(it["batch"]) for head in range(it["heads_kv"]) for start in range(0, it["seqlen_k"], OWNED)
    ]
