"""Uses an installed wheel: the package lies in site-packages, and its kernels run and are right.

    python installed.py [FILE]

FILE keeps a digest of every result. The first run writes it, and later runs, under other versions
of Python and torch, must give the same bits.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jca_fast.kernels import cpu
from torch import Tensor

import jca_fast
from jca_fast.functional import joint_coattention, tanh_attention
from jca_fast.ops.released_attention import released_attention


def numbers(*shape: int) -> Tensor:
    """Numbers that no version of torch changes."""
    count = int(np.prod(shape))
    bits = (np.arange(1, count + 1, dtype=np.uint64) * 2654435761) % 2**32
    values = torch.from_numpy(bits.astype(np.float64)).view(shape) / 2**31 - 1
    return values.float().requires_grad_()


def results() -> Iterator[Tensor]:
    """Outputs and gradients of the ops, with sizes that no vector divides."""
    q, k, v = numbers(2, 70, 10), numbers(2, 45, 10), numbers(2, 45, 6)
    rows = [numbers(2, 7, 70), numbers(2, 7, 45)]
    weights = [[numbers(*s) for _ in rows] for s in ((7, 7), (9, 7), (9, 115), (9, 7))]
    for seed in (None, torch.tensor(5)):
        dropout = {"dropout_p": 0.3 if seed is not None else 0.0, "seed": seed, "backend": "cpu"}
        outputs = [
            tanh_attention(q, k, v, 0.3, **dropout),
            released_attention(rows[0], rows[1], rows[1], 0.05, **dropout),
            *joint_coattention(rows, *weights, **dropout),
        ]
        leaves = [q, k, v, *rows, *(w for group in weights for w in group)]
        yield from (output.detach() for output in outputs)
        yield from torch.autograd.grad([output.square().sum() for output in outputs], leaves)


def digest() -> str:
    """One line for all results."""
    found = hashlib.sha256()
    for result in results():
        found.update(result.contiguous().numpy().tobytes())
    return found.hexdigest()


def main() -> None:
    """Check everything; an assertion says what does not hold."""
    assert "site-packages" in jca_fast.__file__, jca_fast.__file__
    assert not cpu.problem(), cpu.problem()
    q, k, v = numbers(2, 70, 10), numbers(2, 45, 10), numbers(2, 45, 6)
    ours = tanh_attention(q, k, v, 0.3, backend="cpu")
    torch.testing.assert_close(ours, torch.tanh(q @ k.mT * 0.3) @ v)
    line = f"{cpu.describe()} {digest()}"
    print("kernels:", line)
    if kept := [Path(name) for name in sys.argv[1:]]:
        if not kept[0].exists():
            kept[0].write_text(line)
        assert kept[0].read_text() == line, f"other bits than those in {kept[0]}"


if __name__ == "__main__":
    main()
