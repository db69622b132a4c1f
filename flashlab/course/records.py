"""The committed measurements, for lessons that run where the GPU is another one, or none."""

import functools
from pathlib import Path

import flashlab
from flashlab.bench import compare

PACKAGE = Path(flashlab.__file__).parent


@functools.cache
def committed(machine="nvidia-h200"):
    """The record of `flashlab bench` on this machine: from the project's `benchmarks/`, or the copy in an installed flashlab.

    Raises:
        ValueError: there is no record of such a machine.
    """
    places = [folder / "benchmarks" / f"{machine}.json" for folder in (PACKAGE.parent, PACKAGE)]
    return compare.read(next((place for place in places if place.exists()), places[0]))
