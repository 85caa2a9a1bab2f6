"""What changing one import line gives: the published modules as published against jca_fast.compat, same weights."""

from __future__ import annotations

import pytest

from benchmarks.drop_in import CASES, providers
from benchmarks.pairs import in_process

IN_MEMORY = ("cam_n8_attention", "cam_n16_attention", "cam_n8", "cam_n16", "jcam_512", "dcn_n10_512_512",
             "dcn_n16_512_512", "dcn_n300_256_128_128")  # fmt: skip
SMOKE = ("cam_n8_attention", "cam_n16", "dcn_n8_512_192", "speaker_model")


@pytest.mark.parametrize("name", CASES)
def test_drop_in(paired, quick, name):
    if quick and name not in SMOKE:
        pytest.skip("one module of each kind is enough for a smoke run")
    batch = 4 if quick else CASES[name].batch
    paired(providers(name, batch), batch=batch)


@pytest.mark.parametrize("name", IN_MEMORY)
def test_drop_in_memory(benchmark, report, quick, name):
    """Growth of the peak, forward and backward, over weights and inputs; each provider in a process of its own."""
    if quick and name != IN_MEMORY[0]:
        pytest.skip("one module is enough for a smoke run")
    peaks = {
        who: in_process("benchmarks.memory", name, who)["mib"] for who in ("published", "jca_fast")
    }
    benchmark.pedantic(lambda: None, rounds=1)
    report("  ".join(f"{who} {mib} MiB" for who, mib in peaks.items()), peak_mib=peaks)
