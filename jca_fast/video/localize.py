"""`jca-fast localize`: the events of one video, as files and as a page for a browser."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jca_fast import atomic
from jca_fast.data.annotations import class_names
from jca_fast.data.record import Record, require_same_features
from jca_fast.reading import user_path

from . import events as event_files
from .events import Event
from .settings import Extractor, Settings, add_flags, from_flags, load_extractor
from .store import StoredVideo, store_features
from .windows import Window, average, cut

EPILOG = """\
DIR gets index.html (the page: open it in a browser, it needs no network), events.json,
events.csv, events.vtt (subtitles), and with --render annotated.mp4. The networks are those of
the checkpoint's features; weights of VGG19 and VGGish must be named again.
"""

BATCH = 8
"""The number of windows in a batch of the model."""


@dataclass(frozen=True)
class Result:
    """The events of a video of S segments, with the data of its page."""

    video: Path
    info: dict[str, Any]
    segment_seconds: float
    names: list[str]  # of the C classes, background last
    probabilities: np.ndarray  # (S, C), averaged over overlapping windows
    attention: np.ndarray | None  # (S, rows, columns), sums to 1; None without attention
    peaks: np.ndarray  # (S, 20), of the sound
    events: list[Event]

    @property
    def duration(self) -> float:
        return len(self.probabilities) * self.segment_seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `jca-fast localize`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("video", type=user_path, metavar="VIDEO")
    parser.add_argument(
        "--checkpoint",
        type=user_path,
        required=True,
        metavar="FILE",
        help="a checkpoint, or the folder of a run",
    )
    parser.add_argument("-o", "--out", required=True, type=user_path, metavar="DIR")
    add_flags(parser, hop=0)
    parser.add_argument(
        "--device", default="auto", help="device of the model: auto, cpu, cuda (auto)"
    )
    parser.add_argument("--render", action="store_true", help="also write annotated.mp4")


def run(args: argparse.Namespace) -> int:
    """Localize the events, write the files, and print the events and the path of the page."""
    result = localize_video(
        args.video,
        args.checkpoint,
        args.out,
        lambda defaults: from_flags(args, **defaults),
        device=args.device,
        render=args.render,
    )
    for event in result.events:
        span = f"{event.start:8.2f} - {event.end:8.2f} s"
        print(f"{span}  {100 * event.probability:3.0f} %  {event.name}")
    print(f"{len(result.events)} events in {result.duration:g} s -> {args.out / 'index.html'}")
    return 0


def localize_video(
    video: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    choose: Callable[[dict[str, Any]], Settings] = lambda defaults: Settings(**defaults),
    *,
    device: str = "auto",
    render: bool = False,
) -> Result:
    """Find the events of a video and write page and files into the folder `out`.

    `choose` maps the settings of the checkpoint's features to the settings to use. Raises
    VideoError for a video that cannot be used, and ValueError for features that differ in kind from
    those of the model's training.
    """
    from jca_fast.training.checkpoint import load_model
    from jca_fast.training.distributed import pick_device

    from . import preview, report

    video, out = Path(video), Path(out)
    model, content = load_model(checkpoint, pick_device(device))
    extractor = load_extractor(choose(recorded_settings(content, str(checkpoint))))
    require_same_features(checkpoint, content.get("features"), video, extractor.record())
    out.mkdir(parents=True, exist_ok=True)
    with atomic.scratch(out) as folder:
        target = folder / "features"
        store_features(video, extractor, target)
        result = read_events(StoredVideo(target), model, content, extractor)
    result = replace(result, video=video)
    write_files(result, out, str(checkpoint), extractor.record())
    report.write_page(result, out)
    if render:
        preview.render(result, out / "annotated.mp4")
    return result


def recorded_settings(content: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    """The settings of the checkpoint's features; networks with weights must be named again."""
    size = content["model_config"]["num_segments"]
    defaults: dict[str, Any] = {"num_segments": size, "hop": max(1, size // 2)}
    record = content.get("features")
    if record is None:
        return defaults
    defaults |= {name: record[name] for name in ("segment_seconds", "frames_per_segment")}
    for kind in ("visual", "audio"):
        name = record[kind]["name"]
        if ":" in name or name.startswith("embedded"):
            defaults[kind] = name.split(" ")[0]
    return defaults


def read_events(
    stored: StoredVideo, model: Any, content: dict[str, Any], extractor: Extractor
) -> Result:
    """The events of a video: runs the model over all windows and averages the results."""
    from jca_fast.training.checkpoint import trained_loss
    from jca_fast.training.objective import Objective

    settings = extractor.settings
    windows = cut(stored.num_segments, settings.num_segments, settings.step)
    objective = Objective(model, trained_loss(content))
    parts = list(_predict(stored, objective, windows, settings))
    scores = np.concatenate([score for score, _ in parts])  # (windows, N, C)
    if not np.isfinite(scores).all():
        raise ValueError(f"{stored.video}: the scores of the checkpoint are not finite")
    attention = None
    if parts[0][1] is not None:
        weights = np.concatenate([weight for _, weight in parts])  # (windows, N, R)
        grid = stored.shapes["visual"][:2]
        weights = weights.reshape(*weights.shape[:2], *grid)
        attention = average(weights, windows, stored.num_segments)
    probabilities = average(scores, windows, stored.num_segments)  # (S, C)
    count = content["model_config"]["num_classes"]
    names = content.get("classes") or class_names(count)
    seconds = settings.segment_seconds
    duration = min(stored.num_segments * seconds, stored.info["duration"] or np.inf)
    events = event_files.merge(probabilities, names, seconds, duration)
    return Result(
        Path(stored.video),
        stored.info,
        seconds,
        names,
        probabilities,
        attention,
        stored.peaks(),
        events,
    )


def write_files(result: Result, out: Path, checkpoint: str, record: Record) -> None:
    """Write events.json, events.csv and events.vtt."""
    from jca_fast.training.logs import csv_text

    rows = [event.record() for event in result.events]
    atomic.write_json(
        out / "events.json",
        {
            "video": str(result.video),
            "checkpoint": checkpoint,
            "features": record,
            "info": result.info,
            "segment_seconds": result.segment_seconds,
            "classes": result.names,
            "events": rows,
            "probabilities": result.probabilities.round(4).tolist(),
        },
    )
    atomic.write_text(out / "events.csv", csv_text(rows, event_files.COLUMNS))
    atomic.write_text(out / "events.vtt", event_files.webvtt(result.events))


def _predict(
    stored: StoredVideo, objective: Any, windows: list[Window], settings: Settings
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Probabilities (B, N, C) and attention (B, N, R), or None, of windows in batches."""
    import torch

    model = objective.model
    device = next(model.parameters()).device
    for start in range(0, len(windows), BATCH):
        batch = windows[start : start + BATCH]
        clips = [stored.window(window, settings) for window in batch]
        lengths = torch.tensor([window.length for window in batch], device=device)
        audio, visual = (
            torch.from_numpy(np.stack(part)).float().to(device) for part in zip(*clips, strict=True)
        )
        with torch.no_grad():
            scores = objective.probabilities(objective.scores(audio, visual, lengths))
            _, maps = model(audio, visual, return_maps=True, lengths=lengths)
        weights = maps["visual_attention"]
        yield scores.float().cpu().numpy(), None if weights is None else weights.cpu().numpy()
