"""Lesson 14: where attention's kernels do not matter, cloud and edge, accuracy with its spread, and what a comparison of records finds."""

import math
import statistics

import matplotlib.pyplot as plt
import numpy as np

from flashlab.bench import compare
from flashlab.course.figures.inference import rounded
from flashlab.course.figures.style import COLORS
from flashlab.course.records import committed

LOOKS = {"naive": (COLORS["bad"], "s"), "SDPA": (COLORS["ink"], "D"), "flashlab": (COLORS["out"], "o")}
STUDENT_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # t of n runs, both sides
TEXTS = ("training", "unseen code", "2 times the context", "4 times the context", "prose")
DEVICE_COLORS = (COLORS["Q"], COLORS["K"])


def draw_calls(calls, machine):
    """Milliseconds of forward and backward over the length, on both axes logarithmic."""
    figure, axes = plt.subplots(figsize=(8, 4))
    for name, (color, marker) in LOOKS.items():
        axes.loglog([row["seqlen"] for row in calls], [row["ms"][name] for row in calls], marker=marker, color=color, label=name)
    lengths = [row["seqlen"] for row in calls]
    axes.set_xticks(lengths, [f"{n:,}" for n in lengths], size=9)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(axis="y", color=COLORS["faint"], linewidth=0.6)
    axes.legend(loc="upper left")
    axes.set(xlabel="tokens", ylabel="forward and backward (ms)")
    axes.set_title(f"Only from {pays_from(calls):,} tokens on does flashlab leave naive attention behind")
    first = calls[0]
    words = f"{first['batch']} × {first['heads']} heads, D = {first['head_dim']}, causal, {first['dtype']}, with Python's time · {machine}"
    figure.supxlabel(words, size=9, color=COLORS["scores"])
    return figure


def pays_from(calls, factor=1.5):
    """The first length from which on flashlab is this many times as fast as naive attention."""
    slow = [row["seqlen"] for row in calls if row["ms"]["naive"] <= factor * row["ms"]["flashlab"]]
    return min(row["seqlen"] for row in calls if row["seqlen"] > max(slow, default=0))


PHASES = {
    ("training", 4): "training",
    ("prefill", 1): "reading",
    ("writing", 1): "writing, 1 reader",
    ("writing, captured", 1): "writing, 1 reader,\none CUDA graph",
    ("writing", 64): "writing, 64 readers",
    ("writing, captured", 64): "writing, 64 readers,\none CUDA graph",
}


def draw_edge(rows_by_device, model="small"):
    """Microseconds that a token costs on each device, of one of the two models."""
    figure, axes = plt.subplots(figsize=(8, 4.4))
    found = {device: {(row["phase"], row["batch"]): row for row in rows if row["name"] == model} for device, rows in rows_by_device.items()}
    for shift, (device, rows), color in zip((-0.2, 0.2), found.items(), DEVICE_COLORS, strict=True):
        for n, phase in enumerate(PHASES):
            if phase in rows:
                value = rows[phase]["microseconds"]
                axes.barh(n + shift, value, height=0.36, color=color, label=device if n == 0 else None)
                axes.text(value * 1.08, n + shift, rounded(value), va="center", size=9)
    axes.set_yticks(range(len(PHASES)), PHASES.values(), size=9)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="microseconds a token")
    axes.set_xlim(axes.get_xlim()[0] / 2, axes.get_xlim()[1] * 3)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.minorticks_off()
    axes.legend(loc="lower right", fontsize=9)
    weights = next(iter(next(iter(found.values())).values()))["weights"]
    axes.set_title(f"A GPT of {weights / 1e6:.2g} million weights, in the cloud and at the edge")
    return figure


def draw_pairs(pairs, text="unseen code"):
    """Each seed's loss with both attentions, joined; and the mean of their difference with its 95 % interval."""
    runs = pairs["runs"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.8), width_ratios=(3, 2))
    for seed in sorted({run["seed"] for run in runs}):
        own = {run["attention"]: run["losses"][text] for run in runs if run["seed"] == seed}
        left.plot([0, 1], [own["naive"], own["flashlab"]], color=COLORS["faint"], zorder=1)
        for x, name in enumerate(("naive", "flashlab")):
            color, marker = LOOKS[name]
            left.plot(x, own[name], marker, color=color, zorder=2)
    left.set_xticks([0, 1], ["naive", "flashlab"])
    left.set(xlim=(-0.4, 1.4), ylabel="loss (nats a byte)")
    left.set_title(f"{text}: a line a seed", size=11)
    for n, name in enumerate(TEXTS):
        mean, half = mean_difference(runs, name)
        color = COLORS["out"] if name == text else COLORS["scores"]
        right.errorbar(mean, n, xerr=half, fmt="o", color=color, capsize=3)
    right.axvline(0, color=COLORS["ink"], linewidth=1)
    right.set_yticks(range(len(TEXTS)), TEXTS, size=9)
    right.invert_yaxis()
    right.locator_params(axis="x", nbins=4)
    right.set(xlabel="flashlab − naive (nats), 95 %")
    right.set_title("The mean difference", size=11)
    figure.supxlabel(
        f"GPT of {pairs['layers']} layers of {pairs['width']}, trained at {pairs['context']:,} tokens for {pairs['steps']} steps",
        size=9,
        color=COLORS["scores"],
    )
    return figure


def differences(runs, text):
    """flashlab's loss less naive's, of each seed."""
    found = {(run["attention"], run["seed"]): run["losses"][text] for run in runs}
    return [found["flashlab", seed] - loss for (name, seed), loss in sorted(found.items()) if name == "naive"]


def mean_difference(runs, text):
    """(mean, half of its 95 % interval) of the paired differences, by Student's t."""
    found = differences(runs, text)
    return statistics.mean(found), STUDENT_95[len(found)] * statistics.stdev(found) / math.sqrt(len(found))


def draw_compare(one_case_slower=12, whole_gpu_slower=8, band=5):
    """The committed record against a copy in which everything is slower, and one case more: what is flagged. All in percent."""
    before, after, wrong = slowed(one_case_slower, whole_gpu_slower)
    found = {case.case for case in compare.worse_costs(before, after, band / 100)}
    figure, axes = plt.subplots(figsize=(8, 3.8))
    for case, was in before.items():
        if was.peer is not None:
            now = after[case]
            x, y = now.ours / was.ours, (now.ours / was.ours) / (now.peer / was.peer)
            color, order = (COLORS["bad"], 5) if case in found else (COLORS["scores"], 3)
            axes.plot(100 * (x - 1), 100 * (y - 1), "D" if case == wrong else "o", color=color, zorder=order, alpha=0.8)
    axes.axvline(band, color=COLORS["ink"], linewidth=1)
    axes.axhline(band, color=COLORS["ink"], linewidth=1)
    low, high = -6, max(24, one_case_slower + whole_gpu_slower + 8)
    axes.axhspan(band, high, xmin=(band - low) / (high - low), color=COLORS["bad"], alpha=0.06, linewidth=0)
    axes.text(high - 0.5, band + 0.4, "worse", ha="right", va="bottom", color=COLORS["bad"])
    axes.set(xlim=(low, high), ylim=(low, high), xlabel="slower than before (%)", ylabel="slower beside its peer (%)")
    caught = "The case that got worse is found" if wrong in found else "The case that got worse is not found"
    others = len(found - {wrong})
    alarms = "no false alarm" if others == 0 else f"{others} false alarm{'s' * (others > 1)}"
    axes.set_title(f"{caught if one_case_slower else 'No case got worse'}, {alarms}")
    return figure


def slowed(one_case_slower, whole_gpu_slower, seed=0):
    """({case: Cost} of the committed record, the same measured again on a slower day, the case that really got slower)."""
    rng = np.random.default_rng(seed)
    before = compare.costs(committed())
    wrong = next(case for case, cost in before.items() if cost.peer is not None)
    day = 1 + whole_gpu_slower / 100

    def again(case, cost):
        noise = 1 + rng.normal(scale=0.008, size=2)
        real = 1 + one_case_slower / 100 if case == wrong else 1.0
        if case.startswith("memory"):
            return cost
        return compare.Cost(cost.ours * day * noise[0] * real, None if cost.peer is None else cost.peer * day * noise[1])

    return before, {case: again(case, cost) for case, cost in before.items()}, wrong
