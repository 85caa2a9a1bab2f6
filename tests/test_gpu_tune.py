"""The tuning command: its candidate tiles, its choice, and its file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from benchmarks.audit import limits
from benchmarks.gpu import timing, tune

NARROW, WIDE = ("forward", "half", "narrow"), ("forward", "half", "wide")


@pytest.fixture
def entries(monkeypatch):
    """A table of two entries in place of the real one."""
    table = {NARROW: {"": (128, 64, 4, 2), "sm90": (64, 64, 4, 1)}, WIDE: {"": (64, 32, 4, 2)}}
    monkeypatch.setattr(tune, "ENTRIES", table)
    return table


def test_the_file_it_writes_is_the_table(entries):
    entries[WIDE] |= {"sm90": (32, 32, 4, 1), "sm80": (64, 32, 4, 2)}
    found: dict = {}
    exec(compile(tune.render(entries), "configurations.py", "exec"), found)
    assert found["ENTRIES"] == {
        NARROW: entries[NARROW],
        WIDE: {"": (64, 32, 4, 2), "sm90": (32, 32, 4, 1)},
    }


def test_writing_the_present_table_changes_nothing():
    from jca_fast.kernels.triton import configurations

    assert tune.render(configurations.ENTRIES) == Path(configurations.__file__).read_text()


@pytest.mark.parametrize(
    ("costs", "best"),
    [
        ({(64, 64, 4, 1): 10.0, (128, 64, 4, 2): 5.0}, (128, 64, 4, 2)),
        ({(64, 64, 4, 1): 10.0, (128, 64, 4, 2): 9.9}, (64, 64, 4, 1)),  # as good as: stays
        ({(128, 64, 4, 2): 9.9}, (128, 64, 4, 2)),  # the present one breaks a limit
        ({}, (64, 64, 4, 1)),
    ],
)
def test_keeps_the_present_tile_unless_another_is_clearly_faster(costs, best, capsys):
    assert tune.chosen(NARROW, (64, 64, 4, 1), costs) == best
    assert str(best) in capsys.readouterr().out


def test_the_model_prefers_less_work_and_more_programs():
    case = tune.cases_of(NARROW)[0]

    def cost(tile: str, programs: int, per_element: float) -> float:
        row = limits.Row(90, case.name, "layer", tile, 128, 16384, 0, 1000, per_element, 1.0, ())
        return tune.modelled(NARROW, [((programs, 1), row)], 90)

    assert cost("128x64x32 w4", 1024, 3.0) < cost("128x64x32 w4", 1024, 9.0)
    assert cost("32x64x32 w4", 64, 3.0) < cost("32x64x32 w4", 16, 3.0)


def test_times_every_case_of_an_entry_with_every_tile(entries, monkeypatch):
    """On a simulated device a capture records the tile; its cost is the sum over the cases."""
    cases = [
        SimpleNamespace(precision="exact", start=lambda device: entries[NARROW]["sm90"][0])
    ] * 2
    monkeypatch.setattr(tune, "cases_of", lambda key: cases)
    monkeypatch.setattr(tune, "device_capability", lambda: 90)
    monkeypatch.setattr(timing, "replayed", lambda call: call())
    monkeypatch.setattr(
        timing, "on_device", lambda calls: {tile: {"median": rows} for tile, rows in calls.items()}
    )
    assert tune.timed(NARROW, [(16, 32, 4, 1), (64, 32, 4, 1)]) == {
        (16, 32, 4, 1): 32,
        (64, 32, 4, 1): 128,
    }


def test_ranks_compiled_tiles_without_a_gpu_and_writes_the_winner(tmp_path):
    """A tile that spills is rejected although it does the least work."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu.tune",
        "--arch",
        "80",
        "--entries",
        "forward/half/blocked",
    ]
    command += [
        "--tiles",
        "64x32x8x1,128x128x4x1",
        "--jobs",
        "1",
        "--table",
        str(tmp_path / "table.py"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(128, 128, 4, 1)" not in done.stdout
    assert "(64, 32, 8, 1)" in done.stdout
    assert "ENTRIES" in (tmp_path / "table.py").read_text()


def test_refuses_unknown_entries_and_tiles(capsys):
    with pytest.raises(SystemExit, match="is in none of: backward/exact/blocked"):
        tune.main(["--arch", "90", "--entries", "sideways"])
    with pytest.raises(SystemExit):
        tune.main(["--arch", "90", "--tiles", "64x32"])
    assert "a tile has four numbers" in capsys.readouterr().err
