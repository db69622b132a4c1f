"""Read what compute-sanitizer's racecheck prints, and fail on each hazard that is one. `make gpu-sanitize` pipes it in here.

Kernels that are scheduled by hand begin with `gl.warp_specialize`: Triton writes down in shared memory which warp does what, all threads
meet at a named barrier, and every warp reads its part. racecheck reports these reads all the same (though none, of a kernel that has
nothing but this statement). Hazards with both ends in that statement or in the kernel's head are counted and passed over.

So is the number of the next job, which the carrier writes down and crafts read. A barrier in shared memory stands between, at which one
thread arrives for its warpgroup, behind a barrier of the warpgroup's own; racecheck does not seem to join the two. A kernel that did
nothing else, fifty times, was reported in the same way, and added up the right numbers.
"""

import re
import sys
from collections import Counter
from pathlib import Path

import flashlab.kernels.hopper

FOLDER = Path(flashlab.kernels.hopper.__file__).parent
ENDS = {"done", "RACECHECK SUMMARY"}  # what tests/gpu/sanitize.py prints, and racecheck
HAZARD, ACCESS = re.compile(r"hazard detected"), re.compile(r"(Read|Write) Thread .* in (\S+):(\d+)")


def hands_out(file, line):
    """Whether Triton hands out the work in this line of a file of kernels by hand: a warp's reads of it belong to the kernel's head."""
    path = FOLDER / file
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if not 1 <= line <= len(lines):
        return False
    inside = lines[line] if lines[line - 1].endswith(":") else ""  # an `if` that the compiler decides stands for what is in it
    return bool(re.match(r"def \w+_kernel\(", lines[line - 1])) or "gl.warp_specialize(" in lines[line - 1] + inside


def function_of(file, line):
    """The function that a line of a file of kernels by hand belongs to."""
    path = FOLDER / file
    above = path.read_text(encoding="utf-8").splitlines()[:line] if path.exists() else []
    names = (found[1] for text in reversed(above) if (found := re.match(r"def (\w+)\(", text)))
    return next(names, None)


def hands_on(accesses):
    """Whether a hazard is between the carrier, which writes down the number of the next job, and a craft, which reads it."""
    return {(kind, function_of(file, int(line))) for kind, file, line in accesses} == {("Write", "take_next"), ("Read", "read_next")}


def sort_out(lines):
    """(hazards that are none, the text of the others, whether the calls came to their end, and the report to its)."""
    passed, others, ended, hazard = Counter(), [], set(), []
    for line in [*lines, ""]:
        ended |= {words for words in ENDS if words in line}
        if hazard and not ACCESS.search(line):
            accesses = [ACCESS.search(part).groups() for part in hazard[1:]]
            if accesses and (all(hands_out(file, int(line)) for _, file, line in accesses) or hands_on(accesses)):
                passed[accesses[0][1]] += 1
            else:
                others.append("\n".join(hazard))
            hazard = []
        if HAZARD.search(line) or hazard:
            hazard.append(line.strip())
    return passed, others, ended == ENDS


def main():
    passed, others, whole = sort_out(sys.stdin)
    print(f"passed over, where work is handed out to warps or on to them: {dict(passed)}")
    if not whole:
        sys.exit("the calls did not come to their end, or racecheck did not: the report has no “done”, or no summary")
    if others:
        sys.exit("\n\n".join([*others[:20], f"{len(others)} hazards"]))
    print("no hazard anywhere else")


if __name__ == "__main__":
    main()
