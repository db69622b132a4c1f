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
