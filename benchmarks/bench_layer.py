"""One whole layer in both forms: both modalities, all Linears and the residual.

At these sizes half of plain PyTorch's time is page faults, because glibc returns every 134 MB
temporary to the system. The comparison therefore also runs with an allocator that keeps its memory.
"""

from __future__ import annotations

import pytest

from benchmarks.table import Row
from jca_fast.bench.layers import STANDARD, providers, title
from jca_fast.bench.pairs import in_process

TUNED = {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}
MODES = {"forward": "fwd", "backward": "fwd+bwd"}
QUICK = (8, *STANDARD[1:])
SMALL = (64, 8, 128, 128, 32)
SINGLE = (1, 10, 512, 512, 32)


@pytest.fixture
def elsewhere(replayed, quick):
    """Time the providers of a layer in a process with a changed environment."""

    def run(label: str, form: str, mode: str, compiled: bool, environment: dict[str, str]) -> None:
        if quick and (form, mode) != ("paper", "forward"):
            pytest.skip("one process is enough for a smoke run")
        shape = QUICK if quick else STANDARD
        rounds, kind = ("3", "plain") if quick else ("10", "compiled" if compiled else "plain")
        sizes = ",".join(map(str, shape))
        arguments = (form, sizes, "0", mode, rounds, kind)
        result = in_process("jca_fast.bench.layers", *arguments, **environment)
        row = Row(f"{form} {MODES[mode]}, {label}", title(shape), result)
        replayed(row, result["jca_fast"]["ms"] / 1e3)

    return run


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["paper", "released"])
def test_layer(paired, quick, form, mode):
    shape = QUICK if quick else STANDARD
    found = providers(form, shape, 0.0, mode == "backward", compiled=not quick)
    paired(f"{form} layer, {MODES[mode]}", title(shape), found)


@pytest.mark.full
@pytest.mark.parametrize("form", ["paper", "released"])
def test_layer_against_max_autotune(paired, quick, form):
    """torch.compile that times the candidates of every product, forward."""
    shape = QUICK if quick else STANDARD
    found = providers(form, shape, compiled=False, autotune=not quick)
    paired(f"{form} fwd, autotuned", title(shape), found)


@pytest.mark.full
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["paper", "released"])
def test_layer_tuned_allocator(elsewhere, form, mode):
    elsewhere("malloc", form, mode, True, TUNED)


@pytest.mark.parametrize("mode", MODES)
def test_released_layer_with_dropout(paired, quick, mode):
    """The published recipe: 0.3 on C and on the update. Masks differ, so there is no parity to
    check.
    """
    shape = QUICK if quick else STANDARD
    found = providers("released", shape, 0.3, mode == "backward", compiled=False)
    paired(f"released {MODES[mode]}, p 0.3", title(shape), found, parity=False)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [SMALL, SINGLE], ids=["n8_128_128", "batch_1"])
def test_small_layer_against_the_loop(paired, quick, shape, mode):
    found = providers("paper", shape, 0.0, mode == "backward", compiled=False, loop=True)
    paired(f"paper layer, {MODES[mode]}", title(shape), found)


@pytest.mark.full
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["paper", "released"])
def test_layer_on_avx2(elsewhere, form, mode):
    elsewhere("AVX2", form, mode, False, {"JCA_FAST_ISA": "v3"})
