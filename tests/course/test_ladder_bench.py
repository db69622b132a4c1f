"""The ladder's benchmark, small and on a CPU."""

import pytest

pytest.importorskip("triton")

from flashlab.course import ladder  # noqa: E402
from flashlab.course.steps import RUNGS, fast_forward  # noqa: E402


def test_every_rung_is_measured_on_the_same_problem():
    rows = ladder.measure("cpu", heads=2, seqlen=64, head_dim=16)
    assert [row["rung"] for row in rows] == [*RUNGS, "flashlab"]
    by_rung = {row["rung"]: row for row in rows}
    for row in rows:
        assert row["forward_ms"] > 0 and row["forward_peak_bytes"] > 0
        assert (row["backward_ms"] is None) == (row["backward_peak_bytes"] is None) == row["rung"].endswith("_forward")
    # Two tiles of 32 rows: Q and out once, K and V twice, in 16 bits; lse in 32.
    assert by_rung["triton_forward"]["bytes_moved"] == 2 * ((2 + 2 * 2) * 64 * 16 * 2 + 4 * 64)
    assert by_rung["tiled"]["bytes_moved"] < by_rung["naive"]["bytes_moved"]
    assert by_rung["online"]["bytes_moved"] is None


def test_each_change_is_measured_with_those_before_it_and_without_each():
    rows = ladder.measure_changes(16, True, "cpu", tokens=64, width=16, seqlen=64)
    assert [row["change"] for row in rows if row["how"] == "with"] == ["lesson 07", *fast_forward.CHANGES]
    assert {row["change"] for row in rows if row["how"] == "without"} == set(fast_forward.CHANGES) - {"descriptors"}
    assert rows[-1]["change"] == "flashlab" and all(row["forward_ms"] > 0 for row in rows)
