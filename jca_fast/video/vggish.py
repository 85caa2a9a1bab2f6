"""VGGish (Hershey et al., 2017): 128 channels for each 0.96 s of sound."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import logmel, tf_checkpoint, weights

NEEDED = "weights of VGGish, the torch port's vggish-*.pth or TensorFlow's vggish_model.ckpt"
URL = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth"

_LAYOUT: tuple[int | str, ...] = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")
_TF_NAMES = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3/conv3_1",
    "features.8": "conv3/conv3_2",
    "features.11": "conv4/conv4_1",
    "features.13": "conv4/conv4_2",
    "embeddings.0": "fc1/fc1_1",
    "embeddings.2": "fc1/fc1_2",
    "embeddings.4": "fc2",
}


class VGGish(nn.Module):
    """The network, with the names of the public torch port.

    Shapes: log-mel patches (B, 1, 96, 64) -> embeddings (B, 128), after the last ReLU; no PCA and
    no quantisation.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for item in _LAYOUT:
            if isinstance(item, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(width, item, 3, padding=1), nn.ReLU()]
                width = item
        self.features = nn.Sequential(*layers)
        sizes = (12288, 4096, 4096, 128)
        dense = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes)]
        self.embeddings = nn.Sequential(*(module for pair in dense for module in pair))

    def forward(self, patches: Tensor) -> Tensor:
        x = self.features(patches)  # (B, 512, 6, 4)
        return self.embeddings(x.permute(0, 2, 3, 1).flatten(1))  # (B, 128)


def load(path: str | Path) -> VGGish:
    """VGGish with the weights of a file, which is recognised by its content.

    Raises FileNotFoundError, or ValueError naming the file and the missing part.
    """
    path = weights.require_file(path, NEEDED)
    with torch.device("meta"):
        model = VGGish()
    model.to_empty(device="cpu")
    if tf_checkpoint.is_table(path):
        values = _from_tensorflow(path)
    else:
        values = weights.read_torch(path, NEEDED)
    weights.fit(model, values, path, NEEDED)
    return model.eval()


class Embed:
    """`(samples (n,), rate) -> (128,)`: VGGish of one segment of sound.

    Sound shorter than a patch (0.975 s) is padded with zeros; the embeddings of several whole
    patches are averaged, and the sound after the last whole patch is dropped. So one second of
    sound gives the embedding of its first 0.975 s.
    """

    def __init__(self, model: VGGish) -> None:
        self.model = model

    @torch.no_grad()
    def __call__(self, samples: np.ndarray, rate: int) -> np.ndarray:
        if rate != logmel.RATE:
            raise ValueError(f"rate is {rate}; needed: {logmel.RATE}")
        patches = logmel.log_mel(logmel.padded(samples))  # (patches, 96, 64)
        return self.model(torch.from_numpy(patches).float()[:, None]).mean(dim=0).numpy()


def _from_tensorflow(path: Path) -> dict[str, Tensor]:
    """The weights of the TensorFlow checkpoint under the names of the torch port."""
    found = tf_checkpoint.read(path)
    values = {}
    for key, name in _TF_NAMES.items():
        for ours, theirs in (("weight", "weights"), ("bias", "biases")):
            full = f"vggish/{name}/{theirs}"
            if full not in found:
                raise ValueError(f"{path}: {full} is missing; needed: {NEEDED}")
            value = torch.from_numpy(found[full].copy())  # the array may be read-only
            values[f"{key}.{ours}"] = (
                value.permute(3, 2, 0, 1)
                if value.ndim == 4
                else value.T
                if value.ndim == 2
                else value
            )
    return values
