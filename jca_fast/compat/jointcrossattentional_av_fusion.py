"""The ``CAM`` of praveena2j/JointCrossAttentional-AV-Fusion with its constructor defaults.

In place of ``from models.cam import CAM``::

    from jca_fast.compat.jointcrossattentional_av_fusion import CAM

The published constructor makes a regressor for 640 features, and the published ``forward`` gives it
256, which fails. This class has the published weights and gives the regressor 640 features:
[visual input; attended visual]. ``head_input="attended"`` makes a regressor for 256 features.
"""

from __future__ import annotations

from typing import Any

from . import cam

__all__ = ["CAM"]


class CAM(cam.CAM):
    """:class:`jca_fast.compat.cam.CAM` with N = 8 and one regressor."""

    def __init__(self, num_segments: int = 8, **options: Any) -> None:
        super().__init__(
            num_segments, **{"heads": ("regressor",), "head_input": "visual", **options}
        )
