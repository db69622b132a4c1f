"""Real text that every Python installation carries: nothing to download, and a licence everyone has already accepted.

Three sets of bytes:
    train                the standard library's own source files
    validation           other source files of the same library
    out_of_distribution  the language reference that `help()` shows: English prose about Python instead of Python

No file is on two sides, and no passage of PASSAGE bytes of validation or prose stands in train: what was memorised does not score.
"""

import hashlib
import sys
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PASSAGE = 200  # bytes; about five lines of code
VALIDATION_SHARE = 10  # one file in ten
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data", "__pycache__", "config"}
LICENCE = "Python Software Foundation License 2, https://docs.python.org/3/license.html"


@dataclass(frozen=True)
class Corpus:
    """The three sets and the names of their files, relative to the standard library's folder."""

    train: bytes
    validation: bytes
    out_of_distribution: bytes
    train_files: tuple[str, ...]
    validation_files: tuple[str, ...]
    left_out: tuple[str, ...]  # validation candidates that repeat a passage of train

    def provenance(self):
        """Where the text came from and under which licence, as a few lines to print."""
        version = ".".join(map(str, sys.version_info[:3]))
        return "\n".join(
            [
                f"source      the standard library of the Python {version} that runs this notebook",
                f"licence     {LICENCE}",
                f"train       {len(self.train):>10,} bytes of Python in {len(self.train_files)} files",
                f"validation  {len(self.validation):>10,} bytes of Python in {len(self.validation_files)} other files",
                f"other text  {len(self.out_of_distribution):>10,} bytes of English: the reference behind help()",
                f"left out    {len(self.left_out):>10} files that repeat a passage of {PASSAGE} bytes of train",
            ]
        )


@lru_cache(maxsize=1)
def load():
    """Read, split and check the corpus. Takes a few seconds; the second call is free."""
    sources = _sources()
    train_files = [name for name in sources if not _for_validation(name)]
    train = b"\n".join(sources[name] for name in train_files)
    known = passages(train)

    candidates = [name for name in sources if _for_validation(name)]
    validation_files = [name for name in candidates if not repeats(sources[name], known)]
    return Corpus(
        train=train,
        validation=b"\n".join(sources[name] for name in validation_files),
        out_of_distribution=b"\n\n".join(section for section in _reference_sections() if not repeats(section, known)),
        train_files=tuple(train_files),
        validation_files=tuple(validation_files),
        left_out=tuple(sorted(set(candidates) - set(validation_files))),
    )


def passages(text):
    """Half-passages of a text, cut at every multiple of half a PASSAGE.

    Wherever a passage of PASSAGE bytes begins, it holds one of these whole: so looking for them finds every repeated passage.
    """
    half = PASSAGE // 2
    return {text[start : start + half] for start in range(0, len(text) - half + 1, half)}


def repeats(text, known):
    """True when some half-passage in `known` stands anywhere in `text`."""
    half = PASSAGE // 2
    return any(text[start : start + half] in known for start in range(len(text) - half + 1))


def _sources():
    """Every readable source file of the standard library, by relative name, in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = {}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if any(part in SKIPPED_FOLDERS or part.startswith("config-") for part in relative.parts):
            continue
        found[relative.as_posix()] = path.read_bytes().replace(b"\r\n", b"\n")
    if not found:
        raise FileNotFoundError(f"No Python sources in {root}: this Python was installed without them. Use one from python.org or conda.")
    return found


def _for_validation(name):
    """Decided by the file's name alone, so that a file stays on its side from one Python version to the next."""
    return hashlib.sha256(name.encode()).digest()[0] % VALIDATION_SHARE == 0


def _reference_sections():
    from pydoc_data.topics import topics

    return [topics[name].encode() for name in sorted(topics)]
