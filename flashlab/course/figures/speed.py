"""A record of `flashlab bench` as pictures: TFLOP/s against length, ratios to peers, the ladder under its roof, lesson 10's changes."""

import math

import matplotlib.pyplot as plt

from flashlab.bench.speed import ratio, tflops
from flashlab.course.figures.style import COLORS, use_style
from flashlab.course.records import committed

LINES = {  # peers in the order of the legend
    "flashlab": (COLORS["good"], "o"),
    "flashlab, deterministic=False": (COLORS["good"], "P"),
    "flash-attn 4": (COLORS["Q"], "p"),
    "cuDNN in torch": (COLORS["V"], "s"),
    "FlexAttention": (COLORS["out"], "^"),
    "FlashAttention-2 in torch": (COLORS["bad"], "D"),
    "memory-efficient in torch": (COLORS["K"], "v"),
    "the formula in torch": (COLORS["scores"], "x"),
}
WAYS = ("forward", "backward")


def draw_all(record, path):
    """Write every picture beside the record at `path`; returns their paths."""
    use_style()
    written = []
    for name, draw in (("tflops", draw_tflops), ("ratios", draw_ratios), ("roofline", draw_roofline)):
        written.append(path.with_name(f"{path.stem}-{name}.png"))
        figure = draw(record)
        figure.savefig(written[-1], dpi=110, metadata={"Software": None})
        plt.close(figure)
    return written


def rows_of(record, head_dim, is_causal):
    """Rows of the main sweep, by length."""
    found = [
        row
        for row in record["speed"]
        if (row["head_dim"], row["is_causal"], row["dtype"], row["group"]) == (head_dim, is_causal, "bfloat16", 1)
    ]
    return sorted((row for row in found if row["window"] is None and not row["packed"]), key=lambda row: row["seqlen"])


def draw_tflops(record):
    """TFLOP/s of everybody against the sequence length."""
    calls = [(head_dim, is_causal) for head_dim in (64, 128) for is_causal in (False, True)]
    figure, all_axes = plt.subplots(2, len(calls), figsize=(11, 6), sharex=True, sharey=True)
    for line_of_axes, way in zip(all_axes, WAYS, strict=True):
        for axes, (head_dim, is_causal) in zip(line_of_axes, calls, strict=True):
            rows = rows_of(record, head_dim, is_causal)
            for name in record["peers"]:
                _line(axes, rows, name, way)
            axes.set_title(f"D = {head_dim}, {'causal' if is_causal else 'full'}", size=10.5)
            axes.set_xscale("log", base=2)
            axes.set_xticks([row["seqlen"] for row in rows], [_short(row["seqlen"]) for row in rows], size=9)
            axes.minorticks_off()
            axes.grid(axis="y", color=COLORS["faint"], linewidth=0.8)
        line_of_axes[0].set_ylabel(f"{way}, TFLOP/s")
    all_axes[0, 0].set_ylim(bottom=0)
    figure.supxlabel(f"sequence length · {_circumstances(record)}", size=9, color=COLORS["scores"])
    handles, labels = all_axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, fontsize=9.5)
    return figure


def draw_ratios(record):
    """Each peer's time over flashlab's, a mark for every problem of the main sweep, and the geometric mean."""
    rows = [row for head_dim in (64, 128) for is_causal in (False, True) for row in rows_of(record, head_dim, is_causal)]
    names = [name for name in record["peers"] if name != "flashlab" and any(ratio(row, name, "forward") for row in rows)]
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.75 * len(names)))
    ticks = (0.5, 0.7, 1, 1.4, 2, 3, 5, 8, 12)
    for place, name in enumerate(names):
        for shift, way, filled in ((0.17, "forward", True), (-0.17, "backward", False)):
            values = [value for row in rows if (value := ratio(row, name, way))]
            color = LINES.get(name, (COLORS["ink"], "o"))[0]
            axes.scatter(values, [place + shift] * len(values), s=22, color=color if filled else "white", edgecolors=color, linewidths=1)
            mean = math.exp(sum(map(math.log, values)) / len(values))
            words = f"{way}: {min(values):.2f} at least, {mean:.2f} on average"
            axes.text(1.02, place + shift, words, transform=axes.get_yaxis_transform(), va="center", size=9, color=color)
    axes.axvline(1, color=COLORS["ink"], linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    low, high = axes.get_xlim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.minorticks_off()
    axes.set_title("How many times as long as flashlab each peer takes")
    axes.set_xlabel(f"left of 1 the peer is faster · {_circumstances(record)}", size=9, color=COLORS["scores"])
    return figure


def draw_roofline(record):
    """The ladder's rungs on the GPU: what they reach, under what their bytes and the tensor cores allow."""
    matmul, copy = record["limits"]["matmul_tflops"], record["limits"]["copy_tb_s"]
    figure, axes = plt.subplots(figsize=(8, 4.2))
    ridge = matmul / copy
    axes.plot([1, ridge, 1e4], [copy, matmul, matmul], color=COLORS["ink"], linewidth=1.5)
    axes.text(1.3, copy * 1.9, f"memory: {copy:.1f} TB/s", rotation=35, rotation_mode="anchor", size=9)
    axes.text(9e3, matmul * 1.12, f"matrix products: {matmul:.0f} TFLOP/s", ha="right", size=9)
    points = []
    for row in record["ladder"]:
        if row["device"] != "cpu":
            flops = 4 * row["heads"] * row["seqlen"] ** 2 * row["head_dim"]
            points.append((flops / row["forward_ms"] / 1e9, flops / row["bytes_moved"], row["rung"]))
    for n, (y, x, rung) in enumerate(sorted(points, reverse=True)):
        color = COLORS["good"] if rung == "flashlab" else COLORS["scores"]
        axes.scatter([x], [y], color=color, zorder=5)
        line = dict(arrowstyle="-", color=COLORS["faint"])
        axes.annotate(f"{rung}: {y:.0f}", (x, y), (0.62, 0.62 - 0.1 * n), textcoords="axes fraction", size=9, color=color, arrowprops=line)
    axes.set(xscale="log", yscale="log", xlabel="FLOPs for each byte moved", ylabel="TFLOP/s", xlim=(1, 1e4), ylim=(1, matmul * 2))
    axes.set_title("The forward pass under its roof")
    figure.supxlabel(_circumstances(record), size=9, color=COLORS["scores"])
    return figure


def draw_changes(head_dim=128, attention="causal"):
    """Lesson 10's changes on the committed record's GPU: each on top of those before it; and what the last version loses without it."""
    record, is_causal = committed(), attention == "causal"
    rows = [row for row in record["changes"] if (row["head_dim"], row["is_causal"]) == (head_dim, is_causal)]
    ms = {how: {row["change"]: row["forward_ms"] for row in rows if row["how"] == how} for how in ("with", "without", "library")}
    names = [*ms["with"], "flashlab"]
    times = [*ms["with"].values(), ms["library"]["flashlab"]]
    final, triton_loads = ms["with"][names[-2]], ms["with"][names[-3]]  # "without" was timed without descriptors: compare like with like
    losses = {name: time / triton_loads for name, time in ms["without"].items()} | {names[-2]: triton_loads / final}
    figure, axes = plt.subplots(figsize=(8.5, 3.6))
    colors = [COLORS["scores"], *[COLORS["good"]] * (len(names) - 2), COLORS["V"]]
    axes.barh(names, times, color=colors, height=0.6)
    for n, (name, time) in enumerate(zip(names, times, strict=True)):
        words = f"{time:.2f} ms" + (f"   × {times[n - 1] / time:.2f}" if 0 < n < len(names) - 1 else "")
        axes.text(time + times[0] / 100, n, words, va="center", size=9)
        if name in losses:
            axes.text(
                1.02,
                n,
                f"× {losses[name]:.2f}",
                transform=axes.get_yaxis_transform(),
                va="center",
                size=9,
                color=COLORS["bad"],
            )
    axes.text(1.02, -0.95, "taken out\nalone", transform=axes.get_yaxis_transform(), va="center", size=9, color=COLORS["bad"])
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds of a forward pass", xlim=(0, times[0] * 1.12))
    axes.set_title(f"One change after the other: D = {head_dim}, {attention}", pad=12)
    first, machine = rows[0], record["machine"]
    problem = f"{first['batch']} × {first['heads']} heads, {first['seqlen']:,} tokens, {first['dtype']}"
    figure.supxlabel(f"{problem} · {machine['device']}, triton {machine['triton']}", size=9, color=COLORS["scores"])
    return figure


def _line(axes, rows, name, way):
    points = [(row["seqlen"], value) for row in rows if (value := tflops(row, name, way))]
    if points:
        color, marker = LINES.get(name, (COLORS["ink"], "o"))
        width, order = (2.4, 5) if name == "flashlab" else (1.2, 3)
        axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=4, linewidth=width, zorder=order, label=name)


def _short(seqlen):
    return f"{seqlen // 1024}k" if seqlen >= 1024 else str(seqlen)


def _circumstances(record):
    machine = record["machine"]
    return f"{machine['device']}, bfloat16, torch {machine['torch']}, triton {machine['triton']}"
