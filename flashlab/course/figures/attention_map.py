"""Lesson 01: what attention looks at in a text, what it gathers there, and what the S×S matrix costs."""

import matplotlib.pyplot as plt
import numpy as np

from flashlab.course.figures.style import COLORS, SCORES_MAP

MONOSPACE = {"family": "monospace", "ha": "center", "va": "center"}


def letters_of(text):
    """The text's letters, with spaces made visible."""
    return ["␣" if letter == " " else letter for letter in text]


def draw_map(text, P, row=None):
    """Attention P (S, S) of a short text: queries down, keys across. Optionally one row is framed."""
    letters = letters_of(text)
    figure, axes = plt.subplots(figsize=(7.4, 6.6))
    picture = axes.imshow(P, cmap=SCORES_MAP, vmin=0, vmax=0.6)  # a third should be seen at a glance
    edge = np.arange(len(text) + 1) - 0.5
    axes.fill_between(edge, -0.5, np.append(edge[:-1], edge[-2]), step="post", color=COLORS["faint"], alpha=0.35, linewidth=0)
    axes.text(len(text) * 0.68, len(text) * 0.27, "not yet written", ha="center", color=COLORS["scores"], size=13)
    axes.set_xticks(range(len(text)), letters, color=COLORS["K"], family="monospace", weight="bold")
    axes.set_yticks(range(len(text)), letters, color=COLORS["Q"], family="monospace", weight="bold")
    axes.tick_params(length=0)
    axes.set_xlabel("key: the letter at this place (found by the one before it)", color=COLORS["ink"])
    axes.set_ylabel("query: the letter that is looking", color=COLORS["ink"], labelpad=8)
    axes.set_title("Each letter looks at what once followed the same letter")
    if row is not None:
        frame = plt.Rectangle((-0.5, row - 0.5), len(text), 1, fill=False, edgecolor=COLORS["Q"], linewidth=1.8, clip_on=False)
        axes.add_patch(frame)
    figure.colorbar(picture, ax=axes, shrink=0.55, label="probability", pad=0.02, extend="max").outline.set_visible(False)
    return figure


def draw_row(text, p, query):
    """One row of attention as bars over the text, and the votes it adds up to."""
    letters = letters_of(text)
    votes = {letter: p[[i for i, other in enumerate(letters) if other == letter]].sum() for letter in dict.fromkeys(letters[: query + 1])}
    best = sorted(votes, key=votes.get, reverse=True)[:6]

    figure, (axes, tally) = plt.subplots(1, 2, figsize=(8, 3.2), width_ratios=(4.2, 1))
    axes.bar(range(len(text)), p, color=COLORS["scores"], width=0.75)
    axes.set(ylim=(0, 1.05), xlim=(-0.8, len(text) - 0.2), ylabel="probability")
    axes.set_xticks(range(len(text)), letters, family="monospace", color=COLORS["K"], weight="bold")
    axes.tick_params(axis="x", length=0)
    axes.get_xticklabels()[query].set(color="white", bbox={"facecolor": COLORS["Q"], "edgecolor": "none", "boxstyle": "round,pad=0.25"})
    if query + 1 < len(text):
        axes.axvspan(query + 0.5, len(text) - 0.2, color=COLORS["faint"], alpha=0.6, linewidth=0)
        if len(text) - query > 5:
            axes.text((query + len(text)) / 2, 0.55, "not yet written", ha="center", color=COLORS["scores"])
    axes.set_title(f"Letter {query}, “{letters[query]}”, looks back, and “{best[0]}” gets most votes")

    tally.barh(best, [votes[letter] for letter in best], color=COLORS["V"], height=0.6)
    tally.set(xlim=(0, 1.05), xticks=[0, 0.5, 1], xlabel="votes for the next")
    tally.set_yticks(range(len(best)), best, family="monospace", weight="bold")
    tally.tick_params(axis="y", length=0)
    tally.set_ylim(5.6, -0.6)
    return figure


def draw_guesses(text, guessed, share):
    """Some lines of text; letters that attention guessed before they came are marked."""
    lines = text.split("\n")
    height, width = len(lines), max(80, max(map(len, lines)))
    figure, axes = plt.subplots(figsize=(8, 0.19 * height + 0.5))
    position = 0
    for y, line in enumerate(lines):
        for x, letter in enumerate(line):
            right = guessed[position + x]
            if right:
                axes.add_patch(plt.Rectangle((x - 0.5, y - 0.5), 1, 1, color=COLORS["out"], alpha=0.22, linewidth=0))
            axes.text(x, y, letter, size=8.5, color=COLORS["out"] if right else COLORS["scores"], **MONOSPACE)
        position += len(line) + 1
    axes.set(xlim=(-1, width), ylim=(height - 0.3, -0.7))
    axes.axis("off")
    axes.set_title(f"Purple: guessed before it came. {share:.0%} of these letters, with nothing trained")
    return figure


def draw_growth(lengths, measured, unit=2**20):
    """Measured peak memory of several functions: `measured` maps a name to bytes for each length."""
    figure, axes = plt.subplots(figsize=(8, 3.8))
    looks = [(COLORS["bad"], "o"), (COLORS["out"], "s")]
    for (name, sizes), (color, marker) in zip(measured.items(), looks, strict=False):
        axes.plot(lengths, np.array(sizes) / unit, color=color, marker=marker, linewidth=2)
        axes.annotate(name, (lengths[-1], sizes[-1] / unit), xytext=(8, 0), textcoords="offset points", color=color, va="center")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.xaxis.set_minor_locator(plt.NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="tokens S", ylabel="peak memory (MiB)", xlim=(lengths[0] * 0.85, lengths[-1] * 1.9))
    axes.grid(axis="y", color=COLORS["faint"], linewidth=0.7)
    axes.set_title("Twice the text: four times the memory for naive, at most twice for flashlab")
    return figure
