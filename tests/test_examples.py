"""Every program in examples/ runs as its first lines say, and what it trains learns something."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LINES = {
    "drop_in": {"largest difference": (0, 1e-6)},
    "segment_events": {"segment accuracy": (0.8, 1)},
    "speaker_verification": {"EER": (0, 0.12), "minDCF": (0, 0.7)},
    "three_modalities": {
        "CCC": (0.8, 1),
        "published layers as JointCoAttention, largest difference": (0, 1e-5),
    },
    "utterance_classification": {"utterance accuracy": (0.7, 1)},
    "valence_arousal": {"valence CCC": (0.7, 1), "arousal CCC": (0.7, 1)},
    "weak_supervision": {
        "video accuracy": (0.9, 1),
        "strongest segment lies in the event": (0.9, 1),
    },
}
"""What each program must print, and the range of the number behind it."""


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(name: str, printed: str) -> None:
    for label, (least, most) in LINES[name].items():
        found = re.search(rf"^{re.escape(label)}: (\S+)$", printed, re.MULTILINE)
        assert found, printed
        assert least <= float(found[1]) <= most, f"{label}: {found[1]}"


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(LINES)


@pytest.mark.parametrize("name", LINES)
def test_example(name):
    check(name, run(name))


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_weak_supervision_with_the_real_background_clips(shared, pooling):
    folder = str(shared / "data" / "ave")
    check("weak_supervision", run("weak_supervision", "--pooling", pooling, "--noisy", folder))
