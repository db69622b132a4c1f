"""Lesson 15: which multiprocessor does which job, and when. Jobs come in the order of their numbers."""

WAYS = ("a program for each job", "dealt out beforehand", "taken one after the other")


def timetable(way, lengths, processors, begin):
    """[(processor, job, from, until), …] of jobs of these lengths.

    A program needs `begin` before its first job. In the first of WAYS the GPU begins the next program where a multiprocessor is free first.
    In the others each multiprocessor has one program, which does every `processors`-th job, or takes the next when it has done one.
    """
    free = [0 if way == WAYS[0] else begin] * processors
    rows = []
    for job, length in enumerate(lengths):
        processor = job % processors if way == WAYS[1] else free.index(min(free))
        starts = free[processor] + (begin if way == WAYS[0] else 0)
        free[processor] = starts + length
        rows.append((processor, job, starts, free[processor]))
    return rows


def all_done(way, lengths, processors, begin):
    """When the last job is done."""
    return max(until for *_, until in timetable(way, lengths, processors, begin))


def causal_lengths(tiles, heads, together):
    """How many tiles of keys each job of a causal call walks over: heads go `together`, and of these the last rows first."""
    groups = [min(together, heads - first) for first in range(0, heads, together)]
    return [tiles - tile for group in groups for tile in range(tiles) for _ in range(group)]
