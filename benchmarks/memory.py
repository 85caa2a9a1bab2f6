"""Growth of the peak resident memory of one layer, forward and backward, in a process of its own.

python -m benchmarks.memory paper eager|jca_fast      prints {"mib": ...}
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from benchmarks.layers import STANDARD, providers


def peak() -> float:
    """MiB. Not getrusage: a child starts with the peak of the parent that forked it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(form: str, provider: str) -> None:
    torch.set_num_threads(2)
    warm = providers(form, (2, *STANDARD[1:]), 0.0, True, compiled=False)  # loads every library before the measurement
    for run in warm.values():
        run()
    measured = providers(form, STANDARD, 0.0, True, compiled=False)
    before = peak()
    measured[provider]()
    print(json.dumps({"mib": round(peak() - before, 1)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
