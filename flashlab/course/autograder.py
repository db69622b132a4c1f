"""The zip that Gradescope asks for: how to install flashlab there, and how to grade what a student hands in.

Gradescope unpacks it into /autograder/source, runs setup.sh once, and run_autograder for every student, whose files lie in
/autograder/submission. It shows what it finds in /autograder/results/results.json.
"""

import io
import zipfile
from importlib import metadata
from pathlib import Path

from flashlab.course import extra_cases
from flashlab.course.grading import LESSONS
from flashlab.files import write_whole

SETUP = """\
#!/usr/bin/env bash
# Once, when Gradescope builds the image.
set -euo pipefail
apt-get update -q
apt-get install -qy python3 python3-venv git
python3 -m venv /autograder/venv
/autograder/venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \\
    || { echo "flashlab needs Python 3.11 or newer: choose a newer base image"; exit 1; }
/autograder/venv/bin/pip install -q "flashlab-course[course] @ git+REPOSITORY" ipykernel
"""

RUN = """\
#!/usr/bin/env bash
# For every student: only notebooks of these exercises are graded.
set -euo pipefail
mkdir -p /autograder/handed_in
find /autograder/submission -name '*.ipynb' \\( {names} \\) -exec cp {{}} /autograder/handed_in/ \\;
/autograder/venv/bin/flashlab grade /autograder/handed_in --out /autograder/reports --seed {seed}{cases} \\
    --gradescope /autograder/results/results.json || {{
  echo '{{"score": 0, "output": "No notebook could be graded. Hand in: {wanted}"}}' > /autograder/results/results.json
}}
"""


def write(lessons, path, seed=0, cases=None):
    """Write the zip for these lessons, such as ["03"], to `path`; returns the path.

    Raises:
        ValueError: a lesson without an exercise, or a file of cases that cannot be used.
    """
    unknown = [lesson for lesson in lessons if lesson not in LESSONS]
    if unknown or not lessons:
        raise ValueError(f"there is no exercise {unknown[0] if unknown else ''!r}. There are {', '.join(LESSONS)}.")
    if cases:
        extra_cases.examine(cases)
    names = " -o ".join(f"-name '{lesson}_*'" for lesson in lessons)
    option = " --cases /autograder/source/cases.py" if cases else ""
    files = {
        "setup.sh": SETUP.replace("REPOSITORY", _repository()),
        "run_autograder": RUN.format(names=names, seed=seed, cases=option, wanted=", ".join(f"{lesson}_….ipynb" for lesson in lessons)),
    }
    if cases:
        files["cases.py"] = Path(cases).read_text(encoding="utf-8")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = 0o755 << 16
            archive.writestr(member, text)
    return write_whole(path, packed.getvalue())


def _repository():
    urls = dict(line.split(", ") for line in metadata.metadata("flashlab-course").get_all("Project-URL"))
    return urls["Repository"]
