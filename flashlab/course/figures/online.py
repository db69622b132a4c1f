"""Lesson 03: the running maximum and the running sum, score by score."""

import matplotlib.pyplot as plt
import numpy as np

from flashlab.course.figures.style import COLORS

SCORES = np.array([0.5, 1.2, 0.8, 2.6, 2.2, 1.0, 3.4, 3.0, 2.0, 3.2])


def draw_running_sum(seen=10):
    """The first `seen` scores with their running maximum m, and the running sum l below."""
    shown = SCORES[:seen]
    m = np.maximum.accumulate(shown)
    l = np.array([np.exp(shown[: n + 1] - m[n]).sum() for n in range(seen)])
    figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(8, 4.2))
    steps = np.arange(1, seen + 1)
    top.bar(steps, shown, color=COLORS["scores"], width=0.6)
    top.step(steps, m, where="mid", color=COLORS["bad"], linewidth=2)
    top.text(seen + 0.4, m[-1], "m", color=COLORS["bad"], va="center")
    top.set(ylabel="score", ylim=(0, 4), xlim=(0.4, 11))
    top.set_title("When the maximum m moves up, the running sum l is scaled down")
    bottom.bar(steps, l, color=COLORS["out"], width=0.6)
    for n in range(1, seen):
        if m[n] > m[n - 1]:
            factor = f"× {np.exp(m[n - 1] - m[n]):.2f}"
            bottom.annotate(factor, (n + 1, l[n]), xytext=(0, 5), textcoords="offset points", ha="center", color=COLORS["bad"])
    bottom.set(xlabel="scores seen", ylabel="l", ylim=(0, 4.5), xticks=range(1, 11))
    return figure
