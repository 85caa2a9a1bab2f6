"""Extraction of many videos, in this process or in several."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from jca_fast.memory import reserve_blas

from .outcome import Outcome, extract_one
from .settings import Extractor, Settings, load_extractor
from .sources import shown


def extract_all(
    paths: Sequence[Path], extractor: Extractor, store: Path, workers: int, progress: bool
) -> list[Outcome]:
    """One outcome for each path, in their order; failures are reported as they happen."""
    from tqdm import tqdm

    outcomes: dict[Path, Outcome] = {}
    done: Iterator[Outcome]
    if workers == 1 or len(paths) < 2:
        done = (extract_one(path, extractor, store) for path in paths)
    else:
        done = _in_processes(paths, extractor.settings, store, workers)
    bar = tqdm(done, "videos", total=len(paths), unit="video", disable=not progress)
    for outcome in bar:
        outcomes[outcome.video] = outcome
        if outcome.stored is None:
            bar.clear()
            print(f"{shown(outcome.video)}: {outcome.note}", file=sys.stderr, flush=True)
    return [outcomes[path] for path in paths]


def _in_processes(
    paths: Sequence[Path], settings: Settings, store: Path, workers: int
) -> Iterator[Outcome]:
    """Outcomes as they complete. If a process dies, the remaining videos are tried one by one."""
    left = dict.fromkeys(paths)
    try:
        for outcome in _run(paths, settings, store, workers):
            del left[outcome.video]
            yield outcome
    except BrokenProcessPool:
        for path in left:
            try:
                yield from _run([path], settings, store, 1)
            except BrokenProcessPool:
                yield Outcome(path, None, "its process died while it was decoded")


def _run(paths: Sequence[Path], settings: Settings, store: Path, workers: int) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")
    workers = min(workers, len(paths))
    with ProcessPoolExecutor(workers, context, _start, (settings,)) as pool:
        tasks = [pool.submit(_one, path, store) for path in paths]
        try:
            for task in as_completed(tasks):
                yield task.result()
        finally:
            for task in tasks:
                task.cancel()


_EXTRACTOR: Extractor | None = None
"""The extractor of this worker process."""


def _start(settings: Settings) -> None:
    import torch

    global _EXTRACTOR
    torch.set_num_threads(1)
    reserve_blas()
    _EXTRACTOR = load_extractor(settings)


def _one(path: Path, store: Path) -> Outcome:
    assert _EXTRACTOR is not None
    return extract_one(path, _EXTRACTOR, store, threads=1)
