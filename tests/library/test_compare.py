"""`flashlab bench --compare`: silent regressions are named, and noise is not."""

import copy
import json
from pathlib import Path

import pytest
import typer
from rich.console import Console

from flashlab import cli
from flashlab.bench import compare, report

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "nvidia-h200.json"


@pytest.fixture
def records():
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    return record, copy.deepcopy(record)


def test_the_committed_record_can_be_compared_with(records):
    assert compare.read(RECORD) == records[0]
    decode = sum(name.startswith("flashlab") for row in records[0]["decode"] for name in row["ms"])
    others = len(records[0]["speed"]) * 2 + 2 * 10 * 2 + 2 * 2 + 7  # speed, features, documents, memory
    assert len(compare.costs(records[0])) == decode + others
    assert compare.worse(*records) == []


def test_the_committed_record_becomes_tables(records):
    record = records[0]
    rows = [table.row_count for table in report.tables(record)]
    assert rows == [len(record["speed"]), 22, len(record["decode"]), len(record["ladder"]), 2]


def test_a_slower_case_is_named(records):
    before, now = records
    now["speed"][7]["peers"]["flashlab"]["backward"]["median"] *= 1.3
    now["documents"][0]["flashlab_forward_ms"] *= 1.1
    found = compare.worse(before, now)
    row = now["speed"][7]
    assert [x.case for x in found] == [
        f"speed, S={row['seqlen']}, D={row['head_dim']}, causal, bfloat16, backward",
        "documents, D=64, forward",
    ]
    assert str(found[0]).endswith("backward: × 1.30, and × 1.30 beside its peer")


def test_a_gpu_that_is_slower_at_everything_is_no_regression(records):
    before, now = records
    for row in now["speed"]:
        for name in ("flashlab", compare.YARDSTICK):
            for way in ("forward", "backward"):
                row["peers"][name][way]["median"] *= 1.2
    assert compare.worse(before, now) == []


def test_a_peer_that_got_faster_is_no_regression_either(records):
    before, now = records
    now["speed"][0]["peers"][compare.YARDSTICK]["forward"]["median"] /= 2
    assert compare.worse(before, now) == []


def test_within_the_band_is_noise_and_the_band_is_the_users(records):
    before, now = records
    now["features"][1]["forward_ms"] *= 1.04
    assert compare.worse(before, now) == []
    assert [x.case for x in compare.worse(before, now, band=0.03)] == [f"{now['features'][1]['feature']}, D=64, forward"]


def test_one_more_byte_is_reported(records):
    before, now = records
    now["memory"][2]["flashlab"] += 512
    assert [x.case for x in compare.worse(before, now)] == ["memory, S=4096"]


def test_other_machines_and_missing_cases_are_refused(records):
    before, now = records
    now["speed"].pop()
    with pytest.raises(ValueError, match="2 cases of the earlier record were not measured now: speed, S=16384"):
        compare.worse(before, now)
    now["machine"]["device"] = "Another"
    with pytest.raises(ValueError, match="was made on NVIDIA H200, and this machine has Another: compare runs of one machine"):
        compare.worse(before, now)


@pytest.mark.parametrize(
    ("text", "message"), [(None, "cannot read"), ("{", "is no record"), ("{}", "is no record"), ("[]", "is no record")]
)
def test_what_is_no_record_is_refused(tmp_path, text, message):
    path = tmp_path / "record.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        compare.read(path)


def test_the_command_leaves_with_1_only_when_something_got_worse(records):
    before, now = records
    console = Console(record=True, width=200)
    cli._judge(before, now, 0.05, console)
    now["speed"][0]["peers"]["flashlab"]["forward"]["median"] *= 2
    with pytest.raises(typer.Exit) as left:
        cli._judge(before, now, 0.05, console)
    text = console.export_text()
    assert left.value.exit_code == 1 and "no case got worse than" in text and "1 case got worse than" in text and "× 2.00" in text
