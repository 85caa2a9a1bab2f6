"""Growth of the peak memory of one layer, forward and backward, in a process that runs only it.

It prints {"mib": ...}; the last argument is eager or jca_fast:
python -m jca_fast.bench.memory paper 64,10,512,512,32 eager
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from jca_fast.bench import layers
from jca_fast.bench.pairs import Provider, peak, seconds


def growth(build: Callable[[int], dict[str, Provider]], batch: int, name: str) -> dict[str, float]:
    """{"mib", "seconds"} of one call of a provider; build makes the providers of a batch size."""
    for run in build(2).values():  # loads every library before the measurement
        run()
    measured = build(batch)
    before = peak()
    duration = seconds(measured[name])
    return {"mib": round(peak() - before, 1), "seconds": duration}


def main(form: str, shape: str, name: str) -> None:
    """Print the growth of one provider of `layers`."""
    batch, *sizes = (int(n) for n in shape.split(","))

    def build(count: int) -> dict[str, Provider]:
        return layers.providers(form, (count, *sizes), backward=True, compiled=False)

    print(json.dumps(growth(build, batch, name)))


if __name__ == "__main__":
    main(*sys.argv[1:])
