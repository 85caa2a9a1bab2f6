"""Findings on a data folder: missing, damaged and inconsistent files."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import cache, files
from .annotations import Event, foreground_labels, mil_labels, read_annotations, segment_labels

Tables = dict[str, files.Table]

_SAMPLE = 64  # clips examined without `full`
_LABELS_BY_CLIP = ("mil_labels", "labels_noisy")  # (clips, classes), without an axis of segments


@dataclass(frozen=True)
class Finding:
    """One line of the report. `level` is "ok", "note" (information only) or "error"."""

    level: str
    file: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:5}  {self.file}: {self.text}"


def check(root: str | Path, *, full: bool = False, progress: bool = False) -> list[Finding]:
    """Findings on the set in the folder `root`: files, shapes, dtypes, storage, annotations,
    labels, splits, values.

    Feature values (NaN, infinite, negative, clips of zeros) are examined in 64 clips spread over
    each file, or with `full` in all of them; `full` also verifies the checksums of a prepared
    cache. Only one clip is in memory at a time. Raises FileNotFoundError if there is no such
    folder; every other problem becomes a finding.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; needed: a folder in the published layout")
    tables, findings = _open(root)
    events, more = _annotations(root)
    findings += more
    findings += _sizes(tables, events)
    findings += _readable("labels", _labels(tables, events))
    findings += _readable("splits", _splits(root, tables, events))
    findings += _readable(files.PLANTED, _planted(root, tables))
    findings += _readable(files.CLIPS, _clips(root, tables))
    for stem, table in tables.items():
        if "feature" in stem:
            findings += _readable(table.path.name, _values(table, full, progress))
    return findings + list(_cache(root, full))


def _readable(file: str, found: Iterator[Finding]) -> Iterator[Finding]:
    """The findings, with one for the rows at which their file cannot be read."""
    try:
        yield from found
    except ValueError as error:
        yield Finding("error", file, str(error))


def _open(root: Path) -> tuple[Tables, list[Finding]]:
    """The tables that can be read, and one finding for each file."""
    tables: Tables = {}
    findings, absent = [], []
    for stem in files.LAYOUT:
        if stem not in files.REQUIRED and not files.exists(root, stem):
            absent.append(f"{stem}.h5")
            continue
        try:
            table = tables[stem] = files.Table(root, stem)
        except FileNotFoundError:
            findings.append(Finding("error", f"{stem}.h5", f"missing; {files.needed(stem)}"))
            continue
        except ValueError as error:
            findings.append(Finding("error", f"{stem}.h5", str(error)))
            continue
        storage, size = table.storage(), len(table) * table.row_bytes()
        text = f"{table.shape} {table.dtype}, {size / 1e6:,.2f} MB, {storage}"
        if storage != "contiguous":
            text += " (contiguous storage reads faster)"
        findings.append(Finding("ok" if storage == "contiguous" else "note", table.path.name, text))
    if absent:
        findings.append(
            Finding(
                "note",
                "optional files",
                f"absent, used for weak supervision: {', '.join(absent)}",
            )
        )
    return tables, findings


def _annotations(root: Path) -> tuple[list[Event], list[Finding]]:
    """The events, and findings on Annotations.txt."""
    name = files.ANNOTATIONS
    if not (root / name).is_file():
        return [], [
            Finding("note", name, "absent; labels and video ids were not checked against it")
        ]
    try:
        # _labels reports events that are too long.
        events = read_annotations(root / name, num_segments=10**6)
    except ValueError as error:
        return [], [Finding("error", name, str(error))]
    findings = [
        Finding(
            "ok",
            name,
            f"{len(events)} rows, {len({event.category for event in events})} categories",
        )
    ]
    times = Counter(Counter(event.video_id for event in events).values())
    del times[1]
    if times:
        text = ", ".join(f"{ids} in {count} rows each" for count, ids in sorted(times.items()))
        findings.append(
            Finding("note", name, f"video ids that repeat, one clip under several labels: {text}")
        )
    empty = [i for i, event in enumerate(events) if event.start == event.end]
    if empty:
        findings.append(
            Finding("note", name, f"events of no length, all background, in {_rows(empty)}")
        )
    return events, findings


def _sizes(tables: Tables, events: list[Event]) -> Iterator[Finding]:
    """Findings on files that must have the same numbers of clips and segments and do not."""
    for noisy in (False, True):
        group = [
            t
            for stem, t in tables.items()
            if stem.endswith("_noisy") == noisy and t.dataset != files.ORDER
        ]
        clips = {table.path.name: table.shape[0] for table in group}
        if events and not noisy:
            clips[files.ANNOTATIONS] = len(events)
        segments = {t.path.name: t.shape[1] for t in group if t.path.stem not in _LABELS_BY_CLIP}
        for kind, counts in (("clips", clips), ("segments", segments)):
            if len(set(counts.values())) > 1:
                text = ", ".join(f"{count} in {name}" for name, count in counts.items())
                yield Finding("error", kind, f"their number differs: {text}")


def _labels(tables: Tables, events: list[Event]) -> Iterator[Finding]:
    """Findings on labels: one class per segment, and agreement with the annotations."""
    if "labels" in tables:
        labels = tables["labels"][:]  # (n, N, C)
        one_hot = np.isin(labels, (0, 1)).all(axis=2) & (labels.sum(axis=2) == 1)  # (n, N)
        background = np.mean(labels[:, :, -1] == 1)
        share = f"one class per segment; {background:.1%} of the segments are background"
        yield _verdict(
            tables["labels"].path.name, ~one_hot.all(axis=1), share, "not one class per segment"
        )
    segments = next(
        (tables[stem].shape[1] for stem in ("labels", "audio_feature") if stem in tables), 10
    )
    late = [i for i, event in enumerate(events) if event.end > segments]
    if late:
        yield Finding(
            "error", files.ANNOTATIONS, f"events that end after segment {segments} in {_rows(late)}"
        )
    made = {
        "labels": lambda: segment_labels(events, segments),
        "labels_closs": lambda: foreground_labels(events, segments),
        "mil_labels": lambda: mil_labels(events),
    }
    for stem in made if events else ():
        if stem not in tables:
            continue
        expected, found = made[stem](), tables[stem][:]
        name = tables[stem].path.name
        if expected.shape != found.shape:
            yield Finding(
                "error",
                name,
                f"found shape {found.shape}; needed: {expected.shape}, by {files.ANNOTATIONS}",
            )
        else:
            bad = (expected != found).reshape(len(found), -1).any(axis=1)
            yield _verdict(
                name,
                bad,
                f"agrees with {files.ANNOTATIONS}",
                f"differs from {files.ANNOTATIONS}",
            )


def _splits(root: Path, tables: Tables, events: list[Event]) -> Iterator[Finding]:
    """Findings on splits: rows that exist, no repeats, and no row or video id in two splits."""
    clips = tables["audio_feature"].shape[0] if "audio_feature" in tables else len(events) or None
    background = tables["labels"][:][:, :, -1].mean(axis=1) if "labels" in tables else None  # (n,)
    rows: dict[str, np.ndarray] = {}
    for split in files.SPLITS:
        name = f"{split}_order.h5"
        if f"{split}_order" not in tables:
            continue
        try:
            order = rows[split] = files.read_order(root, split, clips)
        except ValueError as error:
            yield Finding("error", name, str(error))
            continue
        repeats = len(order) - len(np.unique(order))
        text = f"{len(order)} clips" + (f", {repeats} of them repeated" if repeats else "")
        if background is not None and order.max() < len(background):
            text += (
                f"; {background[order].mean():.1%} background, the accuracy of always predicting it"
            )
        yield Finding("error" if repeats else "ok", name, text)
    for first, second in itertools.combinations(rows, 2):
        shared = np.intersect1d(rows[first], rows[second])
        if shared.size:
            yield Finding("error", "splits", f"{first} and {second} share {_rows(shared)}")
        if events and max(rows[first].max(), rows[second].max()) < len(events):
            ids = {events[i].video_id for i in rows[first]} & {
                events[i].video_id for i in rows[second]
            }
            if ids:
                yield Finding(
                    "note",
                    "splits",
                    f"{first} and {second} share {len(ids)} video ids (in different rows)",
                )
    if len(rows) == len(files.SPLITS) and clips:
        unused = clips - len(np.unique(np.concatenate(list(rows.values()))))
        text = f"{unused} clips are in no split" if unused else "every clip is in a split"
        yield Finding("note" if unused else "ok", "splits", text)


def _values(table: files.Table, full: bool, progress: bool) -> Iterator[Finding]:
    """One finding on the values: NaN, infinite and negative ones, and clips of zeros."""
    from tqdm import tqdm

    n = len(table)
    examined = range(n) if full or n <= _SAMPLE else np.linspace(0, n - 1, _SAMPLE).astype(int)
    rows: dict[str, list[int]] = {
        "NaN": [],
        "infinite values": [],
        "negative values": [],
        "nothing but zeros": [],
    }
    zeros, largest = 0.0, -np.inf
    for row in tqdm(examined, table.path.stem, disable=not progress):
        clip = table[int(row)]
        kinds = (np.isnan(clip).any(), np.isinf(clip).any(), (clip < 0).any(), not clip.any())
        for found, holds in zip(rows.values(), kinds, strict=True):
            found += [int(row)] * bool(holds)
        zeros += np.mean(clip == 0) / len(examined)
        largest = max(largest, float(np.nanmax(clip)))
    scope = f"all {n}" if len(examined) == n else f"{len(examined)} of {n}"
    problems = [f"{problem} in {_rows(found)}" for problem, found in rows.items() if found]
    level = "error" if rows["NaN"] or rows["infinite values"] else "note" if problems else "ok"
    facts = f"{zeros:.0%} zeros, largest value {largest:.4g}; {scope} clips looked at"
    yield Finding(level, table.path.name, "; ".join([*problems, facts]))


def _planted(root: Path, tables: Tables) -> Iterator[Finding]:
    """Findings on planted.h5: events are the segments that are both audible and visible."""
    if not (root / files.PLANTED).is_file() or "labels" not in tables:
        return
    try:
        position, audible, visible = files.read_planted(root / files.PLANTED)
    except ValueError as error:
        yield Finding("error", files.PLANTED, str(error))
        return
    event, seen = audible & visible, position.any(axis=2)  # (n, N)
    inside = tables["labels"][:][:, :, -1] == 0  # (n, N)
    if event.shape != inside.shape:
        yield Finding(
            "error", files.PLANTED, f"found {event.shape} (clips, segments); needed: {inside.shape}"
        )
        return
    bad = ((event == 1) != inside).any(axis=1) | (seen != (visible > 0)).any(axis=1)
    yield _verdict(files.PLANTED, bad, "agrees with the labels", "differs from the labels")


def _clips(root: Path, tables: Tables) -> Iterator[Finding]:
    """A finding on clips.h5: its columns can be read, and its lengths fit the features."""
    if not (root / files.CLIPS).is_file() or "audio_feature" not in tables:
        return
    shape = tables["audio_feature"].shape
    for column in ("video", "start"):
        files.read_clip_column((root,), column)
    lengths = files.read_lengths((root,), shape)
    padded = 0 if lengths is None else np.count_nonzero(lengths < shape[1])
    yield Finding("ok", files.CLIPS, f"{padded} clips are padded")


def _cache(root: Path, full: bool) -> Iterator[Finding]:
    """Findings on a prepared cache: it is not stale, and with `full` it is not damaged."""
    try:
        folder = cache.find_cache(root)
    except (ValueError, OSError) as error:
        yield Finding("error", "prepared cache", str(error))
        return
    if not (folder / cache.MANIFEST).is_file():
        return
    manifest = cache.read_manifest(folder / cache.MANIFEST)
    damaged = [name for name in manifest["files"] if full and not _whole(folder, manifest, name)]
    text = f"{folder}, {manifest['dtype']}"
    if damaged:
        yield Finding(
            "error", "prepared cache", f"{text}: damaged since it was made: {', '.join(damaged)}"
        )
    else:
        yield Finding(
            "ok",
            "prepared cache",
            f"{text}, " + ("checksums verified" if full else "up to date with its source"),
        )


def _whole(folder: Path, manifest: cache.Manifest, name: str) -> bool:
    try:
        return cache.is_whole(folder, manifest, name)
    except (ValueError, OSError):
        return False


def _verdict(name: str, bad: np.ndarray, good_text: str, bad_text: str) -> Finding:
    rows = np.flatnonzero(bad)
    return (
        Finding("error", name, f"{bad_text} in {_rows(rows)}")
        if rows.size
        else Finding("ok", name, good_text)
    )


def _rows(rows: Iterable[int], most: int = 5) -> str:
    rows = [int(row) for row in rows]
    listed = ", ".join(map(str, rows[:most]))
    if len(rows) == 1:
        return f"row {listed}"
    return f"{len(rows)} rows ({listed}{', ...' if len(rows) > most else ''})"
