"""Lesson 10: loads that run ahead of the arithmetic, and the order in which programs start."""

import matplotlib.pyplot as plt

from flashlab.course import schedule as simulation
from flashlab.course.figures.style import COLORS

LOAD, COMPUTE = 3, 2  # the time that a tile's load takes, and its arithmetic, in the same unit


def draw_pipeline(stages=1, tiles=6):
    """A program's tiles over time: when each is loaded, and when it is worked on."""
    figure, axes = plt.subplots(figsize=(8, 2.6))
    times = simulation.pipeline(tiles, LOAD, COMPUTE, stages)
    for n, (load, ready, work, done) in enumerate(times):
        for line, begin, end, color in ((1, load, ready, COLORS["K"]), (0, work, done, COLORS["good"])):
            axes.barh(line, end - begin, left=begin, height=0.7, color=color, edgecolor="white")
            axes.text((begin + end) / 2, line, str(n), ha="center", va="center", color="white", size=10)
    total = times[-1][3]
    axes.axvline(total, color=COLORS["ink"], linewidth=1)
    axes.set(yticks=[0, 1], yticklabels=["arithmetic", "loads"], xlim=(0, tiles * (LOAD + COMPUTE) + 1), xlabel="time")
    axes.set_title(f"{stages} buffer{'s' * (stages > 1)}: {tiles} tiles take {total}")
    return figure


def draw_schedule(order="first rows first", tiles=16, workers=4):
    """Programs of a causal mask on a few multiprocessors: the bar of each is as long as its walk."""
    lengths = list(range(1, tiles + 1))
    if order == "last rows first":
        lengths.reverse()
    figure, axes = plt.subplots(figsize=(8, 2.8))
    times = simulation.schedule(lengths, workers)
    for length, (worker, begin, end) in zip(lengths, times, strict=True):
        axes.barh(worker, end - begin, left=begin, height=0.8, color=COLORS["good"], alpha=0.35 + 0.6 * length / tiles, edgecolor="white")
        axes.text(
            (begin + end) / 2, worker, str(length), ha="center", va="center", size=9, color="white" if length > tiles / 3 else COLORS["ink"]
        )
    total, least = max(end for *_, end in times), sum(lengths) / workers
    axes.axvline(total, color=COLORS["ink"], linewidth=1)
    axes.axvline(least, color=COLORS["scores"], linewidth=1, linestyle="--")
    axes.set(yticks=range(workers), ylabel="multiprocessor", xlabel="time, in tiles (dashed: nobody ever waits)", xlim=(0, 52))
    axes.invert_yaxis()
    axes.set_title(f"{order}: done after {total}")
    return figure
