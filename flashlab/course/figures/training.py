"""Lesson 11: three loss curves on each other, and what a training step holds in memory."""

import matplotlib.pyplot as plt
import numpy as np

from flashlab.course.figures.style import COLORS

LOOKS = {
    "naive": dict(color=COLORS["bad"], linewidth=2.5, marker="o"),
    "SDPA": dict(color=COLORS["ink"], linewidth=2.5, linestyle="--", marker="s"),
    "flashlab": dict(color=COLORS["out"], linewidth=1.5, marker="o"),
}
MIB = 2**20
GB = 1e9


def draw_losses(curves, yardsticks, title="Three attentions, one curve"):
    """Loss of every step, one curve an attention; below, how far each is from naive, beside the yardsticks.

    curves, yardsticks: {name: losses}. Only the first go into the upper panel.
    """
    figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(8, 5.4), height_ratios=(1, 1))
    for (name, losses), width in zip(curves.items(), (5, 3, 1.2), strict=True):  # the first is drawn widest, so that all can be seen
        top.plot(losses, label=name, **{**LOOKS[name], "marker": None, "linewidth": width})
    top.legend()
    top.set(ylabel="loss (nats a byte)")
    top.set_title(title)
    for (name, losses), marker in zip(yardsticks.items(), "+x", strict=False):
        bottom.semilogy(_distance(losses, curves), marker, label=name, color=COLORS["scores"], markersize=5)
    for name, marker, size in (("SDPA", "s", 4), ("flashlab", "o", 3)):
        bottom.semilogy(_distance(curves[name], curves), marker, label=name, color=LOOKS[name]["color"], markersize=size)
    bottom.set(xlabel="step", ylabel="distance from\nnaive (nats)", ylim=(4e-9, 4))
    bottom.set_yticks([1e-8, 1e-6, 1e-4, 1e-2, 1], ["equal", "10⁻⁶", "10⁻⁴", "10⁻²", "1"])
    bottom.minorticks_off()
    bottom.grid(axis="y", color=COLORS["faint"], linewidth=0.6)
    bottom.legend(loc="lower left", bbox_to_anchor=(0, 0.98), ncols=4, borderpad=0, handletextpad=0, markerscale=1.5)
    return figure


def _distance(losses, curves):
    return np.maximum(np.abs(np.array(losses) - np.array(curves["naive"])), 1e-8)


def draw_peaks(peaks):
    """Measured peak of one training step over context. peaks: {name: {context: bytes, or None where it did not fit}}."""
    figure, axes = plt.subplots(figsize=(8, 4))
    for name, (contexts, values) in _measured(peaks).items():
        axes.loglog(contexts, values / MIB, label=name, **LOOKS[name])
    for name, color, offset, side in (("naive", "bad", (-26, 2), "center"), ("flashlab", "out", (0, -26), "top")):
        contexts, values = _measured(peaks)[name]
        growth = f"twice as long:\n{values[-1] / values[-2]:.1f} times the bytes"
        last = (contexts[-1], values[-1] / MIB)
        axes.annotate(growth, last, xytext=offset, textcoords="offset points", color=COLORS[color], ha="right", va=side)
    axes.set_ylim(top=1.8 * max(values.max() for _, values in _measured(peaks).values()) / MIB)
    axes.set(xlabel="context S (bytes of text)", ylabel="peak of one step (MiB)")
    every = list(peaks["flashlab"])
    axes.set_xticks(every, [f"{context:,}" for context in every])
    _plain_ticks(axes, "y")
    axes.minorticks_off()
    axes.legend(loc="upper left")
    axes.set_title("With S×S matrices memory grows as S²; without, as S")
    return figure


def longest_context(measured, budget):
    """The context at which the peak reaches the budget: through the last two measured points, as a power law.

    measured: {context: bytes}. A straight line on logarithmic axes; beyond the last measurement it is an extrapolation.
    """
    contexts, values = _points(measured)
    slope = np.log(values[-1] / values[-2]) / np.log(contexts[-1] / contexts[-2])
    if budget < values[-1]:  # inside the measurements: between its neighbours
        return float(np.exp(np.interp(np.log(budget), np.log(values), np.log(contexts))))
    return float(contexts[-1] * (budget / values[-1]) ** (1 / slope))


def draw_budget(peaks, budget_gb=16):
    """Where each attention meets a memory budget. Solid: measured; dotted: the line carried on."""
    budget = budget_gb * GB
    figure, axes = plt.subplots(figsize=(8, 4.2))
    axes.axhline(budget_gb, color=COLORS["ink"], linewidth=1)
    found = {}
    for name in ("naive", "flashlab"):
        contexts, values = _measured(peaks)[name]
        color = LOOKS[name]["color"]
        found[name] = longest = longest_context(peaks[name], budget)
        axes.loglog(contexts, values / GB, color=color, linewidth=2, marker="o", label=f"{name}, measured")
        if longest > contexts[-1]:
            axes.loglog([contexts[-1], longest], [values[-1] / GB, budget_gb], color=color, linewidth=2, linestyle=":")
        axes.plot([longest, longest], [1e-12, budget_gb], color=color, linewidth=0.8)
        axes.plot(longest, budget_gb, "D", color=color, markersize=8)
        axes.annotate(
            f"{name}: {_rounded(longest):,}", (longest, budget_gb), xytext=(-4, 9), textcoords="offset points",
            ha="right", color=color, weight="bold",
        )  # fmt: skip
    first, low = min(peaks["naive"]), min(value for value in peaks["flashlab"].values() if value) / GB
    axes.text(first, budget_gb * 1.4, f"{budget_gb} GB", va="bottom")
    axes.set(xlabel="context S (bytes of text)", ylabel="peak of one step (GB)")
    axes.set(xlim=(first * 0.8, max(found.values()) * 3), ylim=(low * 0.5, max(budget_gb, low * 1e3) * 8))
    _plain_ticks(axes, "x")
    _plain_ticks(axes, "y")
    axes.minorticks_off()
    axes.legend(loc="lower right", frameon=True, framealpha=1, edgecolor="none")
    axes.set_title(f"{budget_gb} GB: a context {found['flashlab'] / found['naive']:.0f} times as long")
    return figure


def training_bytes(layers, heads, width, context):
    """What training holds for one sequence, in float32: {name: bytes}.

    State: weights, gradients and AdamW's two averages, 4 numbers a weight, 12·width² weights a layer.
    Activations: the 16·width numbers that a layer keeps of each token. Matrices: heads·S² probabilities a layer.
    """
    return {
        "state": 4 * 4 * 12 * layers * width**2,
        "activations": 4 * 16 * layers * width * context,
        "S×S matrices": 4 * layers * heads * context**2,
    }


def draw_shares(layers=12, heads=12, width=768):
    """The three parts over context, for one sequence."""
    contexts = np.geomspace(128, 65_536, 60)
    parts = [training_bytes(layers, heads, width, context) for context in contexts]
    crossing = 16 * width // heads
    colors = {"state": COLORS["scores"], "activations": COLORS["V"], "S×S matrices": COLORS["bad"]}
    places = {"state": (128, 1.25, "left"), "activations": (9_000, 0.42, "left"), "S×S matrices": (9_000, 1.0, "right")}
    figure, axes = plt.subplots(figsize=(8, 4))
    for name, color in colors.items():
        values = np.array([part[name] for part in parts]) / GB
        axes.loglog(contexts, values, color=color, linewidth=2.5)
        x, shift, side = places[name]
        axes.text(x, np.interp(x, contexts, values) * shift, name, color=color, ha=side, va="bottom", weight="bold")
    axes.axvline(crossing, color=COLORS["ink"], linewidth=1, linestyle=":")
    axes.text(crossing * 1.08, 0.006, f"S = 16·D = {crossing:,}", va="bottom")
    axes.set(xlabel="context S (tokens)", ylabel="held for one sequence (GB)", xlim=(110, 75_000), ylim=(0.005, 3000))
    axes.set_xticks([128, 512, 2048, 8192, 32_768], ["128", "512", "2,048", "8,192", "32,768"])
    _plain_ticks(axes, "y")
    axes.minorticks_off()
    axes.set_title("Past 16·D tokens, the matrices outweigh all other activations")
    return figure


def _points(measured):
    pairs = [(context, value) for context, value in measured.items() if value is not None]
    return tuple(np.array(column, dtype=float) for column in zip(*pairs, strict=True))


def _measured(peaks):
    return {name: _points(measured) for name, measured in peaks.items()}


def _rounded(number):
    """Two digits: 21,734 -> 22,000."""
    unit = 10 ** max(0, int(np.log10(number)) - 1)
    return int(round(number / unit) * unit)


def _plain_ticks(axes, which):
    """1,000 instead of 10³."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
