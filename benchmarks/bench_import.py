"""A new process that imports jca_fast with all its names, against one that imports torch alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

ALL = "import torch, jca_fast; [getattr(jca_fast, name) for name in jca_fast.__all__]"


@pytest.mark.full
def test_import(paired):
    def process(code):
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    providers = {"eager": process("import torch"), "jca_fast": process(ALL)}
    paired("import torch / jca_fast", "new process", providers, parity=False)
