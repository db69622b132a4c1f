"""Lesson 15: a workshop, tiles on its shelf and jobs over time, clocks from inside of the kernel, what decisions are worth, and peers."""

import itertools

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from flashlab.course import records, workshop
from flashlab.course.figures.style import COLORS
from flashlab.course.schedule import WAYS, all_done, causal_lengths, timetable
from flashlab.course.steps.workers import carrier_of, craft_of


def draw_workshop(places=2):
    """One multiprocessor: the carrier, two shelves in shared memory, and two crafts."""
    figure, axes = plt.subplots(figsize=(9, 4.2))
    _box(axes, 0, 1.35, 1.5, 1.4, "HBM\nand L2", COLORS["faint"])
    shelf, right = 3.3, 3.3 + 0.95 * places + 1.5
    for row, (name, color) in enumerate((("K", COLORS["K"]), ("V", COLORS["V"]))):
        y = 2.25 - 1.3 * row
        for place in range(places):
            _box(axes, shelf + 0.95 * place, y, 0.85, 0.95, f"{name}\nplace {place}", color, "white")
        _arrow(axes, (1.5, 2.05), (shelf - 0.05, y + 0.5), COLORS["ink"])
    axes.text(2.35, 2.75, "copy engine", size=9.5, ha="center")
    axes.text(shelf, 3.35, "shelves in shared memory", size=10)
    _box(axes, 2.2, -0.55, 2.2, 0.85, "carrier: 1 warp,\n24 registers", "#FFFFFF")
    _arrow(axes, (2.5, 0.33), (2.4, 2.0), COLORS["ink"])
    axes.text(2.33, 0.62, "“bring tile n”", size=9.5, ha="right")
    edge = shelf + 0.95 * places
    for c in range(2):
        y = 2.25 - 1.6 * c
        _box(axes, right, y, 2.7, 1.2, f"craft {c}: 4 warps, 64 rows\nq · kᵀ, softmax, p · v\n240 registers", COLORS["Q"], "white")
        for begin in (2.7, 1.4):
            _arrow(axes, (edge, begin), (right - 0.05, y + 0.6), COLORS["scores"])
    axes.text((edge + right) / 2 - 0.05, 3.0, "“full”", size=9.5, ha="center", color=COLORS["ink"])
    for begin in ((right + 0.6, 0.62), (right + 2.0, 0.62)):
        _arrow(axes, begin, (4.45, -0.15), COLORS["bad"], "arc3,rad=-0.22")
    axes.text(right - 0.35, -0.62, "“empty”: both crafts give a place back", size=9.5, color=COLORS["bad"], ha="center")
    axes.set(xlim=(-0.1, right + 2.9), ylim=(-0.8, 3.7))
    axes.axis("off")
    return figure


def draw_shelf(places=2, copy=4, multiply=3, tiles=8):
    """Tiles over time: the carrier's copies, one line a place, and the products of two crafts."""
    crafts = [craft_of(tiles, 0, tiles)] * 2
    trace = workshop.run(carrier_of(tiles), crafts, places, workshop.steady(copy, multiply))
    lines = [f"copies into place {place}" for place in range(places)] + ["craft 0", "craft 1"]
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.42 * len(lines)))
    for worker, what, tile, place, begin, end in trace:
        if what == "give back":
            continue
        line = place if what == "copy" else lines.index(worker)
        color = COLORS["K"] if what == "copy" else COLORS["good"]
        axes.barh(line, end - begin, left=begin, height=0.75, color=color, edgecolor="white")
        axes.text((begin + end) / 2, line, str(tile), ha="center", va="center", color="white", size=9)
    total = max(end for *_, end in trace)
    axes.axvline(total, color=COLORS["ink"], linewidth=1)
    axes.set(yticks=range(len(lines)), yticklabels=lines, xlim=(0, tiles * (copy + multiply) + 1), xlabel="time")
    axes.invert_yaxis()
    axes.set_title(f"{places} place{'s' * (places > 1)}: {tiles} tiles take {total}")
    return figure


PARTS = (  # between one clock and the next: what a craft does, and its colour
    ("issues both products", COLORS["ink"]),
    ("waits for products", COLORS["K"]),
    ("softmax", COLORS["good"]),
    ("waits for the rest", COLORS["V"]),
    ("hands on, waits for k", COLORS["faint"]),
)
SHOWN = 4  # steps of each craft


def draw_clocks(machine="nvidia-h200"):
    """A few steps of both crafts of one program, from clocks read inside of the kernel: with and without the softmax beside a product."""
    clocks = records.by_hand(machine)["clocks"]
    figure, panels = plt.subplots(len(clocks), 1, figsize=(9, 4.4), sharex=True)
    longest = 0
    for axes, (name, crafts) in zip(panels, clocks.items(), strict=True):
        first = min(craft[0][0] for craft in crafts)
        for line, craft in enumerate(crafts):
            for step, after in zip(craft[:SHOWN], craft[1:], strict=False):
                times = [*step, after[0]]
                for begin, end, (_, color) in zip(times[:-1], times[1:], PARTS, strict=True):
                    axes.barh(line, end - begin, left=begin - first, height=0.72, color=color, edgecolor="white", linewidth=0.5)
                longest = max(longest, after[0] - first)
        axes.set(yticks=range(len(crafts)), yticklabels=[f"craft {c}" for c in range(len(crafts))])
        axes.invert_yaxis()
        axes.set_title(f"{name}: {clocks_of_a_step(crafts):,.0f} clocks a step")
    panels[-1].set(xlabel="clocks of the multiprocessor", xlim=(0, longest))
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for _, color in PARTS]
    figure.legend(handles, [name for name, _ in PARTS], loc="outside lower center", ncols=3, fontsize=9)
    return figure


def clocks_of_a_step(crafts):
    """How long a step takes, on average over the clocks of all crafts."""
    return sum((craft[-1][0] - craft[0][0]) / (len(craft) - 1) for craft in crafts) / len(crafts)


def draw_prices(head_dim=128, attention="causal", seqlen=16384, machine="nvidia-h200"):
    """How many times as long the kernel takes without each of its decisions."""
    rows = records.by_hand(machine)["prices"]
    row = next(r for r in rows if (r["head_dim"], r["attention"], r["seqlen"]) == (head_dim, attention, seqlen))
    whole = row["ms"]["all"]
    prices = {name: ms / whole for name, ms in row["ms"].items() if name != "all"}
    figure, axes = plt.subplots(figsize=(9, 4.2))
    names = sorted(prices, key=lambda name: -prices[name])
    for line, price in enumerate(prices[name] for name in names):
        axes.barh(line, price - 1, left=1, height=0.7, color=COLORS["bad"] if price >= 1 else COLORS["scores"])
        axes.text(max(price, 1) + 0.01, line, f"{price:.2f}", va="center", size=9.5)
    axes.axvline(1, color=COLORS["ink"], linewidth=1)
    low, high = min(1, *prices.values()), max(prices.values())
    axes.set(yticks=range(len(names)), yticklabels=names, xlim=(low - 0.03, max(1.3, high * 1.08)), xlabel="times as long without it")
    axes.invert_yaxis()
    speed = row["flops"] / whole / 1e9
    axes.set_title(f"head dim {head_dim}, {attention}, {seqlen:,} tokens: {speed:.0f} TFLOP/s as it is")
    return figure


def draw_jobs(begin=2, workers=5, tiles=6, heads=4):
    """Jobs of a causal call on a few multiprocessors: begun as programs of their own, dealt out, or taken one after the other."""
    lengths = causal_lengths(tiles, heads, heads)
    figure, panels = plt.subplots(len(WAYS), 1, figsize=(9, 5.6), sharex=True)
    ends = [all_done(way, lengths, workers, begin) for way in WAYS]
    for axes, way, last in zip(panels, WAYS, ends, strict=True):
        for length, (worker, starts, until) in zip(lengths, timetable(way, lengths, workers, begin), strict=True):
            if way == WAYS[0] or starts == begin:
                axes.barh(worker, begin, left=starts - begin, height=0.8, color=COLORS["scores"], edgecolor="white")
            shade = 0.35 + 0.65 * length / tiles
            axes.barh(worker, length, left=starts, height=0.8, color=COLORS["good"], alpha=shade, edgecolor="white")
            axes.text((starts + until) / 2, worker, str(length), ha="center", va="center", color="white", size=8.5)
        axes.axvline(last, color=COLORS["ink"], linewidth=1)
        axes.set(yticks=range(workers), xlim=(0, max(ends) + 1))
        axes.invert_yaxis()
        axes.set_title(f"{way}: all is done after {last}", size=11)
    panels[1].set_ylabel("multiprocessors")
    panels[-1].set_xlabel("time (grey: a program begins)")
    return figure


BESIDE = {  # by name in the record, forward or backward: the line's words, colour and mark
    "by hand": ("by hand", COLORS["good"], "o"),
    "in turns": ("by hand", COLORS["good"], "o"),
    "in any order": ("by hand, dQ in any order", COLORS["good"], "P"),
    "portable": ("flashlab's portable kernels", COLORS["scores"], "v"),
    "cuDNN in torch": ("cuDNN in torch", COLORS["V"], "s"),
    "flash-attn 4": ("flash-attn 4", COLORS["K"], "p"),
}
PRODUCTS = {"forward": 1.0, "backward": 2.5}  # two products, and five; how many are computed is each kernel's own business


def draw_beside(head_dim=128, machine="nvidia-h200"):
    """TFLOP/s of kernels by hand, of portable ones and of peers, all of one run."""
    rows = [row for row in records.by_hand(machine)["beside"] if row["head_dim"] == head_dim]
    figure, panels = plt.subplots(2, 2, figsize=(9, 5.6), sharex=True, sharey=True)
    for axes, (way, attention) in zip(panels.flat, itertools.product(PRODUCTS, ("full", "causal")), strict=True):
        of_kind = [row for row in rows if row["attention"] == attention]
        for name, (words, color, mark) in BESIDE.items():
            if name in of_kind[0][way]:
                speeds = [PRODUCTS[way] * row["flops"] / row[way][name] / 1e9 for row in of_kind]
                dashes = "--" if name == "in any order" else "-"
                axes.plot([row["seqlen"] for row in of_kind], speeds, dashes, color=color, marker=mark, markersize=6, label=words)
        axes.set_title(f"{way}, {attention}", size=11)
        axes.set_xscale("log", base=2)
        axes.set_xticks([row["seqlen"] for row in of_kind], [f"{row['seqlen'] // 1024}k" for row in of_kind])
        axes.minorticks_off()
        axes.grid(axis="y", color=COLORS["faint"], linewidth=0.8)
    panels[0, 0].set_ylim(0, 1.06 * panels[0, 0].get_ylim()[1])
    figure.supylabel(f"TFLOP/s, head dim {head_dim}", size=11)
    figure.supxlabel("tokens", size=11)
    handles = {label: line for axes in panels.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, fontsize=9.5)
    return figure


def _box(axes, x, y, width, height, text, color, ink=COLORS["ink"]):
    style = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=color, edgecolor=COLORS["scores"]))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", size=9.5, color=ink)


def _arrow(axes, begin, end, color, bend="arc3"):
    axes.add_patch(FancyArrowPatch(begin, end, arrowstyle="-|>", mutation_scale=11, color=color, connectionstyle=bend, linewidth=1.1))
