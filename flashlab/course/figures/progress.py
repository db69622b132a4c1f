"""What is done of the exercises: a field for each task, a row for each exercise."""

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

from flashlab.course.checks.task import FAILED, NOT_ATTEMPTED, PASSED
from flashlab.course.figures.style import COLORS

FACE = {PASSED: COLORS["good"], FAILED: "white", NOT_ATTEMPTED: COLORS["faint"]}
EDGE = {PASSED: COLORS["good"], FAILED: COLORS["bad"], NOT_ATTEMPTED: COLORS["faint"]}
INK = {PASSED: "white", FAILED: COLORS["bad"], NOT_ATTEMPTED: COLORS["ink"]}


def draw(lessons):
    """A figure of {lesson: Standings}."""
    widest = max(map(len, lessons.values()))
    figure, axes = plt.subplots(figsize=(1.15 * widest + 2.6, 0.42 * len(lessons) + 1.1))
    for row, (lesson, tasks) in enumerate(lessons.items()):
        for column, task in enumerate(tasks):
            corner = (column + 0.06, row + 0.12)
            box = dict(boxstyle="round,pad=0,rounding_size=0.08", facecolor=FACE[task.status], edgecolor=EDGE[task.status], linewidth=1.5)
            axes.add_patch(FancyBboxPatch(corner, 0.88, 0.76, **box))
            words = f"{task.number}   {task.points}" if task.status == FAILED else task.number
            axes.text(column + 0.5, row + 0.5, words, ha="center", va="center", fontsize=9, color=INK[task.status])
        points, out_of = sum(task.points for task in tasks), sum(task.out_of for task in tasks)
        axes.text(-0.15, row + 0.5, lesson, ha="right", va="center", weight="bold")
        axes.text(widest + 0.15, row + 0.5, f"{points} / {out_of}", ha="left", va="center", fontsize=10)
    done, count = sum(task.status == PASSED for tasks in lessons.values() for task in tasks), sum(map(len, lessons.values()))
    axes.set_title(f"{done} of {count} tasks done", fontsize=12)
    axes.text(0, len(lessons) + 0.55, "filled: done   ·   outlined: begun, with its points   ·   grey: open", fontsize=9, va="center")
    axes.set(xlim=(-0.6, widest + 1.1), ylim=(len(lessons) + 0.9, 0))
    axes.axis("off")
    return figure
