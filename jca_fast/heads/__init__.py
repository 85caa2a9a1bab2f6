"""Heads on the fused features (B, N, d): classifiers, poolings, losses and their metrics.

Each head is a few lines of plain PyTorch. ``examples/`` has a program for every task.

=========================  ====================================================================
task                       parts
=========================  ====================================================================
event of every segment     a Linear and :func:`segment_loss`
events from video labels   a Linear and :func:`weak_loss`, scored by :func:`video_scores`
valence, arousal           a Linear and :func:`ccc_loss`, scored by :func:`concordance`
class of an utterance      :class:`UtteranceClassifier` and cross-entropy
identity of a speaker      :class:`AttentiveStatisticsPooling`, :class:`AdditiveAngularMargin`,
                           scored by :func:`equal_error_rate` and :func:`min_dcf`
=========================  ====================================================================
"""

from .classification import UtteranceClassifier, segment_loss, video_scores, weak_loss
from .regression import ccc_loss, concordance
from .verification import (
    AdditiveAngularMargin,
    AttentiveStatisticsPooling,
    equal_error_rate,
    min_dcf,
)

__all__ = [
    "AdditiveAngularMargin",
    "AttentiveStatisticsPooling",
    "UtteranceClassifier",
    "ccc_loss",
    "concordance",
    "equal_error_rate",
    "min_dcf",
    "segment_loss",
    "video_scores",
    "weak_loss",
]
