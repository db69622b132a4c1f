"""Two small simulations: loads that run ahead of the arithmetic, and programs that wait for a multiprocessor."""

import heapq


def pipeline(tiles, load, compute, stages):
    """[(load begins, load ends, compute begins, compute ends)] of tiles that are loaded into `stages` buffers, then worked on.

    One load is under way at a time, and one computation. A buffer is free again when its tile has been worked on; with a single one,
    loads and arithmetic take turns.
    """
    times = []
    for n in range(tiles):
        memory_free = times[-1][1] if times else 0
        buffer_free = times[n - stages][3] if n >= stages else 0
        begin = max(memory_free, buffer_free)
        ready = begin + load
        work = max(ready, times[-1][3] if times else 0)
        times.append((begin, ready, work, work + compute))
    return times


def schedule(lengths, workers):
    """[(worker, begin, end)] of programs that start in this order, each on the first of `workers` that is free."""
    free = [(0, worker) for worker in range(workers)]
    found = []
    for length in lengths:
        begin, worker = heapq.heappop(free)
        found.append((worker, begin, begin + length))
        heapq.heappush(free, (begin + length, worker))
    return found


WAYS = ("a program for each job", "dealt out beforehand", "taken one after the other")


def timetable(way, lengths, workers, begin):
    """[(worker, begin, end)] of jobs of these lengths, in one of WAYS. A program needs `begin` before its first job.

    A program for each job waits for a worker. Of programs that stay, one on each worker, number p does the jobs p, p + workers, …; or
    whoever has done one takes the next.
    """
    if way == WAYS[0]:
        return [(worker, start + begin, end) for worker, start, end in schedule([begin + length for length in lengths], workers)]
    if way == WAYS[2]:
        return [(worker, start + begin, end + begin) for worker, start, end in schedule(lengths, workers)]
    ends = [begin + sum(lengths[job % workers : job + 1 : workers]) for job in range(len(lengths))]
    return [(job % workers, end - lengths[job], end) for job, end in enumerate(ends)]


def all_done(way, lengths, workers, begin):
    """When the last job ends."""
    return max(end for *_, end in timetable(way, lengths, workers, begin))


def causal_lengths(tiles, heads, together):
    """How many tiles of keys each job of a causal call walks over: heads go `together`, and of these the last rows first."""
    groups = [min(together, heads - first) for first in range(0, heads, together)]
    return [tiles - tile for group in groups for tile in range(tiles) for _ in range(group)]
