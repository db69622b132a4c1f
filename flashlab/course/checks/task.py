"""What a task, its cases, its known mistakes and the result of an attempt are."""

import html
from collections.abc import Callable
from dataclasses import asdict, dataclass

MIME = "application/vnd.flashlab.result+json"
PASSED, FAILED, NOT_ATTEMPTED = "passed", "failed", "not attempted"


@dataclass(frozen=True)
class Case:
    """One input of a task, in words that a learner can follow, and as arguments."""

    text: str
    arguments: tuple


@dataclass(frozen=True)
class Mistake:
    """A way to go wrong that people really go. `wrong` is called like the task's function, and goes wrong in just this way."""

    name: str
    sentence: str
    hint: int
    wrong: Callable
    common: bool = False  # whether it is one of those that are made in any kernel, and proven in one of them every day


@dataclass(frozen=True)
class Task:
    """What one part of an exercise asks for, and how it is judged."""

    number: str  # "3.1"
    title: str
    function: str  # the name that the learner defines
    points: int
    cases: Callable  # rng -> list of Case, the smallest first
    compare: Callable  # (answer, case) -> "" when right, or what is different
    mistakes: tuple[Mistake, ...]
    gated: bool = False  # the first case earns nothing, and whoever fails it earns nothing at all
    call: Callable | None = None  # (attempt, *arguments) -> answer, where calling the attempt is not all
    meaning: Callable | None = None  # (answer, case) -> what counts of it, where different answers mean the same


@dataclass(frozen=True)
class Result:
    """What became of one attempt. As the last line of a cell it shows itself."""

    number: str
    title: str
    status: str
    points: int
    out_of: int
    failing_case: str = ""
    difference: str = ""
    mistake: str = ""  # the name of a `Mistake`
    advice: str = ""
    heat: tuple = ()  # where a matrix is wrong: its errors from 0 to 1, in fields

    def __str__(self):
        if self.status == NOT_ATTEMPTED:
            return f"○ {self.number} {self.title}   not attempted yet, {self.out_of} points to win"
        mark = "✓" if self.status == PASSED else "✗"
        details = (
            f"smallest failing case: {self.failing_case}" if self.failing_case else "",
            self.difference,
            self.advice,
        )
        return "\n  ".join([f"{mark} {self.number} {self.title}   {self.points} / {self.out_of} points", *filter(None, details)])

    __repr__ = __str__

    def as_dict(self):
        return asdict(self)

    @classmethod
    def from_dict(cls, told):
        """The result that `as_dict` told, also when it has been JSON since."""
        return cls(**told | {"heat": tuple(map(tuple, told["heat"]))})

    def _repr_mimebundle_(self, include=None, exclude=None):
        color = {PASSED: "#0072B2", FAILED: "#D55E00", NOT_ATTEMPTED: "#6E7781"}[self.status]
        style = f"border-left: 4px solid {color}; padding: 0.4em 0.8em; white-space: pre-wrap; line-height: 1.45"
        return {
            "text/plain": str(self),
            "text/html": f'<pre style="{style}">{html.escape(str(self))}</pre>{_heatmap(self.heat)}',
            MIME: self.as_dict(),
        }


def _heatmap(heat):
    """The errors of a matrix as a small table: white is right, vermilion is wrong."""
    if not heat:
        return ""
    wrong = sum(error > 0 for row in heat for error in row)
    cell = '<td style="width: 14px; height: 14px; padding: 0; border: 1px solid #D8DEE4; background: rgba(213, 94, 0, {})"></td>'
    rows = "".join(f"<tr>{''.join(cell.format(round(0.15 + 0.85 * error, 2) if error else 0) for error in row)}</tr>" for row in heat)
    words = f"{wrong} of {len(heat) * len(heat[0])} fields of the matrix are wrong, the darker the more"
    return (
        f'<div role="img" aria-label="{words}" style="padding: 0.2em 0.8em">'
        f'<div style="color: #6E7781; font-size: 85%">{words}</div>'
        f'<table style="border-collapse: collapse; background: white">{rows}</table></div>'
    )
