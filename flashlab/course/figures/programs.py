"""Lesson 06: which program owns which numbers, and what reaches past the end."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from flashlab.course.figures.style import COLORS


def cdiv(length, block):
    """How many blocks cover `length`, the last one possibly ragged."""
    return -(-length // block)


def draw_blocks(n=10, BLOCK=4):
    """A row of n numbers, cut into blocks: one program a block, and the offsets past the end crossed out."""
    programs = cdiv(n, BLOCK)
    figure, axes = plt.subplots(figsize=(8, 2.0))
    for offset in range(programs * BLOCK):
        program, past = offset // BLOCK, offset >= n
        face = "white" if past else COLORS["faint"]
        edge = COLORS["bad"] if past else COLORS["scores"]
        axes.add_patch(Rectangle((offset + 0.06, 0), 0.88, 1, facecolor=face, edgecolor=edge, hatch="///" if past else None))
        if not past:
            axes.text(offset + 0.5, 0.5, str(offset), ha="center", va="center")
        if offset % BLOCK == 0:
            axes.plot([offset + 0.06, offset + BLOCK - 0.06], [1.3, 1.3], color=COLORS["out"], linewidth=2)
            axes.text(offset + BLOCK / 2, 1.45, f"program {program}", ha="center", va="bottom", color=COLORS["out"])
    past = programs * BLOCK - n
    if past:
        axes.text(n + past / 2, -0.2, "past the end", ha="center", va="top", color=COLORS["bad"])
    axes.text(0.06, -0.2, f"n = {n}, BLOCK = {BLOCK}", ha="left", va="top")
    axes.set(xlim=(0, programs * BLOCK), ylim=(-0.75, 2.0))
    axes.axis("off")
    axes.set_title(f"{programs} programs of {BLOCK} cover {n} numbers, and {past} offsets reach past the end")
    return figure


def draw_grid(n=100, BLOCK=32):
    """An n×n matrix under a grid of BLOCK×BLOCK programs; what lies past the edge is hatched."""
    programs = cdiv(n, BLOCK)
    side = programs * BLOCK
    figure, axes = plt.subplots(figsize=(5.6, 5.2))
    axes.add_patch(Rectangle((0, 0), side, side, facecolor="white", edgecolor=COLORS["bad"], hatch="///", linewidth=0))
    axes.add_patch(Rectangle((0, 0), n, n, facecolor=COLORS["faint"], edgecolor=COLORS["ink"], linewidth=2))
    for edge in range(0, side + 1, BLOCK):
        axes.plot([edge, edge], [0, side], color=COLORS["out"], linewidth=1)
        axes.plot([0, side], [edge, edge], color=COLORS["out"], linewidth=1)
    if programs <= 6:
        for i in range(programs):
            for j in range(programs):
                label = dict(facecolor="white", edgecolor="none", pad=1.5, alpha=0.85)
                axes.text((j + 0.5) * BLOCK, (i + 0.5) * BLOCK, f"({i}, {j})", ha="center", va="center", color=COLORS["out"], bbox=label)
    wasted = 1 - n * n / side**2
    axes.set(xlim=(-1, side + 1), ylim=(side + 1, -1), aspect="equal", xlabel="column", ylabel="row")
    axes.set_xticks(range(0, side + 1, BLOCK))
    axes.set_yticks(range(0, side + 1, BLOCK))
    axes.set_title(f"{programs}×{programs} programs cover a {n}×{n} matrix;\n{100 * wasted:.0f} % of their elements are masked away")
    return figure


def draw_matmul():
    """One program of a matrix product: the strips of A and B that it reads, and the tile of Out that it owns."""
    M, N, K, BLOCK, row, col = 5, 4, 6, 1, 2, 1  # in tiles
    figure, axes = plt.subplots(figsize=(8, 3.3))

    def matrix(x, y, rows, columns, name):
        axes.add_patch(Rectangle((x, y), columns, rows, facecolor="white", edgecolor=COLORS["scores"], linewidth=1))
        for i in range(1, rows):
            axes.plot([x, x + columns], [y + i, y + i], color=COLORS["faint"], linewidth=1)
        for j in range(1, columns):
            axes.plot([x + j, x + j], [y, y + rows], color=COLORS["faint"], linewidth=1)
        axes.text(x + columns / 2, y + rows + 0.15, name, ha="center", va="top")

    def tile(x, y, color, text=""):
        axes.add_patch(Rectangle((x, y), BLOCK, BLOCK, facecolor=color, edgecolor="white", linewidth=1))
        axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", color="white")

    a, b, out = (0, 0), (8, 0), (14, 0)
    matrix(*a, M, K, "A (M, K)")
    matrix(*b, K, N, "B (K, N)")
    matrix(*out, M, N, "Out (M, N)")
    for inner in range(K):
        tile(a[0] + inner, row, COLORS["Q"], str(inner))
        tile(b[0] + col, inner, COLORS["K"], str(inner))
    tile(out[0] + col, row, COLORS["out"], "acc")
    axes.text(7, row + 0.5, "·", ha="center", va="center", fontsize=24)
    axes.text(13, row + 0.5, "=", ha="center", va="center", fontsize=20)
    axes.set(xlim=(-0.2, 18.2), ylim=(6.9, -0.2), aspect="equal")
    axes.axis("off")
    axes.set_title("A program walks along K: tile 0 of A times tile 0 of B, then 1, then 2 …")
    return figure
