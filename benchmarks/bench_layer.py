"""One whole layer, both modalities with all their Linears and the residual, in both forms.

Half of plain PyTorch's time at these sizes is page faults: glibc gives every 134 MB temporary back to the system at
once. So the headline stands beside the same comparison with an allocator that keeps its memory.
"""

from __future__ import annotations

import pytest

from benchmarks.layers import STANDARD, providers
from benchmarks.pairs import in_process

TUNED = {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}
MODES = ("forward", "backward")  # "backward" is forward and backward
QUICK = (8, *STANDARD[1:])
SMALL = (64, 8, 128, 128, 32)
SINGLE = (1, 10, 512, 512, 32)


def name(shape):
    return ",".join(map(str, shape))


def report_process(benchmark, report, result):
    """Give the times of another process to the benchmark's own table."""
    benchmark.pedantic(lambda: None, rounds=1)
    text = "  ".join(f"{key} {r['ms']:.3g} ms ({r['ratio']:.2f}x)" for key, r in result.items())
    report(text, providers=result)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["paper", "released"])
def test_layer(paired, quick, form, mode):
    paired(
        providers(form, QUICK if quick else STANDARD, 0.0, mode == "backward", compiled=not quick)
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["paper", "released"])
def test_layer_tuned_allocator(benchmark, report, quick, form, mode):
    if quick and (form, mode) != ("paper", "forward"):
        pytest.skip("one process is enough for a smoke run")
    compiled = ("3", "plain") if quick else ("10", "compiled")
    report_process(
        benchmark,
        report,
        in_process(
            "benchmarks.layers",
            form,
            name(QUICK if quick else STANDARD),
            "0",
            mode,
            *compiled,
            **TUNED,
        ),
    )


@pytest.mark.parametrize("mode", MODES)
def test_released_layer_with_dropout(paired, quick, mode):
    """The published training recipe: 0.3 on C and on the update. Masks differ, so there is no parity to check."""
    paired(
        providers(
            "released", QUICK if quick else STANDARD, 0.3, mode == "backward", compiled=False
        ),
        parity=False,
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [SMALL, SINGLE], ids=["n8_128_128", "batch_1"])
def test_small_layer_against_the_loop(paired, quick, shape, mode):
    paired(providers("paper", shape, 0.0, mode == "backward", compiled=not quick, loop=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["paper", "released"])
def test_layer_on_avx2(benchmark, report, quick, form, mode):
    if quick and (form, mode) != ("paper", "forward"):
        pytest.skip("one process is enough for a smoke run")
    rounds = "3" if quick else "10"
    result = in_process(
        "benchmarks.layers",
        form,
        name(QUICK if quick else STANDARD),
        "0",
        mode,
        rounds,
        "plain",
        JCA_FAST_ISA="v3",
    )
    report_process(benchmark, report, result)
