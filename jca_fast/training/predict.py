"""`jca-fast predict`: the predicted event of every segment, as JSON or CSV."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jca_fast.atomic import write_json, write_text
from jca_fast.training.evaluate import add_model_arguments, class_names

COLUMNS = ("clip", "segment", "class", "score")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `jca-fast predict`."""
    add_model_arguments(parser)
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR|FILE.npz",
        help="folder in the published layout (see --split), or an .npz with audio (n, N, 128), "
        "visual (n, N, 7, 7, 512) and, if wanted, the names of the clips, clips (n,)",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="a name ending in .json or .csv"
    )


def run(args: argparse.Namespace) -> int:
    """Predicts and writes the file."""
    output = Path(args.output)
    if output.suffix not in (".json", ".csv"):
        raise ValueError(f"--output {output}: the name must end in .json or .csv")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"--output {output}: no such folder {output.parent}")

    from jca_fast.data.clips import clip_lengths
    from jca_fast.data.record import read_record, require_same_features
    from jca_fast.training.checkpoint import load_model
    from jca_fast.training.distributed import Group, pick_device
    from jca_fast.training.inference import predict
    from jca_fast.training.logs import csv_text

    group = Group(pick_device(args.device))
    model, content = load_model(args.checkpoint, group.device)
    lengths = None
    if args.data.endswith(".npz"):
        dataset, clips = read_npz(args.data)
    else:
        record = read_record(args.data)
        require_same_features(args.checkpoint, content.get("features"), args.data, record)
        dataset, clips = read_split(args.data, args.split)
        lengths = clip_lengths(dataset)
    classes, scores = predict(
        model, dataset, group, batch_size=args.batch_size, precision=args.precision
    )
    names = class_names(content["model_config"]["num_classes"])
    lengths = lengths or [classes.shape[1]] * len(clips)
    table = zip(clips, lengths, classes.tolist(), scores.tolist(), strict=True)
    rows = [
        {"clip": clip, "segment": segment, "class": names[label], "score": score}
        for clip, length, labels, values in table
        for segment, (label, score) in enumerate(zip(labels[:length], values, strict=False))
    ]
    if output.suffix == ".csv":
        write_text(output, csv_text(rows, COLUMNS))
    else:
        write_json(output, {"checkpoint": args.checkpoint, "data": args.data, "segments": rows})
    print(f"{len(clips)} clips, {len(rows)} segments -> {output}")
    return 0


def read_split(data: str, split: str) -> tuple[Any, list[str]]:
    """The clips of a split, or all of a set without labels, and their names."""
    from jca_fast.data.clips import open_clips

    dataset = open_clips(data, split)
    return dataset, [dataset.clip_name(index) for index in range(len(dataset))]


def read_npz(path: str) -> tuple[Any, list[str]]:
    """The clips of an .npz file; raises FileNotFoundError or ValueError naming the file and what it lacks."""
    import zipfile

    import numpy as np
    import torch
    from torch.utils.data import TensorDataset

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a whole .npz file of plain arrays ({error})") from error
    for name, axes in (("audio", "(n, N, d_a)"), ("visual", "(n, N, 7, 7, d_v) or (n, N, R, d_v)")):
        if name not in arrays:
            raise ValueError(f"{path}: found arrays {sorted(arrays)}; needed: {name} {axes}")
    audio, visual = (torch.from_numpy(arrays[name]).float() for name in ("audio", "visual"))
    clips = [str(name) for name in arrays.get("clips", np.arange(len(audio)))]
    if not len(audio) == len(visual) == len(clips) > 0:
        raise ValueError(
            f"{path}: audio, visual and clips must have one length above 0, got "
            f"{len(audio)}, {len(visual)} and {len(clips)}"
        )
    return TensorDataset(audio, visual), clips
