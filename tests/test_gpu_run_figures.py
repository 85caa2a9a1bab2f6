"""The results of the GPU measurement script: verdicts, ratios, floors, and the table of trusted
devices.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.gpu import bars, counters, plan, run, store, timing, trusted
from benchmarks.gpu.bars import BARS, IMPOSSIBLE, MISSES, Bar, verdict


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (36, MISSES),
        (35, "good"),
        (25.1, "good"),
        (25, "excellent"),
        (20, "excellent"),
        (19.9, IMPOSSIBLE),
    ],
)
def test_verdict_on_a_time(value, words):
    assert verdict(value, Bar(35, 25, 20)) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (4.9, MISSES),
        (5, "good"),
        (7.9, "good"),
        (8, "excellent"),
        (12, "excellent"),
        (12.1, IMPOSSIBLE),
    ],
)
def test_verdict_on_a_ratio(value, words):
    assert verdict(value, Bar(5, 8, 12)) == words


def test_every_bar_has_a_measured_case_and_the_plan_fits():
    assert sum(plan.BUDGETS.values()) <= plan.LIMIT == 480
    options = plan.Options()
    layers, visual = plan.rows("layers", options), plan.rows("visual", options)
    sizes = {(row.tier, row.layers, row.batch) for row in layers}
    assert {
        (t, n, b) for t in ("exact", "tf32", "bfloat16") for n in (1, 4) for b in (1, 8, 64, 256)
    } <= sizes
    assert all(
        set(row.modes) == set(plan.MODES)
        for row in layers
        if row.batch == 64 and row.tier != "float16"
    )
    assert {(row.tier, row.batch) for row in visual} == {
        (t, s) for t in ("exact", "bfloat16") for s in (640, 10240)
    }
    assert [row.batch == 64 for row in layers] == sorted(
        (row.batch == 64 for row in layers), reverse=True
    )


def test_figures_come_from_the_rows_they_are_named_after():
    times = {
        "fused": {"median": 30.0},
        "eager": {"ratio": {"median": 6.0}},
        "default": {"ratio": {"median": 3.0}},
    }
    row = {
        "tier": "bfloat16",
        "layers": 1,
        "batch": 64,
        "modes": ["default"],
        "forward": {"graph": times},
        "forward+backward": {"graph": times},
        "backward": {"fused": {"median": 50.0}},
        "memory": {"fused": {"kept": 10}, "eager": {"kept": 200}},
    }
    found = bars.figures({"layers": {"rows": [row, {**row, "failed": "it broke"}]}})
    assert {key: value for key, value in found.items() if key[1] == "bfloat16"} == {
        ("layer forward us", "bfloat16"): 30.0,
        ("layer backward us", "bfloat16"): 50.0,
        ("forward+backward, x eager", "bfloat16"): 6.0,
        ("forward+backward, x best compiled", "bfloat16"): 3.0,
        ("activations, x less than eager", "bfloat16"): 20.0,
    }
    words = {(row["figure"], row["tier"]): row["verdict"] for row in bars.verdicts({})}
    assert set(words.values()) == {"not measured"}
    assert len(words) == sum(len(tiers) for tiers in BARS.values())


def test_ratios_are_medians_over_rounds():
    found = timing.summarise({"ours": [1.0, 2.0, 100.0], "theirs": [3.0, 4.0, 100.0]})
    assert found["theirs"]["ratio"]["median"] == 2.0
    assert found["ours"]["median"] == 2.0


def test_rounds_interleave_and_a_slow_first_call_costs_no_samples(monkeypatch):
    monkeypatch.setattr(timing, "DRY", False)
    order = []

    def sample(call):
        order.append(call)
        time.sleep(0.2 if len(order) < 3 else 0)
        return 1.0

    found = timing._compare({"ours": "a", "theirs": "b"}, sample, 0.08)
    assert found["ours"]["samples"] == 200
    assert order == ["a", "b"] * 204


def recorded(**changes):
    names = ("tests 1", "verify triton exact", "verify triton tf32")
    phases = {"checks": {"checks": {name: {"passed": True} for name in names}}}
    return {
        "passed": True,
        "complete": True,
        "dry run": False,
        "machine": {"architecture": "sm90"},
        "phases": phases,
        **changes,
    }


def test_write_table_takes_whole_runs_that_passed(tmp_path, monkeypatch, capsys):
    target = tmp_path / "verified.py"
    target.write_text((store.ROOT / "jca_fast" / "ops" / "backends" / "verified.py").read_text())
    monkeypatch.setattr(trusted, "TARGET", target)
    for i, change in enumerate(({"passed": False}, {"complete": False}, {"dry run": True})):
        store.write(tmp_path / f"gpu_{i}.json", recorded(**change))
    assert run.main(["--write-table", "--out", str(tmp_path)]) == 0
    assert table(target) == frozenset()
    store.write(tmp_path / "gpu_whole.json", recorded())
    for _ in range(2):  # also over a table that has rows
        assert run.main(["--write-table", "--out", str(tmp_path)]) == 0
        assert table(target) == {("triton", "sm90", "exact"), ("triton", "sm90", "tf32")}
    assert "2 rows" in capsys.readouterr().out
    assert target.read_text().startswith('"""The devices on which GPU kernels are known')


def timed(backend: str, time: str, device: str = "one", **microseconds: float) -> dict:
    """A record of a run with the times of layers at B = 1 and 64, and of the visual reduction."""

    def row(batch: int, us: float, **way: dict) -> dict:
        return {"tier": "exact", "layers": 1, "batch": batch, "forward": {}, **way}

    def times(us: float) -> dict:
        return {"fused": {"median": us}, "eager": {"median": 1.0}}

    layers = [
        row(batch, 1, **{"forward+backward": {"graph": times(1), "eager": times(us)}})
        for batch, us in ((64, microseconds["large"]), (1, microseconds["small"]))
    ]
    visual = {"forward": {"graph": times(9)}, "forward+backward": {"graph": times(5)}}
    phases = {"layers": {"rows": layers}, "visual": {"rows": [row(640, 1, **visual)]}}
    machine = {"architecture": "sm90", "device": device, "time": time}
    return recorded(backend=backend, complete=False, machine=machine, phases=phases)


def test_write_table_takes_the_fastest_of_several_backends_by_size(tmp_path, monkeypatch):
    """Launched one by one where that was measured. One backend alone, another device, a failed case
    and a dry run compare nothing; a later record replaces an earlier one.
    """
    target = tmp_path / "verified.py"
    target.write_text((store.ROOT / "jca_fast" / "ops" / "backends" / "verified.py").read_text())
    monkeypatch.setattr(trusted, "TARGET", target)
    dry = {"dry run": True}
    records = [
        timed("cuda", "1", small=1, large=1),
        timed("cuda", "2", small=10, large=300),
        timed("triton", "1", device="another", small=1, large=1),
        timed("triton", "3", small=1, large=1) | dry,
    ]
    for i, record in enumerate(records):
        store.write(tmp_path / f"gpu_{i}.json", record)
    assert trusted.write_table(tmp_path) == 0
    assert table(target, "FASTEST") == {}
    store.write(tmp_path / "gpu_4.json", timed("triton", "4", small=80, large=200))
    for _ in range(2):
        assert trusted.write_table(tmp_path) == 0
        assert table(target, "FASTEST") == {
            ("joint_coattention", "sm90", "exact"): ((5120, "cuda"), (64 * 5120, "triton")),
            ("visual_reduction", "sm90", "exact"): ((640 * 512, "cuda"),),
        }
    assert table(target) == frozenset()


def table(path: Path, name: str = "VERIFIED"):
    scope: dict = {}
    exec(path.read_text(), scope)
    return scope[name]


def test_counters_of_each_launch():
    output = (
        "launches exact 2\nlaunches tf32 1\n==PROF== done\n"
        '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'
        '"0","joint_coattention_forward_kernel","dram__bytes.sum","Mbyte","1.5"\n"0","joint_coattention_forward_kernel","lts__t_bytes.sum","Mbyte","2"\n'
        '"1","sum_kernel","dram__bytes.sum","Mbyte","3"\n"2","joint_coattention_forward_kernel","dram__bytes.sum","Mbyte","4"\n'
    )
    assert counters.parse(output) == [
        {
            "tier": "exact",
            "kernel": "joint_coattention_forward_kernel",
            "dram__bytes.sum": "1.5 Mbyte",
            "lts__t_bytes.sum": "2 Mbyte",
        },
        {"tier": "exact", "kernel": "sum_kernel", "dram__bytes.sum": "3 Mbyte"},
        {
            "tier": "tf32",
            "kernel": "joint_coattention_forward_kernel",
            "dram__bytes.sum": "4 Mbyte",
        },
    ]
    assert counters.parse("no table") == []


def test_floors_of_the_paper_s_layer():
    pytest.importorskip("triton", reason="triton is not installed")
    from benchmarks.gpu.floors import Launch, Sizes, floor, work

    sizes = Sizes(batch=64, channels=1024, segments=10, width=32)
    elements = 64 * 1024 * 1024  # both modalities: 2 x 512 rows of 1024 columns in each sample
    assert work(Launch("joint_coattention_forward_kernel", {}, 0), sizes) == (
        elements,
        2 * 42 * elements,
    )
    assert (
        work(
            Launch("tanh_attention_backward_kernel", {"WANT_DQ": True, "WANT_DV": True}, 0), sizes
        )[1]
        == 2 * 94 * elements
    )
    passes = [
        {"WANT_DQ": False, "WANT_DV": True},
        {"WANT_DQ": False, "WANT_DV": False},
    ]  # the exact tier's two
    assert [
        work(Launch("tanh_attention_backward_kernel", m, 0), sizes)[1] // (2 * elements)
        for m in passes
    ] == [
        84,
        52,
    ]
    assert work(Launch("sum_kernel", {}, 0), sizes) == (0, 0)
    rates = {"tanh": 132 * 16 * 1.755e9, "bfloat16": 790e12, "tf32": 395e12, "copy": 4.3e12}
    needs = floor(
        Launch("joint_coattention_forward_kernel", {}, 13_900_000), sizes, "bfloat16", rates
    )
    assert needs["mufu"] == pytest.approx(18.1, rel=1e-2)
    assert needs["matrix"] == pytest.approx(7.1, rel=1e-2)
    assert needs["memory"] == pytest.approx(3.2, rel=2e-2)
    exact = floor(Launch("joint_coattention_forward_kernel", {}, 0), sizes, "exact", rates)
    assert exact["matrix"] == pytest.approx(6 * needs["matrix"])
