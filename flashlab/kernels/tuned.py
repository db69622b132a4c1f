"""Tile sizes that `flashlab tune` measured on this machine's GPU. Where there are none, the tables of `configs` hold.

They lie in the user's cache folder (FLASHLAB_CACHE, or flashlab in XDG_CACHE_HOME, or ~/.cache/flashlab), one file a kind of GPU. A file
that another GPU, another Triton or other kernels have made is not used: what was best there may be slow, or not fit, here.
"""

import hashlib
import json
import os
import re
from pathlib import Path

import torch
import triton

from flashlab.files import write_whole

FORMAT = 1


def folder():
    """Where measured tiles lie."""
    own = os.environ.get("FLASHLAB_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flashlab"


def circumstances(index=None):
    """All that measured tiles depend on. The kernels count by their text, so that what was tuned for others is not used."""
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return {
        "format": FORMAT,
        "device": torch.cuda.get_device_name(index),
        "capability": "sm_{}{}".format(*torch.cuda.get_device_capability(index)),
        "kernels": hashlib.sha256(sources).hexdigest()[:16],
        "triton": triton.__version__,
    }


def path(index=None):
    """The file for a device."""
    return folder() / f"tiles-{re.sub(r'[^a-z0-9]+', '-', torch.cuda.get_device_name(index).lower()).strip('-')}.json"


def measured(index=None):
    """{(kernel, head dim up to, dtype, banded, few keys): tiles} of a device; empty where nothing was measured in these circumstances."""
    try:
        record = json.loads(path(index).read_text(encoding="utf-8"))
        if any(record.get(name) != value for name, value in circumstances(index).items()):
            return {}
        return {tuple(row["call"]): tuple(map(int, row["tiles"])) for row in record["measured"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no file, or one that is damaged
        return {}


def save(found, index=None):
    """Add to what was measured before, whole or not at all; returns the path. Programs that start later use it."""
    rows = [{"call": call, "tiles": tiles} for call, tiles in {**measured(index), **found}.items()]
    return write_whole(path(index), json.dumps({**circumstances(index), "measured": rows}, indent=1) + "\n")
