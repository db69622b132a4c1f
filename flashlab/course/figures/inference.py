"""Lesson 12: prefill and decode under a roof, multiprocessors that wait, a server's memory, and what a token costs."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from flashlab.course import paging
from flashlab.course.figures.speed import LINES
from flashlab.course.figures.style import COLORS
from flashlab.course.memory import GPUS, attention_flops
from flashlab.course.records import committed
from flashlab.course.serving import MODELS, decode_step

INTENSITY = np.geomspace(0.25, 2e5, 400)
PALETTE = [COLORS[name] for name in ("Q", "K", "V", "out", "bad", "scores")]
GB = 1e9


def attention_intensity(new_tokens, context, group, head_dim=128, itemsize=2):
    """Operations for each byte of attention: `new_tokens` rows a head, `group` heads of queries over each head of keys, 16 bits."""
    flops = group * attention_flops(new_tokens, context, head_dim)
    return flops / (itemsize * head_dim * (2 * context + 2 * group * new_tokens))


def draw_phases(group=1, new_tokens=1, context=4096):
    """Attention of a prompt and of a few new tokens, under an H200's roof."""
    gpu = GPUS["H200"]
    figure, axes = plt.subplots(figsize=(8, 4.2))
    axes.axvspan(INTENSITY[0], gpu.ridge, color=COLORS["bad"], alpha=0.06, linewidth=0)
    axes.loglog(INTENSITY, gpu.attainable(INTENSITY), color=COLORS["scores"], linewidth=2)
    points = (("prefill", context, "out", (0, 9), "right"), ("decode", new_tokens, "bad", (10, -12), "left"))
    for name, rows, color, offset, side in points:
        intensity = attention_intensity(rows, context, group)
        rate = gpu.attainable(intensity)
        axes.plot(intensity, rate, "o", color=COLORS[color], markersize=9)
        words = f"{name}: {intensity:,.0f} FLOP a byte,\nat most {rounded(100 * rate / gpu.tflops)} % of the arithmetic"
        axes.annotate(words, (intensity, rate), offset, textcoords="offset points", ha=side, va="center" if side == "left" else "bottom",
                      color=COLORS[color], weight="bold")  # fmt: skip
    axes.text(0.3, 2300, "memory-bound", color=COLORS["bad"], va="top")
    axes.text(1.6e5, 1.2, f"compute-bound\nfrom ridge {gpu.ridge:.0f}", ha="right", va="bottom")
    axes.set(xlim=(0.25, 2e5), ylim=(0.9, 6000), ylabel="at most (TFLOP/s)")
    shared = "a head of keys for each query head" if group == 1 else f"{group} query heads share a head of keys"
    axes.set_xlabel(f"intensity (FLOP per byte): {context:,} tokens, {new_tokens} new, {shared}")
    _plain(axes, "x", (1, 10, 100, 1000, 10_000, 100_000))
    _plain(axes, "y", (1, 10, 100, 1000))
    axes.set_title("Same formula, other machine: a new token's attention waits for memory")
    return figure


def draw_multiprocessors(sequences=1, splits=1, heads_kv=8, gpu="H200"):
    """Which multiprocessors have a program, in the last of as many rounds as it takes."""
    count = GPUS[gpu].multiprocessors
    programs = sequences * heads_kv * splits
    rounds = -(-programs // count)
    busy = programs - (rounds - 1) * count
    figure, axes = plt.subplots(figsize=(8, 2.9))
    columns = 22
    for n in range(count):
        color = COLORS["out"] if n < busy else COLORS["faint"]
        axes.add_patch(plt.Rectangle((n % columns, -(n // columns)), 0.86, 0.86, color=color, linewidth=0))
    axes.set(xlim=(0, columns), ylim=(1 - -(-count // columns), 1), aspect="equal")
    axes.axis("off")
    times = "" if rounds == 1 else f" in the last of {rounds} rounds"
    axes.set_title(f"{programs:,} programs: {busy} of {count} multiprocessors work{times}")
    split = f"each cut into {splits} parts" if splits > 1 else "none of them cut"
    words = f"{sequences} {'sequence' if sequences == 1 else 'sequences'} × {heads_kv} heads of keys, {split} · {gpu}"
    figure.supxlabel(words, size=9, color=COLORS["scores"])
    return figure


def draw_bandwidth():
    """Of the committed record: how fast each reads the cache, as a share of the copy that ran beside it."""
    record = committed()
    copy = record["limits"]["copy_tb_s"]
    names = {
        "flashlab": "flashlab",
        "cuDNN in torch": "cuDNN",
        "FlashAttention-2 in torch": "FlashAttention-2",
        "FlexAttention": "FlexAttention",
    }
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for name, words in names.items():
        color, marker = LINES[name]
        points = [(row["bytes"] / 2**20, 100 * _read(row, name) / copy) for row in record["decode"] if name in row["ms"]]
        axes.plot(*zip(*points, strict=True), marker, color=color, label=words, markersize=7, zorder=5 if name == "flashlab" else 3)
    unsplit = [(row["bytes"] / 2**20, 100 * _read(row, "flashlab, unsplit") / copy) for row in record["decode"] if row["batch"] == 1]
    axes.plot(*zip(*unsplit, strict=True), "x", color=COLORS["ink"], label="flashlab, not split", markersize=8)
    axes.axhline(100, color=COLORS["ink"], linewidth=1)
    axes.text(0.99, 101, "a copy", transform=axes.get_yaxis_transform(), ha="right", va="bottom", size=9)
    axes.set(xscale="log", ylim=(0, 125), xlabel="keys and values in the cache (MiB)", ylabel="of the copy's bandwidth (%)")
    _plain(axes, "x", (16, 64, 256, 1024, 4096, 16384))
    axes.legend(loc="upper left", ncols=3, fontsize=9)
    axes.set_title("A large cache is read as fast as memory goes, once it is split")
    first, machine = record["decode"][0], record["machine"]
    problem = f"one new token, {first['heads']} query heads over {first['heads_kv']} heads of keys, D = {first['head_dim']}, bfloat16"
    figure.supxlabel(f"{problem} · {machine['device']}, torch {machine['torch']}", size=9, color=COLORS["scores"])
    return figure


def _read(row, name):
    """TB/s."""
    return row["bytes"] / row["ms"][name] / 1e9


def draw_cache_sizes(context=8192):
    """The cache of one sequence beside the weights, for published shapes."""
    figure, axes = plt.subplots(figsize=(8, 3.2))
    models = [model for model in MODELS.values() if model.weights < 100]
    for n, model in enumerate(models):
        cache = model.cache_bytes(context) / GB
        axes.barh(n, cache, color=COLORS["K"], height=0.6)
        axes.text(cache, n, f"  {cache:.2f} GB, {100 * cache * GB / model.weight_bytes():.0f} % of its weights", va="center", size=9)
    axes.set_yticks(range(len(models)), [f"{model.name}\n{model.heads_kv} of {model.heads} heads have keys" for model in models], size=9)
    axes.invert_yaxis()
    axes.set(xlabel=f"keys and values of one sequence of {context:,} tokens (GB, 16 bits)")
    axes.set_xlim(0, 1.45 * max(model.cache_bytes(context) for model in models) / GB)
    axes.set_title("Fewer heads of keys, less to keep and less to read")
    return figure


def draw_batch(model="Llama 3 8B", gpu="H200", context=8192):
    """The least time of a step, and tokens a second of all sequences, over the number of sequences."""
    shape, machine = MODELS[model], GPUS[gpu]
    batches = np.unique(np.geomspace(1, 1024, 60).astype(int))
    seconds = np.array([machine.seconds(*decode_step(shape, int(batch), context)) for batch in batches])
    fits = shape.weight_bytes() + batches * shape.cache_bytes(context) <= machine.memory_gb * GB
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), sharex=True)
    for axes, values, label, color in (
        (left, 1e3 * seconds, "least time of a token (ms)", "bad"),
        (right, batches / seconds, "most tokens a second, all together", "V"),
    ):
        axes.loglog(batches[fits], values[fits], color=COLORS[color], linewidth=2.5)
        axes.loglog(batches, values, color=COLORS[color], linewidth=1, linestyle=":")
        axes.set(xlabel="sequences at once", ylabel=label)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 3)))
            axis.set_major_formatter("{x:,.0f}")
        axes.minorticks_off()
        axes.grid(color=COLORS["faint"], linewidth=0.6)
    most = int(batches[fits].max()) if fits.any() else 0
    free = (machine.memory_gb * GB - shape.weight_bytes()) / shape.cache_bytes(context)
    left.set_title(f"{model}, {context:,} tokens each" if most else f"{model}, {context:,} tokens: none fits", size=11)
    right.set_title(f"{gpu}: {max(0, int(free)):,} sequences fit", size=11)
    return figure


def draw_memory(step=120):
    """The three ways to share out a server's memory, after this step."""
    figure, all_axes = plt.subplots(len(paging.WAYS), 1, figsize=(8, 5.4))
    for axes, way in zip(all_axes, paging.WAYS, strict=True):
        snapshot = _served(way)[step]
        axes.imshow(_picture(snapshot), aspect="auto", interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        words = f"{way.name}: {100 * snapshot.share_filled:.0f} % hold a token, {snapshot.running} run, {snapshot.done} are done"
        axes.set_title(words, size=10.5)
        for spine in axes.spines.values():
            spine.set(visible=True, color=COLORS["scores"])
    patches = [Patch(color=PALETTE[0], label="a token"), Patch(color=_pale(PALETTE[0]), label="kept for one sequence, and empty"),
               Patch(facecolor="white", edgecolor=COLORS["scores"], label="nobody's")]  # fmt: skip
    figure.legend(handles=patches, loc="outside lower left", ncols=3, fontsize=9)
    figure.suptitle(
        f"After step {step}: the same requests, the same memory, three ways to share it", x=0.01, ha="left", size=12, weight="bold"
    )
    return figure


_memory = {}


def _served(way):
    if way.name not in _memory:
        _memory[way.name] = paging.serve(way)
    return _memory[way.name]


def _picture(snapshot, rows=8):
    image = np.ones((len(snapshot.owner), 3))
    for number in np.unique(snapshot.owner[snapshot.owner != paging.FREE]):
        own, color = snapshot.owner == number, PALETTE[number % len(PALETTE)]
        image[own] = to_rgb(_pale(color))
        image[own & snapshot.filled] = to_rgb(color)
    return image.reshape(rows, -1, 3)


def _pale(color):
    return tuple(1 - 0.3 * (1 - part) for part in to_rgb(color))


def _plain(axes, which, ticks):
    getattr(axes, f"set_{which}ticks")(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()


def draw_costs(record):
    """Microseconds that a token costs in each phase of one GPT's life, of an experiments record."""
    rows = sorted(record["phases"], key=lambda row: row["microseconds"])
    figure, axes = plt.subplots(figsize=(8, 3.8))
    for n, row in enumerate(rows):
        color = COLORS["bad"] if row["phase"].startswith("writing") else COLORS["Q"]
        axes.barh(n, row["microseconds"], color=color, height=0.6)
        axes.text(row["microseconds"] * 1.08, n, rounded(row["microseconds"]), va="center", size=9)
    axes.set_yticks(range(len(rows)), [_phase(row) for row in rows], size=9)
    axes.set(xscale="log", xlabel="microseconds a token", xlim=(rows[0]["microseconds"] / 2, rows[-1]["microseconds"] * 3))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.set_title("A written token costs more than a trained one")
    first = rows[0]
    shape = f"GPT of {first['layers']} layers of {first['width']}, {first['context']:,} tokens, {first['dtype']}"
    words = f"{shape} · {record['machine']['device']}"
    figure.supxlabel(words, size=9, color=COLORS["scores"])
    return figure


def _phase(row):
    if row["phase"] in ("training", "prefill", "writing, all anew"):
        return row["phase"]
    readers = f"writing, {row['batch']} {'reader' if row['batch'] == 1 else 'readers'}"
    return f"{readers}, one CUDA graph" if "captured" in row["phase"] else readers


def rounded(number):
    """Three digits: 0.485, 12.9, 9,660."""
    unit = 10 ** max(0, len(str(int(number))) - 3)
    return f"{round(number / unit) * unit:,}" if number >= 100 else f"{number:.3g}"
