"""Two records of one machine: which cases got slower, or take more memory, than noise explains.

A GPU that is warm or shared is slower at everything. So a case counts as slower only where the peer that ran beside it did not slow down as
much: its time, and its time over the peer's, must both have grown beyond the band. Bytes do not vary: any more than before is reported.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

YARDSTICK = "FlashAttention-2 in torch"  # the peer that every GPU with tensor cores has
BAND = 0.05  # of noise, in runs of one machine minutes or days apart


class Cost(NamedTuple):
    """What a case costs (less is better), and what its peer cost in the same run."""

    ours: float
    peer: float | None


@dataclass(frozen=True)
class Worse:
    """A case that got worse; the factors are above 1."""

    case: str
    factor: float  # of its time or bytes
    beside_peer: float | None  # of its time over the peer's

    def __str__(self):
        beside = "" if self.beside_peer is None else f", and × {self.beside_peer:.2f} beside its peer"
        return f"{self.case}: × {self.factor:.2f}{beside}"


def read(path):
    """A record that `flashlab bench` wrote.

    Raises:
        ValueError: there is no such file, or it is no record.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        costs(record)
        return record
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no record of `flashlab bench`, or of another version of it: {error!r}") from error


def costs(record):
    """{case: Cost} of all that a record holds."""
    found = {}
    for row in record["speed"]:
        ours, theirs = row["peers"]["flashlab"], row["peers"].get(YARDSTICK, {})
        for way in ("forward", "backward"):
            case = f"speed, S={row['seqlen']}, D={row['head_dim']}, {row['kind']}, {row['dtype']}, {way}"
            found[case] = Cost(ours[way]["median"], theirs[way]["median"] if way in theirs else None)
    plain = {row["head_dim"]: row for row in record["features"] if row["feature"] == "plain"}
    for row in record["features"]:
        if row["feature"] == "plain":  # the yardstick of the others; its own speed is in the rows above
            continue
        for way in ("forward", "backward"):
            found[f"{row['feature']}, D={row['head_dim']}, {way}"] = Cost(row[f"{way}_ms"], plain[row["head_dim"]][f"{way}_ms"])
    for row in record["documents"]:
        for way in ("forward", "backward"):
            found[f"{row['feature']}, D={row['head_dim']}, {way}"] = Cost(row[f"flashlab_{way}_ms"], row[f"flex_{way}_ms"])
    for row in record.get("decode", ()):  # records of before had none
        for name in (name for name in row["ms"] if name.startswith("flashlab")):
            found[f"decode, {row['batch']} × {row['capacity']}, {name}"] = Cost(row["ms"][name], row["ms"].get(YARDSTICK))
    for row in record["memory"]:
        found[f"memory, S={row['seqlen']}"] = Cost(row["flashlab"], None)
    return found


def worse(before, now, band=BAND):
    """Cases of two records that got worse, the worst first.

    Raises:
        ValueError: the records are of different devices, or a case of the earlier one is missing in the later one.
    """
    devices = before["machine"]["device"], now["machine"]["device"]
    if devices[0] != devices[1]:
        raise ValueError(
            f"the record to compare with was made on {devices[0]}, and this machine has {devices[1]}: compare runs of one machine"
        )
    return worse_costs(costs(before), costs(now), band)


def worse_costs(earlier, later, band=BAND):
    """The same of two {case: Cost}."""
    missing = sorted(earlier.keys() - later.keys())
    if missing:
        raise ValueError(f"{len(missing)} cases of the earlier record were not measured now: {'; '.join(missing[:3])}, …")
    found = []
    for case, was in earlier.items():
        factor = later[case].ours / was.ours
        if was.peer is None or later[case].peer is None:
            if factor > (1 if case.startswith("memory") else 1 + band):
                found.append(Worse(case, factor, None))
            continue
        beside_peer = factor / (later[case].peer / was.peer)
        if min(factor, beside_peer) > 1 + band:
            found.append(Worse(case, factor, beside_peer))
    return sorted(found, key=lambda x: -x.factor)
