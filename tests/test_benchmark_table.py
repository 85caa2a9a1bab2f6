"""The table at the end of a benchmark run, and the detection of a disturbed machine."""

from __future__ import annotations

import os

from benchmarks.table import Row, merged, render, spreads
from jca_fast.bench.pairs import disturbances, summarise

ROUNDS = {"eager": [4.0, 6.0, 8.0], "compile": [2.0, 2.0, 2.0], "jca_fast": [2.0, 2.0, 2.0]}
QUIET = {"eager": [4.0, 4.0, 4.1], "jca_fast": [2.0, 2.0, 2.0]}


def test_a_ratio_is_the_median_over_rounds_with_its_percentiles():
    assert summarise(ROUNDS)["eager"] == {"ms": 6000.0, "ratio": 3.0, "low": 2.0, "high": 4.0}


def test_time_and_memory_of_one_case_share_a_line():
    rows = [
        Row("layer", "64x10", peak_mib={"eager": 549.2, "jca_fast": 6.1}),
        Row("layer", "64x10", summarise(ROUNDS), limit=0.5),
        Row("layer", "1x10", summarise(ROUNDS)),
    ]
    assert [row.shape for row in merged(rows)] == ["64x10", "1x10"]
    line = render(rows)[2]
    assert " ".join(line.split()) == "layer 64x10 2000 6000 2000 3.00 (2.00-4.00) 6/549 50 %"


def test_the_widest_row_fits_100_columns():
    providers = {name: [123.4, 99.0, 99.9] for name in ("eager", "compile", "loop")}
    slow = summarise({**providers, "jca_fast": [1.0, 1.0, 1.0]})
    row = Row(
        "released fwd+bwd, malloc", "64x10 512+512 k32", slow, {"eager": 5490, "jca_fast": 46}, 1.0
    )
    assert max(map(len, render([row]))) <= 100


def test_a_quiet_run_is_believed():
    assert (
        disturbances(spreads([Row("layer", "", summarise(QUIET))]), [1e9, 1.01e9], load=0.1) == []
    )


def test_load_spread_and_a_changing_clock_are_reported():
    quiet, noisy = Row("layer", "", summarise(QUIET)), Row("layer", "", summarise(ROUNDS))
    assert (
        "load average"
        in disturbances(spreads([quiet]), [1e9, 1e9], load=3.0 * (os.cpu_count() or 1))[0]
    )
    assert "vary by a factor of 2.00" in disturbances(spreads([noisy]), [1e9, 1e9], load=0.0)[0]
    assert "multiply-add rate" in disturbances(spreads([quiet]), [1e9, 0.7e9], load=0.0)[0]
