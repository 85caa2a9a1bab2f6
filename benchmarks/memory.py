"""Growth of the peak resident memory of one layer, forward and backward, in a separate process.

python -m benchmarks.memory paper eager        or jca_fast; prints {"mib": ..., "seconds": ...}
python -m benchmarks.memory cam_n8 published   or jca_fast; a case of benchmarks.drop_in, with
                                               dropout if it is one of a repository
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence

import torch

from benchmarks import drop_in
from jca_fast.bench import layers
from jca_fast.bench.memory import growth
from jca_fast.bench.pairs import Provider, in_process


def compare(subject: str, names: Sequence[str]) -> tuple[dict[str, float], float]:
    """The peak of each provider in MiB, each in a separate process, and the seconds of the last
    one's call.
    """
    found = {name: in_process("benchmarks.memory", subject, name) for name in names}
    return {name: result["mib"] for name, result in found.items()}, found[names[-1]]["seconds"]


def providers(subject: str, batch: int) -> dict[str, Provider]:
    if subject in drop_in.CASES:
        return drop_in.providers(subject, batch, training=subject in drop_in.TRAINED)
    return layers.providers(subject, (batch, *layers.STANDARD[1:]), 0.0, True, compiled=False)


def main(subject: str, provider: str) -> None:
    torch.set_num_threads(2)
    case = drop_in.CASES.get(subject)
    build = functools.partial(providers, subject)
    print(json.dumps(growth(build, case.batch if case else layers.STANDARD[0], provider)))


if __name__ == "__main__":
    main(*sys.argv[1:])
