"""The two networks of an extraction: how they are found, called and recorded.

A network is a callable: `(frames (T, size, size, 3) uint8 RGB) -> (7, 7, C)` for the picture, with
`size` an attribute of it (224 if it has none), or `(samples (n,) float32, rate) -> (C,)` for the
sound.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .logmel import RATE

EMBEDDED = "embedded"
DOWNLOAD = "download"


@dataclass(frozen=True)
class Network:
    """A callable for one modality, its name, and the hash of its weights or of its source."""

    name: str
    sha256: str
    call: Callable[..., np.ndarray] = field(repr=False)

    @property
    def size(self) -> int:
        """The width and height of its input pictures."""
        return int(getattr(self.call, "size", 224))

    def record(self) -> dict[str, str]:
        return {"name": self.name, "sha256": self.sha256}


def visual_network(spec: str = EMBEDDED) -> Network:
    """The network for pictures: "embedded", a file of VGG19's weights, or "module:function"."""
    from . import vgg19, weights

    if spec == EMBEDDED:
        from . import embedded

        return Network(embedded.NAME, embedded.weights_hash(), embedded.Visual())
    if _is_function(spec):
        return _function(spec, "visual")
    path = weights.require_file(spec, f"{vgg19.NEEDED}; or module:function, or {EMBEDDED}")
    model = vgg19.load(path)
    return Network(f"vgg19 ({model.origin})", weights.sha256(path), vgg19.Pool5(model))


def audio_network(spec: str = EMBEDDED) -> Network:
    """The network for sound: "embedded", a file of VGGish's weights, or "module:function"."""
    from . import vggish, weights

    if spec == EMBEDDED:
        from . import embedded

        return Network(embedded.NAME, embedded.weights_hash(), embedded.Audio())
    if _is_function(spec):
        return _function(spec, "audio")
    path = weights.require_file(spec, f"{vggish.NEEDED}; or module:function, or {EMBEDDED}")
    return Network("vggish", weights.sha256(path), vggish.Embed(vggish.load(path)))


def download(kind: str) -> str:
    """Download the weights of "vgg19" or "vggish" by torch.hub and check their hash.

    Returns their path.
    """
    from . import vgg19, vggish

    url = {"vgg19": vgg19.URL, "vggish": vggish.URL}[kind]
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        digits = path.stem.rsplit("-", 1)[1]  # the name ends in the first digits of the SHA-256
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits)
    return str(path)


def check_features(network: Network, values: Any, axes: int) -> np.ndarray:
    """The result of a network, an array or a tensor, as float32.

    Raises ValueError for values that are not real numbers, NaN, Inf, and other numbers of axes.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{network.name} returned {values.dtype}; needed: an array of numbers")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if values.ndim != axes or 0 in values.shape:
        needed = "(7, 7, C)" if axes == 3 else "(C,)"
        raise ValueError(f"{network.name} returned shape {values.shape}; needed: {needed}")
    if not np.isfinite(values).all():
        raise ValueError(f"{network.name} returned NaN or infinite values")
    return values


def hear(network: Network, samples: np.ndarray) -> np.ndarray:
    """The network's features of one segment of sound, (C,) float32."""
    return check_features(network, network.call(samples, RATE), 1)


def see(network: Network, frames: np.ndarray) -> np.ndarray:
    """The network's features of the pictures of one segment, (7, 7, C) float32."""
    return check_features(network, network.call(frames), 3)


def _is_function(spec: str) -> bool:
    return ":" in spec and not Path(spec).exists()


def _function(spec: str, flag: str) -> Network:
    """The callable `module:function`; modules are also searched in the working folder."""
    import sys

    module_name, _, name = spec.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:  # ValueError for an empty name
        raise ImportError(f"--{flag} {spec}: {module_name} cannot be imported ({error})") from error
    call = getattr(module, name, None)
    if not callable(call):
        raise ValueError(f"--{flag} {spec}: {module_name} has no function {name!r}")
    size = getattr(call, "size", 224)
    if not isinstance(size, int) or not 1 <= size <= 4096:
        raise ValueError(f"--{flag} {spec}: its size is {size!r}; needed: pixels, 1 to 4096")
    return Network(spec, _source_hash(module), call)


def _source_hash(module: Any) -> str:
    """SHA-256 of the source of a module, so that a changed function has another hash."""
    try:
        return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
    except (OSError, TypeError):
        return ""
