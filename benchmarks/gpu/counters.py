"""Hardware counters of one forward and backward in each tier, if Nsight Compute may read them.

``python -m benchmarks.gpu.counters`` is the profiled program. Without the tool, or its
permission, the record says "not available" and why; that alone fails no run.
"""

from __future__ import annotations

import csv
import re
import shutil
from typing import Any

from benchmarks.gpu.bars import ABSENT
from benchmarks.gpu.checks import kernel_names
from benchmarks.gpu.processes import Site

METRICS = (
    "gpu__time_duration.sum",
    "sm__inst_executed_pipe_xu.sum",
    "lts__t_bytes.sum",
    "dram__bytes.sum",
    "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "l1tex__t_requests_pipe_lsu_mem_local_op_ld.sum",
    "l1tex__t_requests_pipe_lsu_mem_local_op_st.sum",
)
TIERS = ("exact", "tf32", "bfloat16")


def read(site: Site) -> dict[str, Any]:
    """The counters of every launch, at the unchanged clocks of the card."""
    if site.dry:
        return {"failures": [], "note": "dry run: not run"}
    program = shutil.which("ncu")
    if program is None:
        return {"failures": [], "not available": "ncu is not on the PATH"}
    names = f"regex:^({'|'.join(kernel_names())})$"
    options = [
        "--clock-control",
        "none",
        "--csv",
        "--metrics",
        ",".join(METRICS),
        "--kernel-name",
        names,
    ]
    code, output = site.run(
        "counters", [program, *options, *site.module("benchmarks.gpu.counters")]
    )
    found = parse(output)
    if code != 0 or not found:
        why = re.findall(rf"^(?:==ERROR==|{ABSENT}).*$", output, re.MULTILINE) or [
            f"exit status {code}"
        ]
        return {"failures": [], "not available": why[0]}
    return {"failures": [], "launches": found}


def parse(output: str) -> list[dict[str, Any]]:
    """The launches in a CSV with one metric per line, each with its tier. The program prints the
    number of launches per tier.
    """
    tiers = [
        t
        for t, n in re.findall(r"^launches (\w+) (\d+)$", output, re.MULTILINE)
        for _ in range(int(n))
    ]
    lines = output.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    found: dict[str, dict[str, Any]] = {}
    for row in csv.DictReader(line for line in lines[start:] if line.startswith('"')):
        launch = found.setdefault(row["ID"], {"kernel": row["Kernel Name"]})
        launch[row["Metric Name"]] = f"{row['Metric Value']} {row['Metric Unit']}".strip()
    return [{"tier": tier, **launch} for tier, launch in zip(tiers, found.values(), strict=False)]


def main() -> int:
    """Start each kernel of a layer once in each tier."""
    from benchmarks.gpu import floors, store, subjects
    from benchmarks.gpu.measure import precision_dtype
    from jca_fast.ops.tiers import precision

    for tier in TIERS:
        with precision(tier):
            data = subjects.layers(64, precision_dtype(tier), "cuda", 1, False)
            call = subjects.with_backward(subjects.fused, data)
            print(
                f"launches {tier} {len(floors.launches(call, store.architecture(False)))}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
