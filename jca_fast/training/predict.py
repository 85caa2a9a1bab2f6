"""`jca-fast predict`: the predicted class of every segment, as JSON or CSV."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from jca_fast.atomic import check_writable, write_json, write_text
from jca_fast.reading import user_path
from jca_fast.training.evaluate import add_model_arguments

COLUMNS = ("clip", "segment", "class", "score")
EVENT_COLUMNS = ("clip", "class", "start", "end", "score")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `jca-fast predict`."""
    add_model_arguments(parser)
    parser.add_argument(
        "--data",
        type=user_path,
        required=True,
        metavar="DIR|FILE.npz",
        help="folder in the published layout (see --split), or an .npz with audio (n, N, 128), "
        "visual (n, N, 7, 7, 512) and optionally the names of the clips, clips (n,)",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="file ending in .json (segments and events) or .csv (segments)",
    )
    parser.add_argument(
        "--events",
        metavar="FILE.csv",
        help="also write the events (runs of segments of one class) with start and end",
    )
    parser.add_argument(
        "--all-classes", action="store_true", help="write the probability of every class"
    )


def run(args: argparse.Namespace) -> int:
    """Predicts the classes and writes the files."""
    output = check_output(args.output, (".json", ".csv"))
    events_output = check_output(args.events, (".csv",), "--events") if args.events else None
    if output == events_output:
        raise ValueError(f"--events {output}: also the --output; needed: another name")

    from jca_fast.training.checkpoint import load_model, trained_loss
    from jca_fast.training.distributed import Group, pick_device
    from jca_fast.training.inference import check_fit, predict
    from jca_fast.training.logs import csv_text
    from jca_fast.training.objective import Objective

    group = Group(pick_device(args.device))
    model, content = load_model(args.checkpoint, group.device)
    dataset, clips, names, lengths = read_clips(args, content)
    check_fit(model, dataset[0][:2], args.data, args.checkpoint)
    probabilities = predict(
        Objective(model, trained_loss(content)),
        dataset,
        group,
        batch_size=args.batch_size,
        precision=args.precision,
        lengths=lengths,
    )
    rows, events = segment_rows(probabilities, clips, names, args.all_classes, lengths)
    broken = sorted({row["clip"] for row in rows if row["class"] is None})
    if broken:
        shown = ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
        print(f"no class: the scores are not finite in clips {shown}", file=sys.stderr)
    if output.suffix == ".csv":
        columns = (*COLUMNS, *names) if args.all_classes else COLUMNS
        flat = [{**row.pop("probabilities", {}), **row} for row in rows]
        write_text(output, csv_text(flat, columns))
    else:
        content = {"checkpoint": str(args.checkpoint), "data": str(args.data), "classes": names}
        write_json(output, {**content, "segments": rows, "events": events})
    if events_output:
        write_text(events_output, csv_text(events, EVENT_COLUMNS))
    print(f"{len(clips)} clips, {len(rows)} segments, {len(events)} events -> {output}")
    return 0


def check_output(name: str, suffixes: tuple[str, ...], flag: str = "--output") -> Path:
    """The path of a file to write; raises ValueError or OSError before any work."""
    output = user_path(name)
    if output.suffix not in suffixes:
        raise ValueError(f"{flag} {output}: the name must end in {' or '.join(suffixes)}")
    check_writable(output, flag)
    return output


def segment_rows(
    probabilities: Any,
    clips: list[str],
    names: list[str],
    all_classes: bool,
    lengths: list[int] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One row for each segment and one for each event of probabilities (n, N, C).

    An event is a longest run of segments of one class other than background. It lasts from the
    start of its first segment to the end of its last, and its score is the mean of their scores. If
    a score is not finite, class, score and probabilities are None. lengths: segments of each clip
    without padding.
    """
    from jca_fast.training.inference import classify
    from jca_fast.training.metrics import UNDEFINED, find_events

    rows, events = [], []
    classes, scores = classify(probabilities)
    for i, clip in enumerate(clips):
        length = lengths[i] if lengths else classes.shape[1]
        labels, values = classes[i, :length].tolist(), scores[i, :length].tolist()
        for segment, (label, score) in enumerate(zip(labels, values, strict=True)):
            defined = label != UNDEFINED
            row = {"clip": clip, "segment": segment, "class": names[label] if defined else None}
            row["score"] = score if defined else None
            if all_classes:
                shares = probabilities[i, segment].tolist() if defined else [None] * len(names)
                row["probabilities"] = dict(zip(names, shares, strict=True))
            rows.append(row)
        for label, start, end in find_events(labels, background=len(names) - 1):
            mean = sum(values[start:end]) / (end - start)
            event = {"clip": clip, "class": names[label], "start": start, "end": end}
            events.append({**event, "score": mean})
    return rows, events


def read_clips(
    args: argparse.Namespace, content: dict[str, Any]
) -> tuple[Any, list[str], list[str], list[int] | None]:
    """The clips to predict, their names, the names of the classes, and the lengths of the clips.

    The names of the classes come from the checkpoint, or else from the data. The lengths are None
    if no clip is padded.
    """
    from jca_fast.data.annotations import class_names
    from jca_fast.data.clips import open_clips
    from jca_fast.data.record import read_record, require_same_features

    count, names = content["model_config"]["num_classes"], content.get("classes")
    if Path(args.data).suffix != ".npz":
        record = read_record(args.data)
        require_same_features(args.checkpoint, content.get("features"), args.data, record)
    dataset = open_clips(args.data, args.split)
    clips = [dataset.clip_name(index) for index in range(len(dataset))]
    names = names or class_names(count, dataset.events)
    lengths = None if dataset.lengths is None else dataset.lengths.tolist()
    return dataset, clips, names, lengths
