"""``python -m tests.ptx.cuda_calls`` fails where a kernel ran too few of its instructions."""

from __future__ import annotations

import numpy as np

from tests.ptx import cuda_calls
from tests.ptx.parser import parse

BODY = "{\n" + " mov.b32 %r1, 0;\n" * 19 + " ret;\n}\n"
KERNELS = parse("".join(f".visible .entry {name}()\n{BODY}" for name in ("most", "few", "never")))


def test_a_kernel_that_hardly_runs_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(cuda_calls, "TIERS", ("exact",))
    monkeypatch.setattr(cuda_calls, "kernels", {"exact": KERNELS}.get)
    ran = np.arange(20)
    covered = {("exact", "most"): ran != 7, ("exact", "few"): ran < 18}
    assert cuda_calls.report(covered, "few") == 2
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "exact few 18 of 20 instructions ran (90.0%) TOO FEW",
        "18 mov.b32 %r1, 0",
        "19 ret",
        "exact most 19 of 20 instructions ran (95.0%)",
        "exact never 0 of 20 instructions ran (0.0%) TOO FEW",
    ]
