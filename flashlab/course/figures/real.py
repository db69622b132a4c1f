"""Lesson 09: which tiles a mask visits, where a walk begins and ends, and how far four number formats are from the truth."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from flashlab import block_mask
from flashlab.blocks import BLOCK
from flashlab.course.figures.style import COLORS

EMPTY, PARTIAL, FULL = 0, 1, 2


def tile_kinds(mask):
    """EMPTY, PARTIAL or FULL for each tile of a `BlockMask`: (tiles of rows, tiles of keys)."""
    lists = mask.row_blocks[0, 0].cpu().numpy()
    kinds = np.full((len(lists), lists.shape[1] - 2), EMPTY)
    for kind, (partial, seen, *order) in zip(kinds, lists, strict=True):
        kind[order[:partial]] = PARTIAL
        kind[order[partial:seen]] = FULL
    return kinds


def draw_masks(masks):
    """Block masks by name, side by side: their tiles, and the share that is visited."""
    figure, all_axes = plt.subplots(1, len(masks), figsize=(8, 3.9))
    figure.suptitle("A tile that nobody sees is never loaded", x=0.01, ha="left", fontsize=12, fontweight="bold")
    for axes, (name, mask) in zip(all_axes, masks.items(), strict=True):
        kinds = tile_kinds(mask)
        _tiles(axes, kinds)
        empty, partial, full = (int((kinds == kind).sum()) for kind in (EMPTY, PARTIAL, FULL))
        axes.set_title(f"{name}: {mask.visible_share:.0%} visited", loc="center", fontsize=10.5)
        axes.set_xlabel("tiles of keys")
        for n, (kind, word, color) in enumerate(((FULL, "full", "scores"), (PARTIAL, "partial", "bad"), (EMPTY, "empty", "ink"))):
            text = f"{int((kinds == kind).sum())} {word}"
            axes.text(0.16 + 0.34 * n, -0.19, text, transform=axes.transAxes, ha="center", color=COLORS[color], fontsize=10)
    all_axes[0].set_ylabel("tiles of queries")
    return figure


def draw_window(window=128, row=5, seqlen=512):
    """A causal window of `window` keys over `seqlen` tokens; the walk of one tile of queries is marked."""
    from flashlab.course.steps.real_forward import walk

    mask = block_mask(lambda batch, head, i, j: (j <= i) & (i - j < window), seqlen, seqlen)
    first, last = row * BLOCK, row * BLOCK + BLOCK - 1
    begin, full_begin, full_end, end = walk.fn(first, last, seqlen, 1 - window, 0, BLOCK)

    figure, (axes, words) = plt.subplots(1, 2, figsize=(8, 4.2), width_ratios=(1.25, 1))
    title = f"A window of {window:,} keys: {mask.visible_share:.0%} of the tiles are visited"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    kinds = tile_kinds(mask)
    _tiles(axes, kinds)
    axes.add_patch(Rectangle((0, row), kinds.shape[1], 1, fill=False, edgecolor=COLORS["Q"], linewidth=2.5, zorder=5))
    axes.set_ylabel("tiles of queries")
    axes.set_xlabel("tiles of keys")

    lines = [
        (f"rows {first} … {last}", "Q", "bold"),
        (f"begin       {begin:>4}", "ink", "normal"),
        (f"full_begin  {full_begin:>4}", "ink", "normal"),
        (f"full_end    {full_end:>4}", "ink", "normal"),
        (f"end         {end:>4}", "ink", "normal"),
        ("", "ink", "normal"),
        ("all rows", "Q", "bold"),
        (f"full tiles     {int((kinds == FULL).sum()):>2}", "scores", "normal"),
        (f"partial tiles  {int((kinds == PARTIAL).sum()):>2}", "bad", "normal"),
        (f"empty tiles    {int((kinds == EMPTY).sum()):>2}", "ink", "normal"),
    ]
    words.set_axis_off()
    for n, (text, color, weight) in enumerate(lines):
        family = "monospace" if weight == "normal" else None
        words.text(0.05, 0.93 - 0.088 * n, text, color=COLORS[color], weight=weight, family=family, transform=words.transAxes, fontsize=11)
    return figure


def _tiles(axes, kinds):
    """Full tiles grey, partial ones hatched in vermilion, empty ones blank."""
    looks = {
        EMPTY: dict(facecolor="white", edgecolor=COLORS["faint"]),
        PARTIAL: dict(facecolor="#FBE3D3", edgecolor=COLORS["bad"], hatch="////"),
        FULL: dict(facecolor=COLORS["scores"], edgecolor="white"),
    }
    rows, cols = kinds.shape
    for kind in (EMPTY, FULL, PARTIAL):
        for row, col in np.argwhere(kinds == kind):
            axes.add_patch(Rectangle((col, row), 1, 1, linewidth=0.8, **looks[kind]))
    axes.set(xlim=(-0.05, cols + 0.05), ylim=(rows + 0.05, -0.05), aspect="equal", xticks=[], yticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)


def draw_errors(errors, tolerance=1e-6):
    """The errors of several formats on one logarithmic line, with a fixed tolerance across it."""
    figure, axes = plt.subplots(figsize=(8, 2.9))
    names = list(errors)
    for n, name in enumerate(names):
        color = COLORS["bad"] if errors[name] > tolerance else COLORS["good"]
        axes.plot(errors[name], n, "o", color=color, markersize=10)
        axes.text(errors[name], n - 0.28, f"{errors[name]:.0e}", ha="center", va="bottom", color=color)
    axes.axvline(tolerance, color=COLORS["ink"], linewidth=1.5, linestyle=(0, (4, 3)))
    axes.text(tolerance * 1.15, -0.75, f"tolerance {tolerance:.0e}", va="center")
    axes.set(xscale="log", xlim=(1e-8, 1), ylim=(len(names) - 0.5, -1.1), xlabel="largest error of plain torch, against float64")
    axes.set_yticks(range(len(names)), names)
    axes.set_title("No single tolerance suits four formats")
    return figure
