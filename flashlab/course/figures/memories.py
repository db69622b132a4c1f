"""Lesson 02: the two memories of a GPU, and what naive attention carries between them."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from flashlab.course.figures.style import COLORS
from flashlab.course.memory import GPUS

PAPER_SRAM_GB_PER_S = 19_000  # A100, estimated by Dao et al. 2022, section 2.1


def draw_memories():
    """HBM and all SRAM of an A100 as areas of one scale, and the SRAM again under a magnifying glass."""
    gpu = GPUS["A100"]
    sram = gpu.multiprocessors * gpu.sram_kib * 1024
    side = 3.0
    speck = side * np.sqrt(sram / (gpu.memory_gb * 1e9))
    figure, axes = plt.subplots(figsize=(8, 3.9))
    axes.set(xlim=(0, 8), ylim=(-0.35, 3.3), aspect="equal")
    axes.axis("off")
    axes.set_title("All SRAM of an A100, drawn to scale beside its HBM, is a speck")

    axes.add_patch(Rectangle((0, 0), side, side, facecolor=COLORS["faint"], edgecolor=COLORS["ink"]))
    axes.text(side / 2, side / 2, f"HBM\n{gpu.memory_gb} GB", ha="center", va="center", fontsize=15)
    axes.annotate("", (4.35, 1.5), (side + 0.03, 1.5), arrowprops={"arrowstyle": "<->", "color": COLORS["bad"], "linewidth": 2})
    axes.text(3.7, 1.62, f"{gpu.gigabytes_per_second:,} GB/s", ha="center", va="bottom", color=COLORS["bad"])

    centre = (4.5, 1.5)
    left, bottom, cell = 5.25, 0.3, 0.2
    for y in (bottom, bottom + 12 * cell):  # the magnifying glass
        axes.plot([centre[0], left], [centre[1], y], color=COLORS["scores"], linewidth=0.8, linestyle=":")
    axes.add_patch(Rectangle((centre[0] - speck / 2, centre[1] - speck / 2), speck, speck, facecolor=COLORS["ink"]))
    for n in range(gpu.multiprocessors):
        x, y = left + 2.4 * (n % 9) / 9, bottom + cell * (n // 9)
        axes.add_patch(Rectangle((x, y), 2.4 / 9 - 0.05, cell - 0.05, facecolor=COLORS["ink"]))
    axes.text(left + 1.2, bottom + 12 * cell + 0.08, f"SRAM, {sram / 2**20:.0f} MiB in all", ha="center", va="bottom")
    axes.text(
        left + 1.2, bottom - 0.1, f"{gpu.multiprocessors} pieces of {gpu.sram_kib} KiB\nabout {PAPER_SRAM_GB_PER_S:,} GB/s together",
        ha="center", va="top",
    )  # fmt: skip
    return figure


def draw_traffic(seqlen=1024, head_dim=64, itemsize=4):
    """Bytes that each of the three kernels of naive attention reads and writes, array by array."""
    small, large = itemsize * seqlen * head_dim / 2**20, itemsize * seqlen**2 / 2**20
    kernels = {
        "scores = QKᵀ": [("Q", small, "Q"), ("K", small, "K"), ("scores written", large, "scores")],
        "P = softmax(scores)": [("scores read", large, "scores"), ("P written", large, "scores")],
        "Out = PV": [("P read", large, "scores"), ("V", small, "V"), ("Out", small, "out")],
    }
    figure, axes = plt.subplots(figsize=(8, 3.2))
    for row, parts in enumerate(kernels.values()):
        x = 0
        for label, width, color in parts:
            axes.barh(row, width, left=x, color=COLORS[color], edgecolor="white", height=0.5)
            if width == large:
                axes.text(x + width / 2, row, label, ha="center", va="center", color="white", weight="bold")
            else:
                shift = 0.3 * width if label == "Out" else 0
                axes.text(x + shift, row - 0.28, label, ha="left", va="bottom", color=COLORS[color], weight="bold")
            x += width
    axes.set(yticks=range(3), yticklabels=kernels, ylim=(2.5, -0.7))
    axes.set_xlabel(f"MiB that cross HBM ({seqlen:,} tokens, D = {head_dim}, float32)")
    axes.set_title("S×S matrices cross HBM four times; Q, K, V and Out hardly count")
    axes.tick_params(axis="y", length=0)
    return figure
