"""Planted videos: mp4 files made from the plans of Planted AVE (`jca_fast.data.planted`).

A clip of class c shows the moving object of c and silent objects of other classes over a textured
background, and may contain the sound of a class that is never seen. The event is the time when c is
heard and seen. An object is a patterned shape in one of four colours. A sound is a tone, a chord, a
sweep, or a band of noise, at a pitch of the class.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jca_fast import atomic
from jca_fast.data import files
from jca_fast.data.annotations import CATEGORIES, Event, class_indices
from jca_fast.data.planted import Plan, World, plan_clip, stream

from .logmel import RATE

FOLDER = "videos"
SIDE, FRAME_RATE = 224, 8
CLASSES = 8
"""The default number of classes."""

_EVENTS = 2**64 - 3  # stream of random numbers of the generated events; clips use 0, 1, ...
_FILES = (files.ANNOTATIONS, files.PLANTED, *(f"{split}_order.h5" for split in files.SPLITS))


def synthesize_videos(
    root: str | Path,
    num_videos: int,
    *,
    classes: int = CLASSES,
    num_segments: int = 10,
    seed: int = 0,
    distractors: int = 2,
    offscreen: float = 0.5,
    full_length: float = 0.4,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Render `num_videos` clips as root/videos/<id>.mp4, 224 x 224 at 8 pictures per second.

    Also writes Annotations.txt, the three order files (70/15/15 at random), and planted.h5 with
    `position`, `audible`, `visible`, `silent_objects` and `offscreen_sound` as in Planted AVE and
    `boxes` (n, N, 1 + distractors, 4): left, top, right and bottom of the object of the class and
    of the silent objects in shares of the picture, 0 if there is none. Equal arguments give equal
    pictures and sound. Raises ValueError for bad arguments, FileExistsError if such files exist.
    """
    from tqdm import tqdm

    root = Path(root)
    _check(root, num_videos, classes, full_length, overwrite)
    world = World(classes, num_segments, 2, 2, (7, 7), seed, 1.0, distractors, offscreen)
    rng = stream(seed, _EVENTS)
    events = _events(rng, num_videos, classes, num_segments, full_length)
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    planted: dict[str, list[Any]] = {}
    numbers = enumerate(zip(events, class_indices(events), strict=True))
    for row, (event, category) in tqdm(numbers, "videos", num_videos, disable=not progress):
        clip = stream(seed, row)
        plan = plan_clip(clip, world, int(category), range(event.start, event.end))
        boxes = _boxes(clip, plan)
        target = root / FOLDER / f"{event.video_id}.mp4"
        with atomic.replacing(target) as temporary:
            write_video(temporary, _pictures(clip, plan, boxes), _sound(clip, plan), FRAME_RATE)
        for name, values in _truth(plan, boxes).items():
            planted.setdefault(name, []).append(values)
    text = "".join(event.line() + "\n" for event in events)
    atomic.write_text(root / files.ANNOTATIONS, text)
    for split, order in _splits(rng, num_videos).items():
        files.write_h5(root / f"{split}_order.h5", order=order)
    settings = json.dumps({**world.settings(), "videos": num_videos, "numpy": np.__version__})
    arrays = {name: np.stack(values) for name, values in planted.items()}
    files.write_h5(root / files.PLANTED, {"settings": settings}, **arrays)
    return root


def write_video(
    path: Path, pictures: Iterator[np.ndarray], sound: np.ndarray, frame_rate: int
) -> None:
    """Write pictures (height, width, 3) uint8 and mono sound (n,) at 16 kHz as mp4 (H.264, AAC)."""
    import av

    with av.open(
        str(path.absolute()), "w", format="mp4", options={"movflags": "faststart"}
    ) as container:
        video: Any = container.add_stream("libx264", rate=frame_rate)
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        video.options = {"preset": "ultrafast", "crf": "23", "x264-params": "threads=1"}
        audio: Any = container.add_stream("aac", rate=RATE)
        audio.layout = "mono"
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(sound.astype(np.float32)[None], "fltp", "mono")
        frame.sample_rate, frame.pts = RATE, 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode())


def _check(root: Path, videos: int, classes: int, full_length: float, overwrite: bool) -> None:
    if videos < 8:
        raise ValueError(f"--videos is {videos}; needed: 8 or more, so that every split gets one")
    if not 4 <= classes < len(CATEGORIES):
        raise ValueError(f"--classes is {classes}; needed: 4 to {len(CATEGORIES) - 1}")
    if not 0 <= full_length <= 1:
        raise ValueError(f"full_length is {full_length}; needed: a share, 0 to 1")
    taken = [name for name in (*_FILES, FOLDER) if (root / name).exists()]
    if taken and not overwrite:
        raise FileExistsError(
            f"{root}: already holds {', '.join(taken)}; needed: another folder, or --overwrite"
        )
    for leftover in (root / FOLDER).glob("*.mp4"):
        leftover.unlink()


def _events(
    rng: np.random.Generator, count: int, classes: int, segments: int, full_length: float
) -> list[Event]:
    """Events of the classes in turn, two segments or longer."""
    events = []
    for i in range(count):
        whole = rng.random() < full_length
        length = segments if whole else int(rng.integers(min(2, segments), segments + 1))
        start = int(rng.integers(0, segments - length + 1))
        name = CATEGORIES[i % classes]
        events.append(Event(name, f"pv{i:06d}", "good", start, start + length))
    return events


def _splits(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    held_out = max(1, round(0.15 * count))
    parts = np.split(rng.permutation(count), [count - 2 * held_out, count - held_out])
    return dict(zip(files.SPLITS, parts, strict=True))


def _truth(plan: Plan, boxes: np.ndarray) -> dict[str, Any]:
    return {
        "position": plan.places[0].reshape(len(plan.audible), -1).astype(np.uint8),
        "audible": plan.audible.astype(np.uint8),
        "visible": plan.visible.astype(np.uint8),
        "silent_objects": plan.silent_objects,
        "offscreen_sound": plan.offscreen_sound,
        "boxes": boxes.transpose(1, 0, 2).astype(np.float32),
    }


# ---- the picture


def _boxes(rng: np.random.Generator, plan: Plan) -> np.ndarray:
    """The box of each object, inside the cells of its place: (objects, N, 4) in shares."""
    objects, segments, rows, columns = plan.places.shape
    boxes = np.zeros((objects, segments, 4))
    for i, t in np.ndindex(objects, segments):
        down, right = np.nonzero(plan.places[i, t])
        if len(down):
            margin = rng.uniform(0.02, 0.12, 4)
            corners = (right.min(), down.min(), right.max() + 1, down.max() + 1)
            inner = corners + margin * (1, 1, -1, -1) * 2
            boxes[i, t] = inner / (columns, rows, columns, rows)
    return boxes


def _pictures(rng: np.random.Generator, plan: Plan, boxes: np.ndarray) -> Iterator[np.ndarray]:
    """The frames (224, 224, 3) uint8: the objects on a drifting background."""
    background = _background(rng)
    drift = rng.integers(-2, 3, 2)
    classes = [plan.category, *plan.silent_objects.tolist()]
    phase = rng.uniform(0, 2 * np.pi, len(classes))
    for number in range(boxes.shape[1] * FRAME_RATE):
        picture = np.roll(background, tuple(drift * number // 2), axis=(0, 1))
        beat = 2 * np.pi * (number % FRAME_RATE) / FRAME_RATE
        for i, category in enumerate(classes):
            box = boxes[i, number // FRAME_RATE]
            if box.any():
                sway = 3 * np.array([np.cos(beat + phase[i]), np.sin(beat + phase[i])])
                _draw(picture, category, box * SIDE, sway)
        yield picture


def _background(rng: np.random.Generator) -> np.ndarray:
    """Smooth blotches and fine grain in dull colours, (224, 224, 3) uint8."""
    layers = [
        np.kron(rng.uniform(-1, 1, (side, side, 3)), np.ones((SIDE // side, SIDE // side, 1)))
        for side in (4, 14, 56, 112)
    ]
    grey = rng.uniform(70, 150) + 14 * sum(layer.mean(axis=2, keepdims=True) for layer in layers)
    return (grey + 7 * sum(layers)).clip(0, 255).astype(np.uint8)


def _draw(picture: np.ndarray, category: int, box: np.ndarray, sway: np.ndarray) -> None:
    """Draw the object of a class into the picture, in place."""
    left, top = (box[:2] + 3 + sway).round().astype(int)
    width, height = (box[2:] - box[:2] - 6).round().astype(int)
    mask, colours = _sprite(category, int(width), int(height))
    part = picture[max(top, 0) : top + height, max(left, 0) : left + width]
    height, width = part.shape[:2]
    part[mask[:height, :width]] = colours[:height, :width][mask[:height, :width]]


@cache
def _sprite(category: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Mask (height, width) and colours (height, width, 3): 4 hues, 7 patterns, 3 outlines."""
    y, x = np.mgrid[0:height, 0:width]
    u, v = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
    outlines = (u**2 + v**2 < 1, np.maximum(abs(u), abs(v)) < 0.95, abs(u) + abs(v) < 1.15)
    patterns = (
        np.ones_like(x, bool),
        x // 5 % 2 == 0,
        y // 5 % 2 == 0,
        (x + y) // 6 % 2 == 0,
        (x - y) // 6 % 2 == 0,
        (x // 6 + y // 6) % 2 == 0,
        np.hypot(u, v) % 0.5 < 0.25,
    )
    hue = (0.0, 0.33, 0.6, 0.14)[category % 4]
    bright, dark = (
        np.array([round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.95, value)], np.uint8)
        for value in (1.0, 0.25)
    )
    colours = np.where(patterns[category % 7][..., None], bright, dark)
    return outlines[category % 3], colours


# ---- the sound


def _sound(rng: np.random.Generator, plan: Plan) -> np.ndarray:
    """Room noise, the sound of the class and the off-screen sound, (16,000 N,) float32."""
    length = len(plan.audible) * RATE
    sound = 0.004 * rng.standard_normal(length)
    for category, when in (
        (plan.category, plan.audible),
        (plan.offscreen_sound, plan.offscreen),
    ):
        if category >= 0:
            loudness = np.repeat(when * rng.uniform(0.08, 0.16, len(when)), RATE)
            fade = np.convolve(loudness, np.ones(160) / 160, "same")
            sound += fade * _voice(rng, category, length)
    return sound.clip(-1, 1).astype(np.float32)


def _voice(rng: np.random.Generator, category: int, length: int) -> np.ndarray:
    """The sound of a class at a level of about 1: four kinds, each at seven pitches."""
    time = np.arange(length) / RATE
    pitch = 220 * 2 ** (category * 4.3 / 28) * rng.uniform(0.99, 1.01)
    kind = category % 4
    if kind == 0:  # a tone with vibrato
        return np.sin(2 * np.pi * pitch * time + 3 * np.sin(2 * np.pi * 5 * time))
    if kind == 1:  # a chord of odd overtones
        overtones = np.array([1, 3, 5, 7])[:, None]
        return (np.sin(2 * np.pi * pitch * overtones * time) / overtones).sum(axis=0)
    if kind == 2:  # a sweep over an octave, four times a second
        sweep = pitch * 4 * (time + (1 - np.cos(2 * np.pi * 4 * time)) / (8 * np.pi))
        return np.sin(2 * np.pi * sweep)
    carrier = np.sin(2 * np.pi * pitch * 6 * time)  # a band of noise, in bursts
    slow = np.convolve(rng.standard_normal(length), np.ones(24) / 24**0.5, "same")
    return carrier * slow * (1 + np.sin(2 * np.pi * 8 * time))
