"""Lesson 00: the ladder that the course climbs, and the memory that it saves."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch, Rectangle

from flashlab.course.figures.style import COLORS
from flashlab.course.memory import GPUS

# name, lesson, what changes, what it buys; the lowest rung first
RUNGS = (
    ("naive", "lesson 01", "the formula as it stands: all S×S scores exist", "something to trust"),
    ("online", "lesson 03", "keys come in chunks, softmax is corrected as it goes", "no row is ever seen whole"),
    ("tiled", "lessons 04, 05", "queries come in tiles too, forward and backward", "every step fits in SRAM"),
    ("Triton forward", "lessons 06, 07", "each row of tiles is a program, many run at once", "speed on a GPU"),
    ("Triton backward", "lesson 08", "keys and queries each collect their own gradients", "training, same bits every run"),
    ("the library", "lessons 09, 10", "any length, grouped heads, tuned tiles", "from flashlab import attention"),
)
CELLS = 6  # tiles along each side of an icon


def draw_ladder():
    """Six rungs; each picture shows which scores exist at one moment."""
    figure, axes = plt.subplots(figsize=(7.2, 6.4))
    step, size, right = 1.24, 0.98, 7.5
    top = step * len(RUNGS)
    for x in (-0.14, size + 0.08):
        axes.add_patch(FancyBboxPatch((x, -0.32), 0.06, top + 0.22, boxstyle="round,pad=0,rounding_size=0.03", color=COLORS["faint"]))
    for number, (name, lesson, change, gain) in enumerate(RUNGS):
        y = number * step
        _icon(axes, name, 0, y, size)
        axes.text(size + 0.42, y + 0.76, name, size=12, weight="bold", va="center")
        axes.text(right, y + 0.76, lesson, size=9, va="center", ha="right", color=COLORS["scores"])
        axes.text(size + 0.42, y + 0.44, change, size=9.5, va="center")
        mono = {"family": "monospace", "size": 9} if gain.startswith("from ") else {"size": 9.5}
        axes.text(size + 0.42, y + 0.14, f"→ {gain}", va="center", color=COLORS["out"], weight="bold", **mono)
        if number:
            axes.plot([size + 0.42, right], [y - 0.14] * 2, color=COLORS["faint"], linewidth=0.8)
    axes.set(xlim=(-0.2, right + 0.05), ylim=(-0.38, top))
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title("Six rungs, one result: above the first, the S×S matrix never exists")
    return figure


def _icon(axes, name, left, bottom, size):
    """The S×S matrix as a grid of tiles, queries down and keys across: dark is alive, pale is done with."""
    axes.add_patch(Rectangle((left, bottom), size, size, facecolor="white", edgecolor=COLORS["scores"], linewidth=1))
    tile = size / CELLS
    dark, pale = COLORS["bad"] if name == "naive" else COLORS["scores"], COLORS["faint"]
    apart = 0.0 if name in ("naive", "online") else 0.18 * tile  # tiles of different programs do not touch
    alive, done = SCORES_ALIVE[name]
    for row in range(CELLS):
        for col in range(CELLS):
            if not (alive(row, col) or done(row, col)):
                continue
            x, y = left + col * tile, bottom + size - (row + 1) * tile
            color = dark if alive(row, col) else pale
            side = tile - apart
            axes.add_patch(Rectangle((x + apart / 2, y + apart / 2), side, side, facecolor=color, edgecolor=color, linewidth=0.3))


SCORES_ALIVE = {  # which tiles of scores exist at one moment, and which did before
    "naive": (lambda row, col: True, lambda row, col: False),
    "online": (lambda row, col: col == 2, lambda row, col: col < 2),
    "tiled": (lambda row, col: (row, col) == (2, 3), lambda row, col: row < 2 or (row == 2 and col < 3)),
    "Triton forward": (lambda row, col: col == 2, lambda row, col: col < 2),
    "Triton backward": (lambda row, col: row == 3, lambda row, col: row < 3),
    "the library": (lambda row, col: row >= 2 and col == 2, lambda row, col: col <= row and col < 2),
}


def draw_memory(S=65_536, D=64):
    """One head of attention in 16-bit numbers: the S×S scores against Q, K, V and Out, on the way to a million tokens."""
    lengths = 2.0 ** np.arange(10, 20.01, 0.25)
    square, linear = 2 * lengths**2, 4 * 2 * lengths * D
    figure, axes = plt.subplots(figsize=(8, 4.2))
    axes.loglog(lengths, square, color=COLORS["bad"], linewidth=2.2)
    axes.loglog(lengths, linear, color=COLORS["out"], linewidth=2.2)
    for name in ("T4", "H200"):
        size = GPUS[name].memory_gb * 1e9
        axes.axhline(size, color=COLORS["scores"], linewidth=1, linestyle=(0, (4, 3)))
        axes.text(1000, size * 1.18, f"all memory of one {name}, {GPUS[name].memory_gb} GB", size=9, color=COLORS["scores"])
    axes.axvline(S, color=COLORS["faint"], linewidth=1.2, zorder=0)
    for value, color in ((2 * S**2, COLORS["bad"]), (8 * S * D, COLORS["out"])):
        axes.plot(S, value, "o", color=color, markersize=8)
    axes.text(lengths[-1] * 1.12, square[-1], "S×S scores", color=COLORS["bad"], va="center")
    axes.text(lengths[-1] * 1.12, linear[-1], "Q, K, V, Out", color=COLORS["out"], va="center")
    ticks = [2**n for n in range(10, 21, 2)]
    axes.set_xticks(ticks, [readable_count(n) for n in ticks])
    axes.set_yticks([2**10, 2**20, 2**30, 2**40], ["1 KiB", "1 MiB", "1 GiB", "1 TiB"])
    axes.minorticks_off()
    axes.set(xlabel="tokens S", ylabel="bytes of one head", xlim=(900, lengths[-1] * 6), ylim=(2**17, 2**42.5))
    axes.set_title(f"{S:,} tokens: {readable_bytes(2 * S**2)} of scores a head, {readable_bytes(8 * S * D)} of everything else")
    return figure


def readable_count(n):
    """1024 as 1k, 1048576 as 1M."""
    return f"{n >> 20}M" if n >= 2**20 else f"{n >> 10}k"


def readable_bytes(n):
    """A byte count in the largest unit that leaves at least 1."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:,.4g} {unit}"
    return f"{n} bytes"
