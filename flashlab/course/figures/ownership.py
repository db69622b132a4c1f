"""Lesson 08: which program owns which rows of a gradient, which tiles it walks over, and what happens when many write one row."""

import matplotlib.pyplot as plt
from matplotlib.patches import Polygon, Rectangle

from flashlab.course.figures.style import COLORS

BLOCK = 32  # rows of Q, and rows of K and V, in a tile


def visited_tiles(kernel, program, seqlen_q, seqlen_k, is_causal):
    """(start_m, start_n) of every tile that one program of the "dK/dV" or "dQ" kernel visits, in its order."""
    own = program * BLOCK
    if kernel == "dK/dV":
        return [(start_m, own) for start_m in range(own if is_causal else 0, seqlen_q, BLOCK)]
    end = min(seqlen_k, own + BLOCK) if is_causal else seqlen_k
    return [(own, start_n) for start_n in range(0, end, BLOCK)]


def draw_walk(kernel="dK/dV", program=2, seqlen_q=150, seqlen_k=150, is_causal=True):
    """The scores of one head in tiles, and the walk of one program through them. A program that does not exist becomes the last one."""
    by_keys = kernel == "dK/dV"
    program = min(program, -(-(seqlen_k if by_keys else seqlen_q) // BLOCK) - 1)
    visits = visited_tiles(kernel, program, seqlen_q, seqlen_k, is_causal)
    figure, (axes, words) = plt.subplots(1, 2, figsize=(8, 4.5), width_ratios=(1.35, 1))
    figure.suptitle(_walk_title(kernel, is_causal), x=0.01, ha="left", fontsize=12, fontweight="bold")
    _draw_tiles(axes, seqlen_q, seqlen_k, is_causal)
    _draw_strips(axes, visits, program, by_keys, seqlen_q, seqlen_k)
    for step, (start_m, start_n) in enumerate(visits, start=1):
        masked = start_n + BLOCK > seqlen_k or (is_causal and start_n + BLOCK - 1 > start_m)
        look = {"facecolor": "#B8BDC6", "edgecolor": COLORS["ink"], "hatch": "////" if masked else None, "linewidth": 1.2}
        axes.add_patch(Rectangle((start_n, start_m), BLOCK, BLOCK, **look))
        plate = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": COLORS["ink"], "linewidth": 0.8}
        axes.text(start_n + BLOCK / 2, start_m + BLOCK / 2, str(step), ha="center", va="center", fontsize=10, bbox=plate, zorder=6)
    _write_account(words, kernel, program, visits, seqlen_q, seqlen_k, is_causal)
    return figure


def _walk_title(kernel, is_causal):
    if kernel == "dK/dV":
        causal, full = "keys are seen from their diagonal tile downwards", "a tile of keys walks down every tile of queries"
    else:
        causal, full = "rows see the keys up to their diagonal tile", "a tile of queries walks across every tile of keys"
    return f"Causal: {causal}" if is_causal else f"Full: {full}"


def _draw_tiles(axes, seqlen_q, seqlen_k, is_causal):
    """The grid of tiles, the pairs that a causal mask hides, and the true edge of the matrix."""
    height, width = -(-seqlen_q // BLOCK) * BLOCK, -(-seqlen_k // BLOCK) * BLOCK
    for start_m in range(0, height, BLOCK):
        for start_n in range(0, width, BLOCK):
            axes.add_patch(Rectangle((start_n, start_m), BLOCK, BLOCK, facecolor="white", edgecolor=COLORS["faint"]))
    if is_causal:
        corner = min(height, width)
        hidden = [(0, 0), (width, 0), (width, corner), (corner, corner)]
        axes.add_patch(Polygon(hidden, facecolor=COLORS["faint"], alpha=0.6, linewidth=0))
        axes.plot([0, corner], [0, corner], color=COLORS["scores"], linewidth=1, zorder=4)
    axes.add_patch(Rectangle((0, 0), seqlen_k, seqlen_q, fill=False, edgecolor=COLORS["bad"], linewidth=1.6, linestyle="--", zorder=5))
    axes.set(xlim=(-26, width + 4), ylim=(height + 4, -37), xlabel="key j", ylabel="query row i", aspect="equal")
    axes.set(xticks=[*range(0, width, BLOCK)], yticks=[*range(0, height, BLOCK)])
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)


def _draw_strips(axes, visits, program, by_keys, seqlen_q, seqlen_k):
    """Above the matrix the tiles of K and V, left of it those of Q: strong when owned, lighter when read, empty when never touched."""
    axes.text(0, -26, "tiles of K and V", color=COLORS["K"], fontsize=9.5)
    axes.text(-14, -4, "Q", color=COLORS["Q"], fontsize=9.5, ha="center")
    rows, keys = {start_m for start_m, _ in visits}, {start_n for _, start_n in visits}
    for start in range(0, seqlen_k, BLOCK):
        strength = 1.0 if by_keys and start == program * BLOCK else 0.35 if start in keys else 0.0
        axes.add_patch(Rectangle((start, -22), BLOCK, 16, facecolor=(COLORS["K"], strength), edgecolor=COLORS["K"]))
    for start in range(0, seqlen_q, BLOCK):
        strength = 1.0 if not by_keys and start == program * BLOCK else 0.35 if start in rows else 0.0
        axes.add_patch(Rectangle((-22, start), 16, BLOCK, facecolor=(COLORS["Q"], strength), edgecolor=COLORS["Q"]))


def _write_account(words, kernel, program, visits, seqlen_q, seqlen_k, is_causal):
    by_keys = kernel == "dK/dV"
    color, things = (COLORS["K"], "keys") if by_keys else (COLORS["Q"], "rows")
    length, others = (seqlen_k, seqlen_q) if by_keys else (seqlen_q, seqlen_k)
    first, last = program * BLOCK, min(program * BLOCK + BLOCK, length) - 1
    diagonal = sum(is_causal and start_n + BLOCK - 1 > start_m for start_m, start_n in visits)
    ragged_keys = sum(start_n + BLOCK > seqlen_k for _, start_n in visits)
    ragged_rows = sum(start_m + BLOCK > seqlen_q for start_m, _ in visits)
    lines = [
        (f"program {program} owns {things} {first}–{last}", color, "bold"),
        (f"and writes their {kernel.replace('/', ' and ')}" + ("" if visits else ": zeros"), color, "bold"),
        ("", None, None),
        (f"tiles visited: {len(visits)} of {-(-others // BLOCK)}", COLORS["ink"], "normal"),
        (f"cut by the diagonal: {diagonal}", COLORS["ink"], "normal"),
        (f"with keys past the end: {ragged_keys}", COLORS["ink"], "normal"),
        (f"with rows past the end (lse = +∞): {ragged_rows}", COLORS["ink"], "normal"),
        ("", None, None),
        ("hatched: a mask hides some pairs", COLORS["scores"], "normal"),
        ("dashed: where the matrix ends", COLORS["bad"], "normal"),
    ]
    words.set_axis_off()
    for n, (line, ink, weight) in enumerate(lines):
        words.text(0.0, 0.86 - 0.078 * n, line, color=ink, fontweight=weight, transform=words.transAxes, fontsize=10.5)


def draw_ownership():
    """One row of dQ: on the left one program adds its parts in order, on the right four programs add to it whenever they are ready."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.5))
    title = "One owner adds in a fixed order; many writers add in whatever order they arrive"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    for axes in (left, right):
        axes.set(xlim=(0, 10), ylim=(0, 7.3))
        axes.set_axis_off()

    left.text(0, 6.75, "two kernels: one program owns the rows", fontsize=11)
    right.text(0, 6.75, "one fused kernel: every tile of keys writes", fontsize=11)
    for n, arrival in enumerate((3, 1, 4, 2)):
        start, landing = (1.2 + 2.4 * n, 5.1), 3.4 + 0.8 * n
        _box(left, start[0] - 1, 5.1, 2.0, 0.9, COLORS["K"], f"keys {n}")
        _arrow(left, start, (landing, 4.05), COLORS["scores"])
        _number(left, start, (landing, 4.05), 0.4, f"{n + 1}", COLORS["ink"])
        _box(right, start[0] - 1, 5.1, 2.0, 0.9, COLORS["K"], f"program {n}")
        _arrow(right, start, (landing, 1.75), COLORS["bad"])
        _number(right, start, (landing, 1.75), 0.4, f"{arrival}", COLORS["bad"])
    _box(left, 2.6, 3.0, 4.0, 1.0, COLORS["Q"], "program of rows i")
    _arrow(left, (4.6, 3.0), (4.6, 1.75), COLORS["out"])
    left.text(4.9, 2.4, "one store", va="center", fontsize=10)
    right.text(6.7, 2.2, "four atomic adds", va="center", color=COLORS["bad"], fontsize=10)
    for axes in (left, right):
        _box(axes, 2.6, 0.8, 4.0, 0.9, COLORS["out"], "dQ, rows i")
    left.text(4.6, 0.1, "((p₀ + p₁) + p₂) + p₃, every run", ha="center", fontsize=10.5)
    right.text(4.6, 0.1, "((p₁ + p₃) + p₀) + p₂, this time", ha="center", color=COLORS["bad"], fontsize=10.5)
    return figure


def _box(axes, x, y, width, height, color, text):
    axes.add_patch(Rectangle((x, y), width, height, facecolor=(color, 0.25), edgecolor=color, linewidth=1.5))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10)


def _arrow(axes, start, end, color):
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0})


def _number(axes, start, end, along, text, color):
    """A number on the arrow from start to end."""
    plate = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": color, "linewidth": 0.8}
    x, y = (a + along * (b - a) for a, b in zip(start, end, strict=True))
    axes.text(x, y, text, ha="center", va="center", color=color, fontsize=9.5, bbox=plate)
