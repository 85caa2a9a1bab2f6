"""Package a fusion for C++ with PyTorch's ahead-of-time compiler (it needs a C++ compiler), save
its inputs and what Python computes; after ``fuse`` has run, compare.

    python examples/cpp/package.py build      writes model.pt2, inputs.pt and expected.pt
    build/fuse build/model.pt2 build/inputs.pt build/outputs.pt
    python examples/cpp/package.py build --compare
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from jca_fast import JointCoAttention


def package(folder: Path, form: str) -> None:
    """Write the compiled model, inputs for it, and the results of Python."""
    torch.manual_seed(0)
    fusion = JointCoAttention(32, 16, num_segments=10, num_layers=2, form=form).eval()
    inputs = torch.randn(4, 10, 32), torch.randn(4, 10, 16)
    with torch.no_grad():
        program = torch.export.export(fusion, inputs)
        torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "model.pt2"))
        expected = list(fusion(*inputs))
    torch.save(list(inputs), folder / "inputs.pt")
    torch.save(expected, folder / "expected.pt")


def same_bits(folder: Path) -> bool:
    """Whether C++ computed what Python computed."""
    # C++ marks its list with a type that only a full load knows; the file is our own.
    ours = torch.load(folder / "outputs.pt", weights_only=False)
    pairs = zip(ours, torch.load(folder / "expected.pt"), strict=True)
    return all(torch.equal(found, expected) for found, expected in pairs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for all files")
    parser.add_argument("--form", choices=("paper", "released"), default="paper")
    parser.add_argument("--compare", action="store_true", help="compare outputs.pt")
    options = parser.parse_args()
    if not options.compare:
        options.folder.mkdir(parents=True, exist_ok=True)
        package(options.folder, options.form)
        return 0
    equal = same_bits(options.folder)
    print("the same bits" if equal else "other bits")
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
