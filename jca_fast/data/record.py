"""The record of an extraction: stored with the features, kept in checkpoints, and compared.

Features made by `jca-fast extract` have a record. The published features have none and count as
features of VGG19 and VGGish.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jca_fast.reading import read_text

from .hdf5 import UNREADABLE, open_h5

Record = dict[str, Any]

ATTRIBUTE = "extraction"
"""Attribute of the feature files that holds the record as JSON."""

FILE = "extraction.json"
"""The file with the same record, which is copied into a prepared cache."""

_COMPARED = ("visual network", "audio network", "segment seconds", "frames per segment")


def read_record(root: str | Path) -> Record | None:
    """The record of the features in the folder `root`; None for features without one.

    Raises ValueError if the record is damaged, or if sound and picture have different records.
    """
    root = Path(root)
    features = [root / f"{kind}_feature.h5" for kind in ("audio", "visual")]
    if (root / FILE).is_file() and not any(path.is_file() for path in features):
        return _parse(read_text(root / FILE), root / FILE)
    texts = {_attribute(path) for path in features}
    if len(texts) > 1:
        raise ValueError(
            f"{root}: audio_feature.h5 and visual_feature.h5 come from different extractions; "
            "needed: both of one"
        )
    text = texts.pop()
    return None if text is None else _parse(text, root / "audio_feature.h5")


def require_same_features(
    checkpoint: str | Path, kept: Record | None, source: str | Path, found: Record | None
) -> None:
    """Raise ValueError unless a checkpoint and a source have features of the same extraction.

    `kept` is the record in the checkpoint, `found` that of the source; None is a missing record.
    """
    if (kept is None) != (found is None):
        lone = found if kept is None else kept
        assert lone is not None
        if is_published_kind(lone):
            return
        owner, other = (source, checkpoint) if kept is None else (checkpoint, source)
        raise ValueError(
            f"{checkpoint} does not fit {source}: the features of {owner} were made by "
            f"{describe(lone)}, and those of {other} have no record, as the published ones of "
            "VGG19 and VGGish; needed: features made in one way (jca-fast extract)"
        )
    if kept is None or found is None:
        return
    before, now = identity(kept), identity(found)
    differing = [f"{k} was {before[k]}, now {now[k]}" for k in _COMPARED if before[k] != now[k]]
    if differing:
        raise ValueError(
            f"{checkpoint} does not fit {source}: its features were made in another way "
            f"({'; '.join(differing)}); needed: features made in one way (jca-fast extract)"
        )


def identity(record: Record) -> dict[str, str]:
    """The properties, as text, that two records of the same features share."""
    return {
        "visual network": _network(record["visual"]),
        "audio network": _network(record["audio"]),
        "segment seconds": f"{record['segment_seconds']:g}",
        "frames per segment": str(record["frames_per_segment"]),
    }


def describe(record: Record) -> str:
    """The names of both networks of a record."""
    return f"{record['visual']['name']} (picture) and {record['audio']['name']} (sound)"


def is_published_kind(record: Record) -> bool:
    """Whether a record names the networks of the published features."""
    return record["visual"]["name"].startswith("vgg19 ") and record["audio"]["name"] == "vggish"


def _network(entry: dict[str, str]) -> str:
    return f"{entry['name']}, {entry['sha256'][:12] or 'no hash'}"


def _attribute(path: Path) -> str | None:
    if not path.is_file():
        return None
    with open_h5(path) as file:
        try:
            value = file.attrs.get(ATTRIBUTE)
        except UNREADABLE as error:
            raise ValueError(f"{path}: its attributes cannot be read ({error})") from None
    return value if value is None or isinstance(value, str) else ""


def _parse(text: Any, path: Path) -> Record:
    try:
        return check_record(json.loads(text), path)
    except (TypeError, UnicodeError, json.JSONDecodeError, RecursionError):
        return check_record(None, path)


def check_record(record: Any, path: str | Path) -> Record:
    """The record, if it is valid; otherwise ValueError naming the file `path`."""
    fields = record if isinstance(record, dict) else {}
    networks = [fields.get(kind) for kind in ("visual", "audio")]
    texts = [n.get(key) for n in networks if isinstance(n, dict) for key in ("name", "sha256")]
    numbers = [fields.get(key) for key in ("segment_seconds", "frames_per_segment")]
    if [type(value) for value in texts] != [str] * 4 or not all(map(_is_number, numbers)):
        raise ValueError(f"{path}: its record of the extraction is damaged")
    return fields


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < 10**9
