"""Make a file of benchmarks/results from the output of pytest-benchmark: ratios and facts, no raw
times.

pytest benchmarks/ --benchmark-only --benchmark-json=raw.json
python -m benchmarks.record raw.json benchmarks/results/NAME.json "AMD EPYC, Zen 5" "the pytest
command"
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def slim(raw: dict, processor: str, command: str) -> dict:
    """Commit, time, machine, and the reported facts of every benchmark."""
    machine = raw["machine_info"]
    return {
        "commit": raw["commit_info"]["id"],
        "datetime": raw["datetime"],
        "python": machine["python_version"],
        "system": f"{machine['system']} {machine['machine']}",
        "cpu": processor,
        "command": command,
        "benchmarks": {
            benchmark["name"]: benchmark["extra_info"] for benchmark in raw["benchmarks"]
        },
    }


def main(raw: str, target: str, processor: str, command: str) -> None:
    """Write ``target``; the processor is named by hand, because /proc/cpuinfo may not say its
    generation.
    """
    facts = slim(json.loads(Path(raw).read_text()), processor, command)
    Path(target).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
