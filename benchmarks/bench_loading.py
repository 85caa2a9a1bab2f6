"""Reading clips of the published size, from float64 HDF5 and from the prepared cache.

The files are in the page cache of the system, so the figure measures the work of reading and not
the disk.
"""

from __future__ import annotations

import pytest
import torch

from jca_fast.data import AVEDataset, synthesize
from jca_fast.data.prepare import prepare


@pytest.fixture(scope="module")
def clips(tmp_path_factory, request):
    """The training clips of one planted set, from the files and from the cache."""
    tiny = {"visual_dim": 8, "grid": (2, 2)} if request.config.option.smoke else {}
    root = synthesize(tmp_path_factory.mktemp("planted"), num_clips=92, **tiny)
    stored = AVEDataset(root, "train")
    prepare(root, root / "cache")
    return stored, AVEDataset(root / "cache", "train")


def test_reading_clips(paired, clips):
    stored, cached = clips

    def read(dataset):
        return lambda: [torch.stack(t) for t in zip(*(dataset[i] for i in range(64)), strict=True)]

    providers = {"eager": read(stored), "jca_fast": read(cached)}
    result = paired("clips, float64 h5/cache", "64 clips", providers, clips=64)
    assert result["jca_fast"]["ms"] > 0
