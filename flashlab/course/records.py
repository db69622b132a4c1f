"""The committed measurements, for lessons that run where the GPU is another one, or none."""

import functools
import json
from pathlib import Path

import flashlab
from flashlab.bench import compare

PACKAGE = Path(flashlab.__file__).parent


@functools.cache
def committed(machine="nvidia-h200"):
    """The record of `flashlab bench` on this machine.

    Raises:
        ValueError: there is no record of such a machine.
    """
    return compare.read(_place(f"{machine}.json"))


@functools.cache
def experiments(machine="nvidia-h200"):
    """The record of what lessons 12 and 14 measure, on this machine."""
    return json.loads(_place(f"experiments-{machine}.json").read_text(encoding="utf-8"))


@functools.cache
def by_hand(machine="nvidia-h200"):
    """The record of what lesson 15 measures, on this machine."""
    return json.loads(_place(f"by-hand-{machine}.json").read_text(encoding="utf-8"))


@functools.cache
def counters(machine="nvidia-h200"):
    """The record of what keeps a multiprocessor busy in the kernels of lesson 15, on this machine."""
    return json.loads(_place(f"counters-{machine}.json").read_text(encoding="utf-8"))


def _place(name):
    """In the project's `benchmarks/`, or the copy in an installed flashlab."""
    places = [folder / "benchmarks" / name for folder in (PACKAGE.parent, PACKAGE)]
    return next((place for place in places if place.exists()), places[0])
