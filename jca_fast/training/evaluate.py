"""`jca-fast evaluate`: the metrics of a checkpoint on a split, as a table and as JSON."""

from __future__ import annotations

import argparse
import os
from typing import Any

from jca_fast.reading import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `jca-fast evaluate`."""
    add_model_arguments(parser)
    parser.add_argument(
        "--data",
        type=user_path,
        required=True,
        help="folder with the data in the published layout or prepared",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=user_path,
        metavar="FILE",
        help="write all metrics as JSON, confusion matrix included",
    )
    parser.add_argument(
        "--num-workers", type=int, default=0, help="processes that read data (default: 0)"
    )
    parser.add_argument(
        "--plots",
        type=user_path,
        metavar="DIR",
        help="draw the confusion matrix, the accuracy of each class and the reliability",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that `evaluate` and `predict` share."""
    parser.add_argument(
        "checkpoint", type=user_path, help="a checkpoint file, or the folder of a run (its best.pt)"
    )
    parser.add_argument(
        "--split", default="test", choices=("train", "val", "test"), help="default: test"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="clips at a time (default: 64)")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:<index> (default: auto)"
    )
    parser.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "bfloat16"),
        help="bfloat16: autocast (default: float32)",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates the checkpoint, prints the table and writes the JSON."""
    from jca_fast.atomic import check_folder, check_writable, write_json

    if args.output:
        check_writable(args.output, "--output")
    if args.plots:
        check_folder(args.plots, "--plots")
    from jca_fast.training.inference import evaluate_checkpoint

    result = evaluate_checkpoint(
        args.checkpoint,
        args.data,
        args.split,
        batch_size=args.batch_size,
        device=args.device,
        precision=args.precision,
        num_workers=args.num_workers,
    )
    if os.environ.get("RANK", "0") == "0":
        print(table(result))
        if args.output:
            write_json(args.output, result)
        if args.plots:
            from jca_fast.visualize.scores import draw_scores

            for path in draw_scores(result, args.plots):
                print(path)
    return 0


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate_checkpoint` as text."""
    game, confusion = result["pointing_game"], result["confusion"]
    names = result["classes"]
    rows = [
        ("accuracy, all segments", result["accuracy"], ""),
        ("mean of batches of 64", result["batch_mean_accuracy"], "the published code's figure"),
        ("event F1 at IoU 0.5", result["event_f1"], ""),
        ("most frequent class", result["majority_baseline"], "baseline, from the training labels"),
    ]
    if result["ece"] is not None:
        rows.append(("calibration error (ECE)", result["ece"], "of the probabilities, in 15 bins"))
    if game:
        chance = f"random region: {percent(game['chance'])}, {game['segments']} segments"
        rows.append(("pointing game", game["accuracy"], chance))
    lines = [
        f"{result['checkpoint']} on {result['split']} of {result['data']}: "
        f"{result['num_clips']} clips, {result['num_segments']} segments, "
        f"loss {number(result['loss'])}"
    ]
    lines += [f"  {name:<26}{percent(value):>8}  {note}".rstrip() for name, value, note in rows]
    if result["not_finite"]:
        clips = ", ".join(result["not_finite"][:5])
        lines.append(f"  scores that are not finite, counted as wrong, in clips {clips}")
    lines.append(f"  {'class':<32}{'segments':>8}  accuracy  mostly taken for")
    for i, name in enumerate(names):
        others = [count if j != i else 0 for j, count in enumerate(confusion[i])]
        taken = f"{names[others.index(max(others))]} ({max(others)})" if any(others) else ""
        accuracy = percent(result["per_class_accuracy"][i])
        lines.append(
            f"  {name:<32}{result['class_segments'][i]:>8}  {accuracy:>8}  {taken}".rstrip()
        )
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Four decimals; "not finite" for None."""
    return "not finite" if value is None else f"{value:.4f}"


def percent(share: float | None) -> str:
    """A share in percent; a dash for None."""
    return "-" if share is None else f"{100 * share:.2f} %"
