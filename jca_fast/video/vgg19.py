"""VGG19 (Simonyan and Zisserman, 2015) up to pool5: 7 x 7 regions of 512 channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from jca_fast.data.hdf5 import library

from . import weights

NEEDED = (
    "weights of VGG19, torchvision's vgg19-*.pth or Keras's "
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
SIZE = 224

_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
_MEAN = {"torchvision": (123.675, 116.28, 103.53), "keras": (123.68, 116.779, 103.939)}
_SD = {"torchvision": (58.395, 57.12, 57.375), "keras": (1.0, 1.0, 1.0)}


class VGG19(nn.Module):
    """The convolutions of VGG19 with torchvision's names, and the input scaling of its weights.

    Shapes: pictures (B, 224, 224, 3) uint8 RGB -> pool5 (B, 7, 7, 512), after ReLU and pooling.
    `origin` is "torchvision" (RGB, mean and standard deviation of ImageNet) or "keras" (BGR,
    mean only).
    """

    def __init__(self, origin: str) -> None:
        super().__init__()
        self.origin = origin
        layers: list[nn.Module] = []
        width = 3
        for channels, count in _BLOCKS:
            for _ in range(count):
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU(inplace=True)]
                width = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        mean, sd = (
            torch.tensor(table[self.origin], device=pictures.device) for table in (_MEAN, _SD)
        )
        x = (pictures.float() - mean) / sd  # (B, 224, 224, 3)
        if self.origin == "keras":
            x = x.flip(-1)
        x = x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return self.features(x).permute(0, 2, 3, 1)  # (B, 7, 7, 512)


def load(path: str | Path) -> VGG19:
    """VGG19 with the weights of a file, which may be torchvision's or Keras's.

    Raises FileNotFoundError, or ValueError naming the file and the missing part.
    """
    path = weights.require_file(path, NEEDED)
    keras = weights.is_hdf5(path)
    with torch.device("meta"):
        model = VGG19("keras" if keras else "torchvision")
    model.to_empty(device="cpu")
    values = _from_keras(path, model) if keras else weights.read_torch(path, NEEDED)
    if any(key.endswith("running_mean") for key in values):
        raise ValueError(f"{path}: VGG with batch normalisation; needed: {NEEDED}")
    weights.fit(model, values, path, NEEDED)
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


class Pool5:
    """`(frames (T, 224, 224, 3) uint8 RGB) -> (7, 7, 512)`: the mean of pool5 over the frames.

    A frame that equals the one before it is computed once and counted twice.
    """

    size = SIZE

    def __init__(self, model: VGG19) -> None:
        self.model = model

    @torch.no_grad()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        kept = [i for i in range(len(frames)) if not i or (frames[i] != frames[i - 1]).any()]
        counts = torch.tensor(np.diff([*kept, len(frames)]), dtype=torch.float32)
        pool5 = self.model(torch.from_numpy(frames[kept]))  # (kept, 7, 7, 512)
        return (torch.einsum("t,tyxc->yxc", counts, pool5) / len(frames)).numpy()


def _from_keras(path: Path, model: VGG19) -> dict[str, Tensor]:
    """The weights of a Keras file under torchvision's names; kernels become (out, in, 3, 3)."""
    h5py = library()
    convolutions = [i for i, layer in enumerate(model.features) if isinstance(layer, nn.Conv2d)]
    names = [
        f"block{block}_conv{i + 1}" for block, (_, n) in enumerate(_BLOCKS, 1) for i in range(n)
    ]
    values: dict[str, Tensor] = {}
    try:
        with h5py.File(path, "r") as file:
            for index, name in zip(convolutions, names, strict=True):
                if name not in file:
                    found = ", ".join(sorted(file)[:3])
                    raise ValueError(f"{name} is missing (found {found}, ...)")
                for value in _datasets(file[name]):
                    kind = "weight" if value.ndim == 4 else "bias"
                    tensor = torch.from_numpy(value)
                    values[f"features.{index}.{kind}"] = (
                        tensor.permute(3, 2, 0, 1) if value.ndim == 4 else tensor
                    )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: {error}; needed: {NEEDED}") from None
    return values


def _datasets(group: object) -> list[np.ndarray]:
    """All arrays at any depth of an h5 group."""
    h5py = library()
    found: list[np.ndarray] = []
    group.visititems(  # type: ignore[attr-defined]
        lambda _, item: found.append(item[()]) if isinstance(item, h5py.Dataset) else None
    )
    return found
