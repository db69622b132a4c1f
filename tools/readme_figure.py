"""Draw the README's picture from a committed record: python tools/readme_figure.py [benchmarks/nvidia-h200.json]"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import typer

from flashlab.bench.compare import YARDSTICK as FA2
from flashlab.bench.speed import tflops
from flashlab.course.figures.speed import rows_of
from flashlab.course.figures.style import COLORS, use_style

ROOT = Path(__file__).resolve().parent.parent


def draw(record):
    figure, (memory, speed) = plt.subplots(1, 2, figsize=(10, 3.8), width_ratios=(1, 1.15))
    draw_memory(memory, record["memory"])
    draw_speed(speed, rows_of(record, head_dim=128, is_causal=False))
    figure.supxlabel(f"{record['machine']['device']}, bfloat16, torch {record['machine']['torch']}", size=9, color=COLORS["scores"])
    return figure


def draw_memory(axes, rows):
    for name, color, label in (("naive", COLORS["bad"], "naive"), ("flashlab", COLORS["good"], "flashlab")):
        points = [(row["seqlen"], row[name] / 2**30) for row in rows if row[name]]
        axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=4)
        axes.annotate(label, points[-2], xytext=(-10, 8), textcoords="offset points", color=color, ha="right", weight="bold")
    axes.set(yscale="log", xlabel="sequence length", ylabel="memory beyond the inputs")
    axes.set_xscale("log", base=2)
    axes.set_yticks([2**-8, 2**-4, 1, 2**4, 2**6], ["4 MiB", "64 MiB", "1 GiB", "16 GiB", "64 GiB"])
    axes.set_xticks([row["seqlen"] for row in rows][::2], [f"{row['seqlen'] // 1024}k" for row in rows][::2])
    axes.minorticks_off()
    axes.set_title("Memory grows with S, not with S²")


def draw_speed(axes, rows):
    rows = [row for row in rows if row["seqlen"] in (1024, 4096, 16384)]
    width = 0.38
    for offset, direction in ((0, "forward"), (len(rows) + 0.6, "backward")):
        for n, row in enumerate(rows):
            for shift, name, color in ((-width / 2, FA2, COLORS["scores"]), (width / 2, "flashlab", COLORS["good"])):
                value = tflops(row, name, direction)
                axes.bar(offset + n + shift, value, width, color=color, label=name if n == offset == 0 else None)
                axes.text(offset + n + shift, value + 5, f"{value:.0f}", ha="center", size=8)
    ticks = [offset + n for offset in (0, len(rows) + 0.6) for n in range(len(rows))]
    axes.set_xticks(ticks, [f"{row['seqlen'] // 1024}k" for row in rows] * 2)
    axes.set(ylabel="TFLOP/s", xlabel="forward                              backward")
    handles, _ = axes.get_legend_handles_labels()
    axes.legend(handles, ["FlashAttention-2", "flashlab"], loc="upper right", ncols=2, fontsize=9)
    axes.set_ylim(0, 1.25 * max(tflops(row, name, "forward") for row in rows for name in (FA2, "flashlab")))
    axes.set_title("Fast, in Triton one can read (D = 128)")


def main(record: Path = ROOT / "benchmarks" / "nvidia-h200.json"):
    """Draw benchmarks/readme.png. (`flashlab bench` draws the pictures beside its record.)"""
    use_style()
    draw(json.loads(record.read_text())).savefig(ROOT / "benchmarks" / "readme.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    typer.run(main)
