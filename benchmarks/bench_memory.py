"""Peak memory of one layer, forward and backward, beyond its inputs; each provider in a separate
process.
"""

from __future__ import annotations

import pytest

from benchmarks import memory
from benchmarks.table import Row
from jca_fast.bench.layers import STANDARD, title


@pytest.mark.parametrize("form", ["paper", "released"])
def test_peak_memory(replayed, quick, form):
    if quick and form == "released":
        pytest.skip("one form is enough for a smoke run")
    peaks, duration = memory.compare(form, ("eager", "jca_fast"))
    replayed(Row(f"{form} layer, fwd+bwd", title(STANDARD), peak_mib=peaks), duration)
