"""The drawn data of one clip: attention, labels and maps as arrays, from the data and the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from jca_fast.data.annotations import class_names
from jca_fast.data.clips import open_clips

MAX_FRAME = 360
"""The longer side, in pixels, of frames after they are read and reduced."""

Layer = dict[str, tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class ClipView:
    """The drawn data of one clip: N segments, `rows` x `columns` regions, background class last."""

    row: int
    video_id: str  # "" without Annotations.txt
    classes: Sequence[str]
    target: np.ndarray | None  # (N,) int64, true class; None without labels
    predicted: np.ndarray  # (N,) int64
    audio_norm: np.ndarray  # (N,) length of the audio feature
    attention: np.ndarray | None = None  # (N, rows, columns), sums to 1 over the regions
    position: np.ndarray | None = None  # (N, rows, columns) bool, where the planted object is
    audible: np.ndarray | None = None  # (N,) bool, whether the planted object sounds
    frames: list[np.ndarray] | None = None  # N images (height, width, 3) uint8
    # "C" and "H" of every fusion layer, audio before visual
    layers: list[Layer] = field(default_factory=list)
    form: str = "paper"

    @property
    def shown(self) -> np.ndarray:
        """The true classes, or without labels the predicted ones, (N,)."""
        return self.predicted if self.target is None else self.target

    @property
    def name(self) -> str:
        """The prefix of the names of its pictures."""
        return f"{self.row}_{self.video_id}".rstrip("_").replace("/", "_")

    @property
    def title(self) -> str:
        """A title for the clip: its event, and its video id or row."""
        events = [
            self.classes[c]
            for c in dict.fromkeys(self.shown.tolist())
            if c != len(self.classes) - 1
        ]
        return f"{', '.join(events) or 'no event'}  (clip {self.video_id or self.row})"

    def short(self, label: int) -> str:
        """A short class name: "Violin" for "Violin, fiddle", "bg" for background."""
        if label == len(self.classes) - 1:
            return "bg"
        return self.classes[label].split(",")[0].split("(")[0].strip()


class ClipSource:
    """Reads clips of one split for drawing. `frames` is the folder of frames, or None; `trained`
    are the names of the classes in the checkpoint.

    Raises FileNotFoundError or ValueError naming the faulty file.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        data: str | Path,
        split: str,
        frames: str | Path | None = None,
        trained: Sequence[str] | None = None,
    ) -> None:
        self.model, self.dataset = model, open_clips(data, split)
        self.frames = Path(frames) if frames is not None else None
        if self.frames and not self.frames.is_dir():
            raise FileNotFoundError(f"--frames {self.frames}: no such folder")
        num_classes = int(model.config["num_classes"])  # type: ignore[index]
        self.classes = class_names(num_classes, self.dataset.events, trained)
        self.planted = self.dataset.read_planted()

    def video_id(self, index: int) -> str:
        """Video id of the clip at position `index` of the split; "" if it is unknown."""
        events = self.dataset.events
        return events[int(self.dataset.indices[index])].video_id if events else ""

    def choose(self, clips: str) -> list[int]:
        """Positions in the split of the clips in `clips`; see the help of the command."""
        if clips.isascii() and clips.isdigit():
            if not 1 <= int(clips) <= len(self.dataset):
                raise ValueError(
                    f"--clips {clips}: {self.dataset.split} has 1 to {len(self.dataset)} clips "
                    "to draw"
                )
            return self._first(int(clips))
        found = []
        for wanted in clips.split(","):
            matches = [i for i in range(len(self.dataset)) if wanted.strip() in self._names(i)]
            if not matches:
                known = ", ".join(self._names(i)[-1] for i in range(min(3, len(self.dataset))))
                raise ValueError(
                    f"--clips: no clip {wanted!r} in split {self.dataset.split!r}; "
                    f"it has {known}, ..."
                )
            found += matches
        return list(dict.fromkeys(found))

    @torch.no_grad()
    def view(self, index: int) -> ClipView:
        """The clip at position `index` of the split."""
        audio, visual, *labels = self.dataset[index]  # (N, d_a), (N, ..., d_v), [(N, C)]
        scores, maps = self.model(audio[None], visual[None], return_maps=True)
        if not scores.isfinite().all():
            raise ValueError(
                f"{self.dataset.split} clip {self.dataset.clip_name(index)}: its scores are not "
                "finite, so there is nothing to draw"
            )
        attention, row = maps["visual_attention"], int(self.dataset.indices[index])
        grid = _grid(tuple(visual.shape))
        position, audible = self._planted(row, (len(audio), *grid))
        return ClipView(
            row=row,
            video_id=self.video_id(index),
            classes=self.classes,
            target=labels[0].argmax(dim=-1).numpy() if labels else None,
            predicted=scores[0].argmax(dim=-1).numpy(),
            audio_norm=audio.norm(dim=-1).numpy(),
            attention=None if attention is None else attention[0].reshape(-1, *grid).numpy(),
            position=position,
            audible=audible,
            frames=self._read_frames(self.video_id(index) or str(row), len(audio)),
            layers=[
                {symbol: tuple(m[0].numpy() for m in layer[symbol]) for symbol in layer}
                for layer in maps["coattention"]
            ],
            form=self.model.config["form"],  # type: ignore[index, arg-type]
        )

    def _names(self, index: int) -> tuple[str, ...]:
        row, video_id = int(self.dataset.indices[index]), self.video_id(index)
        return (f"{row}:", f"{row}:{video_id}", video_id) if video_id else (f"{row}:",)

    def _first(self, count: int) -> list[int]:
        if self.dataset.labels is None:
            return list(range(count))
        classes = self.dataset.labels.argmax(dim=-1)  # (n, N)
        background = self.dataset.labels.shape[2] - 1
        first: dict[int, int] = {}
        for index, labels in enumerate(classes.tolist()):
            if len(set(labels)) > 1:
                first.setdefault(min(labels, key=lambda c: c == background), index)
        preferred = list(first.values())[:count]
        others = (i for i in range(len(classes)) if i not in preferred)
        return preferred + [next(others) for _ in range(count - len(preferred))]

    def _planted(
        self, row: int, shape: tuple[int, ...]
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        if self.planted is None:
            return None, None
        position, audible, _ = self.planted
        return position[row].reshape(shape) > 0, audible[row] > 0

    def _read_frames(self, clip: str, count: int) -> list[np.ndarray] | None:
        return None if self.frames is None else read_frames(self.frames / clip, count)


def read_frames(folder: Path, count: int) -> list[np.ndarray]:
    """The images `<segment>.jpg`, `.jpeg` or `.png` of segments 0 .. count - 1.

    Each is (height, width, 3) uint8. Raises FileNotFoundError naming the segments without an image,
    ValueError for two images of one segment or a file that is not an image.
    """
    from PIL import Image, UnidentifiedImageError

    needed = f"needed: {folder}/<segment>.jpg, .jpeg or .png for segments 0 to {count - 1}"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; {needed}")
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if (
            path.suffix.lower() in (".jpg", ".jpeg", ".png")
            and path.stem.isascii()
            and path.stem.isdigit()
        ):
            if int(path.stem) in found:
                raise ValueError(f"{path}: a second image of segment {int(path.stem)}; {needed}")
            found[int(path.stem)] = path
    missing = [str(segment) for segment in range(count) if segment not in found]
    if missing:
        raise FileNotFoundError(f"{folder}: no image of segment {', '.join(missing)}; {needed}")
    images = []
    for segment in range(count):
        try:
            with Image.open(found[segment]) as image:
                small = image.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{found[segment]}: not a readable image ({error})") from None
        small.thumbnail((MAX_FRAME, MAX_FRAME))
        images.append(np.asarray(small))
    return images


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the regions of features (N, rows, columns, D) or (N, R, D).

    There is one row if R is not a square.
    """
    if len(shape) == 4:
        return shape[1], shape[2]
    side = round(shape[1] ** 0.5)
    return (side, side) if side * side == shape[1] else (1, shape[1])
