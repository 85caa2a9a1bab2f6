"""Fixtures and options of the benchmarks, and the table at the end of a run.

    pytest benchmarks/ --benchmark-only            the default set, a few minutes on two cores
    pytest benchmarks/ --benchmark-only --full     every case, 15 minutes or more
    pytest benchmarks/ --benchmark-only --smoke    tiny sizes: shows only that the benchmarks work

`paired` times providers side by side after a parity check. `replayed` records the measurement of
another process.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from benchmarks.table import Row, Summary, render, spreads
from jca_fast.bench.pairs import (
    Provider,
    check_parity,
    disturbances,
    interleave,
    machine,
    multiply_add_rate,
    seconds,
    summarise,
)

ROWS = pytest.StashKey[list[Row]]()
RATES = pytest.StashKey[list[float]]()
LOAD = pytest.StashKey[float]()


def pytest_addoption(parser):
    group = parser.getgroup("jca_fast benchmarks")
    group.addoption("--full", action="store_true", help="run every case (15 minutes or more)")
    group.addoption("--smoke", action="store_true", help="tiny sizes: no figure means anything")


def pytest_configure(config):
    config.addinivalue_line("markers", "full: runs with --full only")
    config.stash[ROWS], config.stash[RATES] = [], []
    config.stash[LOAD] = os.getloadavg()[0]
    config.option.benchmark_quiet = True  # our table takes the place of pytest-benchmark's


def pytest_collection_modifyitems(config, items):
    if not config.option.full:
        skip = pytest.mark.skip(reason="runs with --full only")
        for item in items:
            if "full" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _two_threads():
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _progress(request):
    """On a terminal, show the name of the running case: one can take half a minute."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter.isatty:
        position = 1 + request.session.items.index(request.node)
        text = f"{position}/{len(request.session.items)} {request.node.name}"
        reporter.write(f"\r{text:<76.76}\r", flush=True)


@pytest.fixture(scope="session", autouse=True)
def _clock_of_the_machine(request):
    """The multiply-add rate of a core before and after the run; it differs on a disturbed
    machine."""
    rates = request.config.stash[RATES]
    rates.append(multiply_add_rate())
    yield
    rates.append(multiply_add_rate())


@pytest.fixture
def quick(request) -> bool:
    """Whether this run only shows that the benchmarks work."""
    return request.config.option.smoke


@pytest.fixture
def rounds(request) -> Callable[[float], int]:
    """The number of rounds for a case that takes ``cost`` seconds."""
    if request.config.option.smoke:
        return lambda cost: 3
    budget = 15.0 if request.config.option.full else 5.0
    return lambda cost: max(5, min(30, int(budget / max(cost, 1e-6))))


@pytest.fixture
def report(request, benchmark):
    """Keep a row of the table, and its facts with this benchmark."""

    def keep(row: Row, **facts: object) -> None:
        known = {"providers": row.times, "peak_mib": row.peak_mib, "share_of_limit": row.limit}
        benchmark.extra_info.update(machine(), what=row.what, shape=row.shape, **facts)
        benchmark.extra_info.update({name: value for name, value in known.items() if value})
        request.config.stash[ROWS].append(row)

    return keep


@pytest.fixture
def paired(benchmark, report, rounds):
    """``paired(what, shape, providers)``: a parity check, then interleaved rounds."""

    def run(
        what: str,
        shape: str,
        providers: dict[str, Provider],
        parity: bool = True,
        limit: Callable[[Summary], float] | None = None,
        **facts: object,
    ) -> Summary:
        if parity:
            check_parity(providers)
        else:  # which warms up, too
            interleave(providers, 0)
        count = rounds(sum(seconds(provider) for provider in providers.values()))
        others = {name: provider for name, provider in providers.items() if name != "jca_fast"}
        times: dict[str, list[float]] = {name: [] for name in others}

        def others_first():
            for name, provider in others.items():
                times[name].append(seconds(provider))

        benchmark.pedantic(providers["jca_fast"], setup=others_first, rounds=count)
        result = summarise({**times, "jca_fast": list(benchmark.stats.stats.data)})
        row = Row(what, shape, result, limit=limit(result) if limit else None)
        report(row, rounds=count, **facts)
        return result

    return run


class ReplayClock:
    """A timer for pytest-benchmark that returns times measured by another process."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, duration: float) -> None:
        """Let the time of the measured call pass."""
        self.now += duration


@pytest.fixture
def replayed(benchmark, report, monkeypatch):
    """``replayed(row, seconds)``: the row of a measurement by another process that took
    ``seconds``.
    """

    def run(row: Row, duration: float) -> None:
        clock = ReplayClock()
        monkeypatch.setattr(benchmark, "_timer", clock)
        benchmark.pedantic(clock.advance, args=(duration,), rounds=1)
        report(row)

    return run


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.update(machine())


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    if not rows:
        return
    facts = machine()
    terminalreporter.section("milliseconds, and the ratio of the first baseline over ours")
    for line in render(rows):
        terminalreporter.write_line(line)
    terminalreporter.write_line(
        f"{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}, "
        f"kernels {facts['kernels']}; loop: the Python loop, published code or KeOps"
    )
    if config.option.smoke:
        terminalreporter.write_line("a smoke run at tiny sizes: no figure means anything")
        return
    for reason in disturbances(spreads(rows), config.stash[RATES], config.stash[LOAD]):
        terminalreporter.write_line(f"DISTURBED RUN, do not rely on it: {reason}", red=True)
