"""Lesson 05: what the way back needs, how large a nudge may be, and who owns which gradient."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from flashlab.course.figures.style import COLORS
from flashlab.course.steps import naive

# ------------------------------------------------------------------------------------------------ the chain, forth and back

BOXES = {  # name: (x, y, colour, shape)
    "Q, K": (0.0, 2.0, "Q", "S × D"),
    "scores": (2.2, 2.0, "scores", "S × S"),
    "P": (4.4, 2.0, "scores", "S × S"),
    "Out": (6.6, 2.0, "out", "S × D"),
    "dQ, dK": (0.0, -0.3, "Q", "S × D"),
    "dS": (2.2, -0.3, "scores", "S × S"),
    "dP": (4.4, -0.3, "scores", "S × S"),
    "dO": (6.6, -0.3, "out", "S × D"),
    "dV": (6.6, 0.85, "V", "S × D"),
}
STEPS = [  # from, to, label
    ("Q, K", "scores", "scale · QKᵀ"),
    ("scores", "P", "softmax"),
    ("P", "Out", "· V"),
    ("dO", "dP", "· Vᵀ"),
    ("dP", "dS", "softmax,\nbackwards"),
    ("dS", "dQ, dK", "scale · dS·K,\nscale · dSᵀ·Q"),
]


def draw_chain():
    """Forward along the top, gradients along the bottom, and the two places where P is needed again."""
    figure, axes = plt.subplots(figsize=(8, 4.0))
    for name, (x, y, color, shape) in BOXES.items():
        axes.add_patch(FancyBboxPatch((x, y), 1, 0.62, boxstyle="round,pad=0.06", facecolor=COLORS[color], edgecolor="none"))
        axes.text(x + 0.5, y + 0.42, name, ha="center", va="center", color="white", weight="bold")
        axes.text(x + 0.5, y + 0.14, shape, ha="center", va="center", color="white", fontsize=9)
    for begin, end, label in STEPS:
        (x0, y, *_), (x1, *_) = BOXES[begin], BOXES[end]
        forward = x1 > x0
        left, right = (x0 + 1.1, x1 - 0.1) if forward else (x0 - 0.1, x1 + 1.1)
        _arrow(axes, (left, y + 0.31), (right, y + 0.31), COLORS["ink"])
        label_y, align = (y + 0.42, "bottom") if forward else (y + 0.18, "top")
        axes.text((left + right) / 2, label_y, label, ha="center", va=align, fontsize=9.5)
    _arrow(axes, (4.6, 1.88), (3.1, 0.45), COLORS["bad"])
    _arrow(axes, (5.35, 1.88), (6.48, 1.25), COLORS["bad"])
    _arrow(axes, (7.1, 0.42), (7.1, 0.75), COLORS["ink"])
    axes.text(4.25, 1.05, "P is needed twice\non the way back", color=COLORS["bad"], va="center", fontsize=10)
    axes.text(-0.05, 2.85, "forward →", fontsize=10)
    axes.text(-0.05, 0.6, "← backward", fontsize=10)
    axes.set(xlim=(-0.25, 7.9), ylim=(-0.6, 3.1), aspect="equal")
    axes.axis("off")
    axes.set_title("The way back asks for P, an S × S matrix that tiles never stored")
    return figure


def _arrow(axes, begin, end, color):
    axes.add_patch(FancyArrowPatch(begin, end, color=color, arrowstyle="-|>", mutation_scale=13, linewidth=1.6, shrinkA=0, shrinkB=0))


# ------------------------------------------------------------------------------------------------ finite differences


def _loss_along_one_entry():
    """The loss as a function of a shift of Q[0, 0], and its exact slope at 0, for a small problem."""
    rng = np.random.default_rng(5)
    Q, K, V, dO = (rng.normal(size=(8, 4)) for _ in range(4))
    K = 2 * K  # sharper attention: a curve that bends more

    def loss(shift):
        shifted = Q.copy()
        shifted[0, 0] += shift
        Out, _ = naive.forward(shifted, K, V)
        return (dO * Out).sum()

    dQ, _, _ = naive.backward(dO, Q, K, V, *naive.forward(Q, K, V))
    return loss, dQ[0, 0]


def draw_nudge(exponent=-5):
    """Left: the loss as one entry of Q moves, and the slope from two nudges. Right: the error of that slope, for every nudge."""
    loss, exact = _loss_along_one_entry()
    nudge = 10.0**exponent
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.7), width_ratios=[1, 1.15])

    shifts = np.linspace(-2.6, 2.6, 121)
    losses = np.array([loss(t) for t in shifts])
    margin = 0.12 * np.ptp(losses)
    left.plot(shifts, losses, color=COLORS["out"], linewidth=2)
    left.plot(shifts, loss(0.0) + exact * shifts, color=COLORS["scores"], linestyle="--", linewidth=1.2)
    left.plot([-nudge, nudge], [loss(-nudge), loss(nudge)], color=COLORS["bad"], marker="o", linewidth=2)
    left.set(xlabel="shift of Q[0, 0]", ylabel="loss", ylim=(losses.min() - margin, losses.max() + margin))
    left.text(0.95, -3.28, "exact slope", color=COLORS["scores"], fontsize=10)
    left.set_title("the loss, and two points of it", fontsize=11, weight="normal")

    sizes = 10.0 ** np.arange(-14, 0.51, 0.25)
    right.plot(sizes, [_error(loss, exact, size) for size in sizes], color=COLORS["scores"], linewidth=1.5)
    right.plot(nudge, _error(loss, exact, nudge), marker="o", markersize=9, color=COLORS["bad"])
    right.set(xscale="log", yscale="log", xlabel="size of the nudge", ylabel="error of the slope")
    right.set(xticks=10.0 ** np.arange(-14, 1, 2), ylim=(1e-13, 10))
    right.tick_params(axis="x", labelsize=9)
    right.text(2e-11, 1e-4, "rounding", fontsize=10)
    right.text(3e-4, 1e-5, "the curve\nbends", fontsize=10, ha="right")
    right.set_title("how wrong the slope between them is", fontsize=11, weight="normal")
    figure.suptitle("A nudge can be too large, and too small", x=0.01, ha="left", weight="bold", fontsize=12)
    return figure


def _error(loss, exact, nudge):
    return max(abs((loss(nudge) - loss(-nudge)) / (2 * nudge) - exact), 1e-16)


# ------------------------------------------------------------------------------------------------ who owns what

TILES = 6


def draw_walks(owner=3, step=4, is_causal=False):
    """The two passes over the tiles of S: a key tile walks down its column, a query tile walks along its row."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 4.5))
    for axes, down in zip(panels, (True, False), strict=True):
        _walk(axes, owner - 1, step, is_causal, down)
    figure.suptitle("Every row of a gradient has one owner, who collects it alone", x=0.01, ha="left", weight="bold", fontsize=12)
    return figure


def _walk(axes, owner, step, is_causal, down):
    column = [(i, owner) for i in range(TILES)]
    line = [(owner, j) for j in range(TILES)]
    path = [(i, j) for i, j in (column if down else line) if not (is_causal and j > i)]
    visited = path[:step]
    for i in range(TILES):
        for j in range(TILES):
            hidden = is_causal and j > i
            color = COLORS["scores"] if (i, j) in visited[:-1] else COLORS["ink"] if visited[-1:] == [(i, j)] else "white"
            axes.add_patch(
                Rectangle((j, i), 1, 1, facecolor=COLORS["faint"] if hidden else color, edgecolor=COLORS["scores"], linewidth=0.8)
            )
    now = visited[-1]
    for t in range(TILES):  # strips of inputs: queries down the side, keys along the top
        active_row, active_col = t == now[0], t == now[1]
        axes.add_patch(Rectangle((-1.0, t + 0.06), 0.7, 0.88, color=COLORS["Q"], alpha=1.0 if active_row else 0.2, linewidth=0))
        axes.add_patch(Rectangle((t + 0.06, -1.0), 0.44, 0.7, color=COLORS["K"], alpha=1.0 if active_col else 0.2, linewidth=0))
        axes.add_patch(Rectangle((t + 0.5, -1.0), 0.44, 0.7, color=COLORS["V"], alpha=1.0 if active_col else 0.2, linewidth=0))
    axes.text(-1.15, TILES / 2, "Q, dO", color=COLORS["Q"], rotation=90, ha="right", va="center")
    axes.text(TILES / 2, -1.15, "K, V", color=COLORS["K"], ha="center", va="bottom")

    done = len(visited) == len(path)
    state = "written" if done else f"{len(visited)} of {len(path)} tiles added"
    if down:
        axes.add_patch(Rectangle((owner + 0.06, TILES + 0.3), 0.44, 0.7, color=COLORS["K"], linewidth=0))
        axes.add_patch(Rectangle((owner + 0.5, TILES + 0.3), 0.44, 0.7, color=COLORS["V"], linewidth=0))
        axes.text(TILES / 2, TILES + 1.2, f"dK, dV of key tile {owner + 1}: {state}", ha="center", va="top")
        axes.add_patch(Rectangle((owner, 0), 1, TILES, fill=False, edgecolor=COLORS["K"], linewidth=3))
        axes.set_title("dK/dV: the owner walks down", fontsize=11, weight="normal")
    else:
        axes.add_patch(Rectangle((TILES + 0.3, owner + 0.06), 0.7, 0.88, color=COLORS["Q"], linewidth=0))
        axes.text(TILES / 2, TILES + 1.2, f"dQ of query tile {owner + 1}: {state}", ha="center", va="top")
        axes.add_patch(Rectangle((0, owner), TILES, 1, fill=False, edgecolor=COLORS["Q"], linewidth=3))
        axes.set_title("dQ: the owner walks to the right", fontsize=11, weight="normal")
    axes.set(xlim=(-1.8, TILES + 1.2), ylim=(TILES + 1.9, -1.9), aspect="equal")
    axes.axis("off")
