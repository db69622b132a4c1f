"""Lesson 02: rooflines of named GPUs, and where attention's kernels stand under them."""

import matplotlib.pyplot as plt
import numpy as np

from flashlab.course.figures.style import COLORS
from flashlab.course.memory import GPUS, attention_flops, naive_bytes, tiled_bytes


def kernel_costs(seqlen, head_dim, BLOCK_M=128, itemsize=2):
    """Operations and bytes of four pieces of work on one head: {name: (FLOPs, bytes)}. float16 unless itemsize says otherwise."""
    softmax = 5 * seqlen**2  # a score: compare, subtract, exp, add, divide
    attention = attention_flops(seqlen, seqlen, head_dim) + softmax
    return {
        "softmax": (softmax, itemsize * 2 * seqlen**2),
        "naive attention": (attention, naive_bytes(seqlen, head_dim, itemsize)),
        "tiled attention": (attention, tiled_bytes(seqlen, seqlen, head_dim, BLOCK_M, itemsize)),
        "matrix product": (2 * seqlen**3, itemsize * 3 * seqlen**2),  # two S×S matrices
    }


KERNEL_COLORS = {"softmax": "scores", "naive attention": "bad", "tiled attention": "out", "matrix product": "ink"}
INTENSITY = np.geomspace(0.5, 8192, 400)


def draw_roofs(names=("T4", "A100", "H200")):
    """The roofs of several GPUs, the fastest last. Each bends at its ridge."""
    figure, axes = plt.subplots(figsize=(8, 3.9))
    for name, line in zip(names, ("-", "--", ":"), strict=True):
        gpu = GPUS[name]
        axes.loglog(INTENSITY, gpu.attainable(INTENSITY), color=COLORS["ink"], linewidth=2, linestyle=line)
        axes.plot(gpu.ridge, gpu.tflops, "o", color=COLORS["bad"])
        axes.annotate(f"ridge {gpu.ridge:.0f}", (gpu.ridge, gpu.tflops), xytext=(5, -14), textcoords="offset points", color=COLORS["bad"])
        axes.text(8192, gpu.tflops * 1.08, f"{name}: {gpu.tflops:,} TFLOP/s", ha="right", va="bottom", weight="bold")
        beside = {"xytext": (-7, 1), "ha": "right", "va": "bottom"} if gpu.name == names[-1] else {"xytext": (7, -1), "va": "top"}
        axes.annotate(f"{gpu.gigabytes_per_second:,} GB/s", (4, gpu.attainable(4)), textcoords="offset points", **beside)
    _axes(axes)
    axes.set_title("Left of its ridge, a GPU waits for memory")
    return figure


def draw_kernels(gpu="T4", seqlen=2048, head_dim=64):
    """One GPU's roof with four kernels on it: how fast each can be at most."""
    machine = GPUS[gpu]
    figure, axes = plt.subplots(figsize=(8, 4.3))
    axes.axvspan(INTENSITY[0], machine.ridge, color=COLORS["bad"], alpha=0.06, linewidth=0)
    axes.loglog(INTENSITY, machine.attainable(INTENSITY), color=COLORS["scores"], linewidth=2)
    for name, (flops, bytes_moved) in kernel_costs(seqlen, head_dim).items():
        intensity = flops / bytes_moved
        rate = machine.attainable(intensity)
        color = COLORS[KERNEL_COLORS[name]]
        above = name in ("tiled attention", "matrix product")
        leftwards = name == "tiled attention" or intensity > 1200
        axes.plot(intensity, rate, "o", color=color, markersize=9)
        axes.annotate(
            f"{name}: {intensity:,.0f}" if intensity >= 10 else f"{name}: {intensity:.2f}",
            (intensity, rate), xytext=(0, 9) if above else (10, -11), textcoords="offset points",
            ha="right" if leftwards else "left", color=color, weight="bold",
        )  # fmt: skip
        if name == "naive attention":
            percent = 100 * rate / machine.tflops
    _axes(axes)
    axes.text(0.6, 1500, "memory-bound", color=COLORS["bad"], va="top")
    axes.text(machine.ridge * 1.15, 0.085, f"compute-bound\nfrom ridge {machine.ridge:.0f}", color=COLORS["ink"], va="bottom")
    axes.set_xlabel(f"intensity (FLOP per byte) at S = {seqlen:,}, D = {head_dim}, float16")
    axes.set_title(f"{gpu}: naive attention can use at most {percent:.0f} % of the arithmetic")
    return figure


def _axes(axes):
    axes.set(xlabel="intensity (FLOP per byte)", ylabel="at most (TFLOP/s)", xlim=(0.5, 8192), ylim=(0.07, 2200))
    ticks = [1, 10, 100, 1000]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_yticks([0.1, *ticks], ["0.1", *(f"{tick:,}" for tick in ticks)])
    axes.minorticks_off()
    axes.grid(color=COLORS["faint"], linewidth=0.6)
    axes.set_axisbelow(True)
