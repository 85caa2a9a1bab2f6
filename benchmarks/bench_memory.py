"""Peak memory of one layer, forward and backward, over its inputs; each provider in a process of its own."""

from __future__ import annotations

import pytest

from benchmarks.pairs import in_process


@pytest.mark.parametrize("form", ["paper", "released"])
def test_peak_memory(benchmark, report, quick, form):
    if quick and form == "released":
        pytest.skip("one form is enough for a smoke run")
    peaks = {
        name: in_process("benchmarks.memory", form, name)["mib"] for name in ("eager", "jca_fast")
    }
    benchmark.pedantic(lambda: None, rounds=1)
    report("  ".join(f"{name} {mib} MiB" for name, mib in peaks.items()), peak_mib=peaks)
