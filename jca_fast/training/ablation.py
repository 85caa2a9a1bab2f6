"""The trainings of an ablation, the cost of a step of each row, and the files of its folder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor

from jca_fast.atomic import LOCK, check_folder, exclusive, write_json
from jca_fast.data.ave import AVEDataset
from jca_fast.data.synthetic import synthesize
from jca_fast.models.tables import FULL, TABLES, Row
from jca_fast.reading import read_object, require_number, user_path
from jca_fast.training.ablation_config import Ablation
from jca_fast.training.ablation_table import RowResult, draw, write_table
from jca_fast.training.config import RECIPES, Config
from jca_fast.training.distributed import Group, process_group
from jca_fast.training.logs import Progress
from jca_fast.training.reproducible import deterministic
from jca_fast.training.trainer import Trainer

REGION_FEATURES = 128
"""Channels of a region of the planted set."""


def ablate(ablation: Ablation) -> list[RowResult]:
    """Runs the missing trainings; writes `table<n>.md` and `.csv` after each, `.png` at the end.

    Returns the rows of the table.
    """
    out = user_path(ablation.out)
    claim(out, ablation)
    rows = [row for row in TABLES[ablation.table] if row.arguments is not None]
    pairs = [(row, seed) for seed in range(ablation.seeds) for row in rows]
    with locked(out), process_group(ablation.device) as group, deterministic(True):
        plant(ablation)
        if group.world > 1:
            raise RuntimeError(f"ablate runs in one process; torchrun started {group.world}")
        bar = overall_progress(ablation, pairs)
        for row, seed in pairs:
            config = training_of(ablation, row, seed)
            if finished(config) is None:
                train(config, group, bar, f"{row.label}, seed {seed}")
            measure(ablation, row, group)
            write_table(out, ablation, results(ablation))
        bar.close()
    found = results(ablation)
    path = write_table(out, ablation, found)
    draw(path.with_suffix(".png"), ablation, found)
    print(path.read_text(encoding="utf-8") + f"\n{path}")
    return found


def model_of(ablation: Ablation, row: Row) -> dict[str, Any]:
    """The arguments of AVELocalizer for a row."""
    sizes = {"audio_dim": 512, "visual_dim": 512, "num_layers": 4}
    arguments = {**FULL, **sizes, **(row.arguments or {}), "form": ablation.form}
    for name in ("audio_dim", "visual_dim"):
        arguments[name] //= ablation.scale
    return arguments


def training_of(ablation: Ablation, row: Row, seed: int) -> Config:
    """The settings of one training of a row."""
    recipe = dict(RECIPES[ablation.recipe])
    model = {**recipe.pop("model", {}), **model_of(ablation, row)}
    out = user_path(ablation.out) / "runs" / row_name(model) / f"seed{seed}"
    return Config(
        data=str(ablation.folder()),
        out=str(out),
        model=model,
        epochs=ablation.epochs,
        batch_size=ablation.batch_size,
        seed=seed,
        device=ablation.device,
        progress=False,
        **recipe,
    )


def claim(out: Path, ablation: Ablation) -> None:
    """Makes the folder; rejects one that was made with other settings or holds other files."""
    path = out / "ablation.json"
    settings = ablation.shared()
    check_folder(out, "out:")
    if path.exists():
        for name, value in read_object(path).items():
            if settings.get(name) != value:
                raise ValueError(
                    f"{name}: {settings.get(name)!r} given, but the trainings in {out} have "
                    f"{value!r}; needed: the same settings, or another --out"
                )
    elif out.is_dir() and any(p.name not in ("data", LOCK) for p in out.iterdir()):
        raise FileExistsError(f"out: {out} holds other files; needed: a new or empty folder")
    if ablation.data:
        AVEDataset(ablation.folder(), "train")  # raises for missing files before anything is made
    out.mkdir(parents=True, exist_ok=True)


def locked(out: Path) -> AbstractContextManager[None]:
    """Locks the folder of an ablation; RuntimeError if another process holds it."""
    text = f"out: another ablation runs in {out}; needed: its end, or another --out"
    return exclusive(out, RuntimeError(text))


def plant(ablation: Ablation) -> None:
    """Makes the planted set unless the folder has one, and writes the settings."""
    folder = ablation.folder()
    if not ablation.data and not (folder / "labels.h5").is_file():
        print(f"planting {ablation.clips} clips in {folder}", flush=True)
        options: dict[str, Any] = {"visual_dim": REGION_FEATURES, "dtype": "float32"}
        options |= {"difficulty": "hard", "overwrite": True}
        synthesize(folder, num_clips=ablation.clips, **options)
    AVEDataset(folder, "train")  # raises for missing files before the settings are written
    write_json(user_path(ablation.out) / "ablation.json", ablation.shared())


def row_name(model: dict[str, Any]) -> str:
    """The name of a model's folder, made from its arguments."""
    return "_".join(f"{name}-{value}" for name, value in sorted(model.items()))


def finished(config: Config) -> dict[str, Any] | None:
    """metrics.json of a training, or None if the training is not finished.

    Raises ValueError if a finished training lacks a score or its size.
    """
    path = Path(config.out) / "metrics.json"
    if not path.is_file():
        return None
    metrics = read_object(path)
    if metrics.get("status") != "finished":
        return None
    for keys in (("test", "accuracy"), ("test", "batch_mean_accuracy"), ("num_parameters",)):
        require_number(path, metrics, *keys)
    return metrics


def overall_progress(ablation: Ablation, pairs: list[tuple[Row, int]]) -> Progress:
    """One bar over the steps of all trainings."""
    clips = len(AVEDataset(ablation.folder(), "train"))
    steps = ablation.epochs * -(-clips // ablation.batch_size)
    done = sum(finished(training_of(ablation, *pair)) is not None for pair in pairs)
    return Progress(steps * len(pairs), steps * done, ablation.progress)


class Training(Trainer):
    """A training that counts its steps on the bar of the ablation and logs its lines to a file."""

    def __init__(self, config: Config, group: Group, bar: Progress, label: str) -> None:
        self.bar, self.label = bar, label
        self.log = Path(config.out) / "train.log"
        super().__init__(config, group)
        bar.skip(self.step)

    def train_step(
        self, audio: Tensor, visual: Tensor, labels: Tensor, lengths: Tensor | None = None
    ) -> None:
        """Makes one step of Adam, and one of the bar."""
        super().train_step(audio, visual, labels, lengths)
        self.bar.step(f"{self.label}, epoch {self.epoch + 1}")

    def say(self, text: str) -> None:
        """Appends to train.log."""
        self.out.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def train(config: Config, group: Group, bar: Progress, label: str) -> None:
    """Trains one seed of a row to the end; deletes last.pt and keeps best.pt."""
    bar.name(label)
    Training(config, group, bar, label).fit()
    (Path(config.out) / "last.pt").unlink(missing_ok=True)


def measure(ablation: Ablation, row: Row, group: Group) -> None:
    """Measures the cost of a step of a row and writes cost.json, unless that exists."""
    from jca_fast.bench.step import step_cost

    config = training_of(ablation, row, 0)
    path = Path(config.out).parent / "cost.json"
    if path.is_file():
        return
    metrics = finished(config)
    arguments = dict(metrics["model"]) if metrics else {}
    arguments.pop("backend", None)
    _, visual, _ = AVEDataset(ablation.folder(), "train")[0]
    grid = visual.shape[1:-1]
    write_json(path, step_cost(arguments, ablation.batch_size, grid, str(group.device)))


def results(ablation: Ablation) -> list[RowResult]:
    """Every row of the table with its measurements so far."""
    found = []
    for row in TABLES[ablation.table]:
        if row.arguments is None:
            found.append(RowResult(row))
            continue
        configs = [training_of(ablation, row, seed) for seed in range(ablation.seeds)]
        runs = [metrics for config in configs if (metrics := finished(config)) is not None]
        cost = Path(configs[0].out).parent / "cost.json"
        found.append(RowResult(row, runs, read_cost(cost)))
    return found


def read_cost(path: Path) -> dict[str, Any]:
    """The content of cost.json, {} without the file; ValueError names a value that is no number."""
    cost = read_object(path) if path.is_file() else {}
    for part, values in cost.items():
        for name in values if isinstance(values, dict) else ("fused",):
            require_number(path, cost, part, name)
    return cost
