"""Read what compute-sanitizer's racecheck prints, and fail on each hazard that is one. `make gpu-sanitize` pipes it in here.

Kernels that are scheduled by hand begin with `gl.warp_specialize`: Triton writes down in shared memory which warp does what, all threads
meet at a named barrier, and every warp reads its part. racecheck does not take this barrier into account once a kernel has others, of the
kind that count bytes, and reports the reads. Hazards with both ends in that statement or in the kernel's head are counted and passed over.
"""

import re
import sys
from collections import Counter
from pathlib import Path

import flashlab.kernels.hopper

FOLDER = Path(flashlab.kernels.hopper.__file__).parent
HAZARD, ACCESS = re.compile(r"hazard detected"), re.compile(r"(Read|Write) Thread .* in (\S+):(\d+)")


def hands_out(file, line):
    """Whether Triton hands out the work in this line of a file of kernels by hand: a warp's reads of it belong to the kernel's head."""
    path = FOLDER / file
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    statement = "".join(lines[line - 1 : line + 1])  # an `if` that the compiler decides stands for what is in it
    return bool(re.match(r"def \w+_kernel\(", statement)) or "gl.warp_specialize(" in statement


def sort_out(lines):
    """(hazards that are none, the text of the others), and whether the report is whole."""
    passed, others, whole, hazard = Counter(), [], False, []
    for line in [*lines, ""]:
        whole |= "RACECHECK SUMMARY" in line
        if hazard and not ACCESS.search(line):
            accesses = [ACCESS.search(part) for part in hazard[1:]]
            if accesses and all(hands_out(found[2], int(found[3])) for found in accesses):
                passed[accesses[0][2]] += 1
            else:
                others.append("\n".join(hazard))
            hazard = []
        if HAZARD.search(line) or hazard:
            hazard.append(line.strip())
    return passed, others, whole


def main():
    passed, others, whole = sort_out(sys.stdin)
    print(f"passed over, where work is handed out to warps: {dict(passed)}")
    if not whole:
        sys.exit("the report has no summary: racecheck did not come to its end")
    if others:
        sys.exit("\n\n".join([*others[:20], f"{len(others)} hazards"]))
    print("no hazard anywhere else")


if __name__ == "__main__":
    main()
