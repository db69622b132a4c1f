"""Lesson 04: how a tile of queries walks over the keys, and what a larger SRAM buys."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Polygon, Rectangle

from flashlab.course.figures.style import COLORS

TILES = 6  # tiles of queries, and of keys


def walk(attention):
    """The (row, column) of every tile that is visited, in order."""
    return [(i, j) for i in range(TILES) for j in range(TILES) if attention == "full" or j <= i]


def draw_walk(step=9, attention="causal", block=32):
    """The state after `step` tiles: what lies in SRAM, what is done, and how much has crossed HBM."""
    visits = walk(attention)
    step = min(step, len(visits))
    row, col = visits[step - 1]
    done = [i for i in range(TILES) if all(visit in visits[:step] for visit in visits if visit[0] == i)]

    figure, axes = plt.subplots(figsize=(8, 4.6))
    axes.set(xlim=(-1.6, 12.6), ylim=(6.15, -2.3), aspect="equal")
    axes.axis("off")
    axes.set_title("One tile of queries stays; tiles of keys and values come and go", x=0.02)
    for n in range(TILES):
        _strip(axes, (-1, n), COLORS["Q"], now=n == row)
        _strip(axes, (n, -1.9), COLORS["K"], now=n == col, wide=True)
        _strip(axes, (n, -1.1), COLORS["V"], now=n == col, wide=True)
        _strip(axes, (6.4, n), COLORS["out"], now=n in done)
    for x, y, name, color in ((-0.7, -0.35, "Q", "Q"), (-0.35, -1.6, "K", "K"), (-0.35, -0.8, "V", "V"), (6.7, -0.35, "Out", "out")):
        axes.text(x, y, name, color=COLORS[color], ha="center", va="center", weight="bold")

    for i in range(TILES):
        for j in range(TILES):
            if (i, j) not in visits:
                axes.add_patch(Rectangle((j, i), 1, 1, facecolor="white", edgecolor=COLORS["faint"], hatch="///", linewidth=0))
                continue
            seen = (i, j) in visits[:step]
            fill = COLORS["ink"] if (i, j) == (row, col) else COLORS["scores"] if seen else "white"
            corners = [(j, i), (j, i + 1), (j + 1, i + 1)]
            if attention == "full" or i != j:
                corners.append((j + 1, i))
            axes.add_patch(Polygon(corners, facecolor=fill, linewidth=0))
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor="none", edgecolor="white" if seen else COLORS["scores"], linewidth=0.8))
    if attention == "causal":
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        axes.text(4.6, 1.5, "never visited", ha="center", color=COLORS["scores"], bbox=plate)
    _notes(axes, step, len(visits), row, col, len(done), block)
    return figure


def _strip(axes, corner, color, now, wide=False):
    size = (1, 0.6) if wide else (0.6, 1)
    axes.add_patch(Rectangle(corner, *size, facecolor=color, alpha=1.0 if now else 0.22, edgecolor="white", linewidth=1.5))


def _notes(axes, step, all_steps, row, col, written, block):
    rows, cols = (f"{n * block}:{(n + 1) * block}" for n in (row, col))
    lines = [
        (f"step {step} of {all_steps}", "ink", "bold"),
        ("", "ink", "normal"),
        ("in SRAM now", "ink", "bold"),
        (f"Q[{rows}] and its m, l, acc", "Q", "normal"),
        (f"K[{cols}]", "K", "normal"),
        (f"V[{cols}]", "V", "normal"),
        (f"{block}×{block} scores", "ink", "normal"),
        ("", "ink", "normal"),
        ("tiles that crossed HBM", "ink", "bold"),
        (f"Q {row + 1}   K {step}   V {step}   Out {written}", "ink", "normal"),
    ]
    for n, (text, color, weight) in enumerate(lines):
        axes.text(8.1, -1.5 + 0.75 * n, text, color=COLORS[color], weight=weight, va="center")


def draw_sram_traffic(sram_bytes, counted, formula, naive):
    """Counted traffic of the tiled forward pass for several SRAM sizes, on the paper's line, with naive attention as a level."""
    kib, mib = 1024, 2**20
    figure, axes = plt.subplots(figsize=(8, 4))
    axes.loglog(np.array(sram_bytes) / kib, np.array(formula) / mib, color=COLORS["scores"], linewidth=2)
    axes.loglog(np.array(sram_bytes) / kib, np.array(counted) / mib, "o", color=COLORS["out"], markersize=8)
    axes.axhline(naive / mib, color=COLORS["bad"], linewidth=2, zorder=1)
    axes.text(
        sram_bytes[-1] / kib * 1.3, naive / mib * 1.08, "naive attention", color=COLORS["bad"], ha="right", va="bottom", weight="bold"
    )
    axes.annotate(
        "8S²D²/M + 2SD:\nthe paper's S²D²/M, our constant 8",
        (sram_bytes[1] / kib * 1.4, formula[1] / mib / 1.4), xytext=(14, 6), textcoords="offset points",
        color=COLORS["scores"], weight="bold",
    )  # fmt: skip
    axes.annotate(
        "counted", (sram_bytes[-2] / kib, counted[-2] / mib), xytext=(-10, -12), textcoords="offset points", ha="right",
        color=COLORS["out"], weight="bold",
    )  # fmt: skip
    axes.set_xticks([size / kib for size in sram_bytes], [f"{size // kib}" for size in sram_bytes])
    levels = [2, 4, 8, 16, 32, 64]
    axes.set_yticks(levels, [f"{level}" for level in levels])
    axes.minorticks_off()
    axes.set(xlabel="SRAM (KiB)", ylabel="crossed HBM (MiB)", xlim=(sram_bytes[0] / kib / 1.3, sram_bytes[-1] / kib * 1.35))
    axes.grid(color=COLORS["faint"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title("Twice the SRAM, about half the traffic; with too little, naive moves less")
    return figure
