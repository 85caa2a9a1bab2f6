"""The audio-visual event localizer of the paper, complete."""

from .ave_localizer import AVELocalizer

__all__ = ["AVELocalizer"]
