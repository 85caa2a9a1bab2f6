"""The fixture ``paired``: providers timed side by side after a parity check, and one table at the end of a run.

pytest benchmarks/ --benchmark-only --benchmark-json=raw.json; benchmarks/record.py makes a file of results/ of it.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.pairs import Provider, check_parity, interleave, machine, seconds, summarise

QUICK = 0.5  # a --benchmark-max-time below it asks for a smoke run: no compilation, fewer processes
TABLE = pytest.StashKey[list]()


@pytest.fixture(autouse=True)
def _two_threads():
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quick(request) -> bool:
    """Whether this run only has to show that the benchmarks work."""
    return float(request.config.getoption("benchmark_max_time")) < QUICK


@pytest.fixture
def rounds(request):
    """How many rounds of something that takes ``cost`` seconds the command line asks for."""
    least = int(request.config.getoption("benchmark_min_rounds"))
    budget = float(request.config.getoption("benchmark_max_time"))
    return lambda cost: max(least, min(30, int(10 * budget / max(cost, 1e-6))))


@pytest.fixture
def report(request, benchmark):
    """Keep facts with this benchmark and as a line of the final table."""

    def keep(line: str, **facts: object) -> None:
        benchmark.extra_info.update(machine(), **facts)
        request.config.stash.setdefault(TABLE, []).append(f"{request.node.name:<58} {line}")

    return keep


@pytest.fixture
def paired(benchmark, report, rounds):
    """``paired(providers)``: parity, then interleaved rounds; the provider called "jca_fast" is the benchmark's own."""

    def run(
        providers: dict[str, Provider], parity: bool = True, **facts: object
    ) -> dict[str, dict[str, float]]:
        if parity:
            check_parity(providers)
        count = rounds(sum(seconds(provider) for provider in providers.values()))
        others = {name: provider for name, provider in providers.items() if name != "jca_fast"}
        times: dict[str, list[float]] = {name: [] for name in others}

        def others_first():
            for name, provider in others.items():
                times[name].append(seconds(provider))

        interleave(providers, 1)
        benchmark.pedantic(providers["jca_fast"], setup=others_first, rounds=count)
        result = summarise({**times, "jca_fast": list(benchmark.stats.stats.data)})
        text = "  ".join(
            f"{name} {r['ms']:.3g} ms ({r['ratio']:.2f}x)" for name, r in result.items()
        )
        report(text, providers=result, rounds=count, **facts)
        return result

    return run


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.update(machine())


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash.get(TABLE, [])
    if lines:
        terminalreporter.section("time of each provider (and over jca_fast)")
        for line in lines:
            terminalreporter.write_line(line)
