"""Mistakes that people make in any kernel: each function plants one kind of them in a right kernel, by the names that stand in it."""

import functools

from flashlab.course.checks.edited import mistake

_of = functools.partial(mistake, common=True)


def wrong_steps(kernel, hint, **tensors):
    """tensors: the name of each → that of its rows' numbers. A row begins at row · D, not at row · BLOCK_D."""
    return tuple(
        _of(
            kernel,
            f"rows of {tensor} begin at BLOCK_D",
            f"a row of {tensor} has D numbers, not BLOCK_D.",
            hint,
            *(f"({tensor} + {rows}[:, None] * D ", f"({tensor} + {rows}[:, None] * BLOCK_D "),
        )
        for tensor, rows in tensors.items()
    )


def one_too_many(kernel, hint, **edges):
    """edges: the name of some numbers → how many of them exist."""
    return tuple(
        _of(
            kernel,
            f"{numbers} <= {count}",
            f"the last of the {numbers} is {count} - 1: {numbers} < {count}, not <=.",
            hint,
            *(f"{numbers} < {count}", f"{numbers} <= {count}"),
        )
        for numbers, count in edges.items()
    )


def unmasked_loads(kernel, hint, **tensors):
    """tensors: the name of each → the words of its load's mask, and what stands there when all numbers were inside."""
    return tuple(
        _of(
            kernel,
            f"no mask on {tensor}",
            f"{tensor} is loaded without a mask: past its end anything may lie, and 0 · NaN is NaN.",
            hint,
            *(f"({tensor} + {at}, {mask}", f"({tensor} + {at}, {mask.replace(inside, always)}"),
        )
        for tensor, (at, mask, inside, always) in tensors.items()
    )


def wrong_axis(kernel, hint, *vectors):
    """vectors: names of numbers, one for each row, that meet a tile."""
    sentence = "{0} has one number for each row: {0}[:, None]."
    return tuple(
        _of(kernel, f"{name} along the columns", sentence.format(name), hint, f"{name}[:, None]", wrong)
        for name in vectors
        for wrong in (f"{name}[None, :]", name)
    )


def wrong_program(kernel, hint, block, other=None):
    """block: the name of the tile's length that a program's number is multiplied by; other: that of another tile."""
    begins = f"tl.program_id(0) * {block}"
    found = [
        _of(
            kernel,
            "every program the first tile",
            f"every program works on the first tile: a program begins at tl.program_id(0) · {block}, and the grid has no other direction.",
            hint,
            begins,
            f"0 * {block}",
        ),
        _of(
            kernel,
            "programs one apart",
            f"a program begins at program_id · {block}: yours begins one after the one before it.",
            hint,
            *(begins, "tl.program_id(0)"),
        ),
    ]
    if other:
        sentence = f"this program owns {block} of them, and begins at program_id · {block}, not {other}."
        found.append(_of(kernel, f"programs {other} apart", sentence, hint, begins, f"tl.program_id(0) * {other}"))
    return tuple(found)


def wrong_walk(kernel, hint, numbers, start, length, other_length, block, other_block):
    """The loop `for start in range(0, length, block)` whose round visits `numbers`."""
    loop, lost = f"range(0, {length}, {block})", f"the last, shorter tile of {numbers} is not visited."
    return (
        _of(kernel, f"the last {numbers} are lost", lost, hint, loop, f"range(0, {length} // {block} * {block}, {block})"),
        _of(kernel, f"the last {numbers} are lost", lost, hint, loop, f"range(0, {length} - {block}, {block})"),
        _of(
            kernel,
            f"the first {numbers} are lost",
            "the walk begins with the second tile: begin at 0.",
            hint,
            loop,
            f"range({block}, {length}, {block})",
        ),
        _of(
            kernel,
            f"steps of {other_block}",
            f"the walk over the {numbers} goes in steps of {block}, not {other_block}.",
            hint,
            loop,
            f"range(0, {length}, {other_block})",
        ),
        _of(
            kernel,
            f"ends at {other_length}",
            f"the walk over the {numbers} ends at {length}, not {other_length}.",
            hint,
            loop,
            f"range(0, {other_length}, {block})",
        ),
        _of(
            kernel,
            "tiles counted, not numbers",
            f"the loop counts tiles, and {start} is used as a number of {numbers}: go in steps of {block}.",
            hint,
            *(loop, f"range(0, tl.cdiv({length}, {block}))"),
        ),
        _of(
            kernel,
            "the first tile in every round",
            f"every round visits the first tile: the {numbers} begin at {start}.",
            hint,
            *(f"{numbers} = {start} + tl.arange", f"{numbers} = tl.arange"),
        ),
    )


def sum_not_kept(kernel, hint, total, product):
    """product: the words of the dot's two factors, which is added to `total` as `total = total + tl.dot(product, …)`."""
    kept = f"{total} = {total} + tl.dot({product},"
    call = f"tl.dot({product}, {total}, …)"
    return (
        _of(
            kernel,
            f"{total} is not kept",
            f"{call} changes no tile, it returns the sum: {total} = {call}.",
            hint,
            *(kept, f"tl.dot({product}, {total},"),
        ),
        _of(
            kernel,
            f"{total} is added twice",
            f"{call} is the sum with {total} already: assign it, {total} = {call}, and do not add it once more.",
            hint,
            *(kept, f"{total} += tl.dot({product}, {total},"),
        ),
        _of(kernel, f"{total} replaced, not added", f"each tile replaces {total}: add.", hint, kept, f"{total} = tl.dot({product},"),
    )
