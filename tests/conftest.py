"""Fixtures of the whole suite: seeds, the optional reference data, every backend of the table."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # before the import of triton, which reads it once
    os.environ.setdefault("TRITON_INTERPRET", "1")

from jca_fast.ops import backends, library

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def shared() -> Path:
    """The folder of published numbers and annotations beside the checkout; a plain clone
    has none.
    """
    if not SHARED.is_dir():
        pytest.skip("no reference data beside the checkout")
    return SHARED


@pytest.fixture
def golden(shared, monkeypatch) -> Path:
    """The folder of the published numbers and of its comparison script."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(shared / "golden"))
    return shared / "golden"


def _reasons(row: backends.Backend) -> list[str]:
    """Why a backend runs no op on CPU tensors on this machine; empty if it runs any."""
    found = [row.reasons(op, (torch.zeros(1, 1, 1),)) for op in library.OPS]
    return found[0] if all(found) else []


NOT_HERE = {row.name: reasons for row in backends.BACKENDS if (reasons := _reasons(row))}
"""The backends that do not run on CPU tensors on this machine, and why not."""


@pytest.fixture(params=[name for name in backends.names() if name not in NOT_HERE])
def backend(request) -> str:
    """Each backend of the table that runs on CPU tensors."""
    return request.param


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Skip a test of an op for which its backend has no kernel: a backend may lack ops."""
    try:
        return (yield)
    except Exception as error:  # opcheck wraps the error of the op
        name = pyfuncitem.funcargs.get("backend")
        if name is None or not re.search(f"backend '{name}' .*no kernel for", str(error)):
            raise
        pytest.skip(str(error).splitlines()[0])


def pytest_report_header() -> list[str]:
    return [
        f"backend {name} not tested on CPU tensors: {'; '.join(why)}"
        for name, why in NOT_HERE.items()
    ]


def pytest_collection_modifyitems(items):
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")


def pytest_terminal_summary(terminalreporter):
    """Print how many tests compared with the reference data, so that a log shows whether they
    ran."""
    count = {
        outcome: sum(
            "shared" in getattr(report, "keywords", ())
            for report in terminalreporter.stats.get(outcome, [])
        )
        for outcome in ("passed", "failed", "skipped")
    }
    text = ", ".join(f"{n} {outcome}" for outcome, n in count.items())
    terminalreporter.write_line(f"tests against the reference data: {text}")
