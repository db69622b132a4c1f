"""Lesson 07: which tiles of keys each program of the forward kernel visits."""

import matplotlib.pyplot as plt
from matplotlib.patches import Polygon, Rectangle

from flashlab.course.figures.style import COLORS

TILES = 8  # programs of a head, and tiles of keys
BLOCK = 32
SEQLEN = 240  # the last tile is half full


def visited(program, attention):
    """How many tiles of keys this program loads. It starts at the first one."""
    return program + 1 if attention == "causal" else TILES


def needs_mask(program, tile, attention):
    """True where a pair of this tile is hidden: on the diagonal, or past the last key."""
    return (attention == "causal" and tile == program) or tile == TILES - 1


def draw_programs(program=5, attention="causal"):
    """All programs of one head, a row each; the chosen one in full colour."""
    figure, axes = plt.subplots(figsize=(8, 4.7))
    for row in range(TILES):
        chosen = row == program
        _tile(axes, -1.1, row, COLORS["Q"], chosen)
        axes.text(-1.3, row + 0.5, f"program {row}", ha="right", va="center", color=COLORS["out"], weight="bold" if chosen else "normal")
        for col in range(TILES):
            if col >= visited(row, attention):
                axes.add_patch(Rectangle((col, row), 1, 1, facecolor="white", edgecolor=COLORS["faint"], hatch="///", linewidth=0))
                continue
            axes.add_patch(Rectangle((col, row), 1, 1, facecolor=COLORS["scores"] if chosen else COLORS["faint"], edgecolor="white"))
            if needs_mask(row, col, attention):
                _hide(axes, row, col, attention)
            if chosen:
                axes.text(col + (0.3 if col == row else 0.25), row + 0.68, str(col), ha="center", va="center", color="white", weight="bold")
    for col in range(TILES):
        _tile(axes, col, -1.1, COLORS["K"], col < visited(program, attention))
    axes.text(TILES / 2, -1.25, "tiles of K and V", ha="center", va="bottom", color=COLORS["K"], weight="bold")
    axes.text(-0.6, -0.15, "Q", ha="center", va="bottom", color=COLORS["Q"], weight="bold")
    _notes(axes, program, attention)
    axes.set(xlim=(-3.6, 14.2), ylim=(TILES + 0.15, -2.0), aspect="equal")
    axes.axis("off")
    axes.set_title("Each program walks its own row of tiles", x=0.02)
    return figure


def _tile(axes, x, y, color, strong):
    axes.add_patch(Rectangle((x, y), 0.98, 0.98, facecolor=color, alpha=1.0 if strong else 0.22, edgecolor="white"))


def _hide(axes, row, col, attention):
    """Hatch the hidden part of a visited tile in vermilion."""
    style = dict(facecolor="white", edgecolor=COLORS["bad"], hatch="/////", linewidth=0)
    if attention == "causal" and col == row:
        axes.add_patch(Polygon([(col, row), (col + 1, row), (col + 1, row + 1)], **style))
    if col == TILES - 1:
        axes.add_patch(Rectangle((col + 0.5, row), 0.5, 1, **style))


def _notes(axes, program, attention):
    tiles = visited(program, attention)
    masked = sum(needs_mask(program, tile, attention) for tile in range(tiles))
    work = sum(visited(row, attention) for row in range(TILES))
    lines = [
        (f"program {program}", "out", "bold"),
        (f"rows {program * BLOCK} … {min((program + 1) * BLOCK, SEQLEN) - 1}", "Q", "normal"),
        (f"K and V tiles 0 … {tiles - 1}", "K", "normal"),
        (f"{masked} of {tiles} need{'s' if masked == 1 else ''} a mask", "bad", "normal"),
        ("", "ink", "normal"),
        ("all programs", "out", "bold"),
        (f"{work} of {TILES * TILES} tiles visited", "ink", "normal"),
    ]
    for n, (text, color, weight) in enumerate(lines):
        axes.text(8.6, 0.6 + 0.85 * n, text, color=COLORS[color], weight=weight, va="center")
