"""The complete audio-visual event localizer of the paper."""

from .ave_localizer import AVELocalizer

__all__ = ["AVELocalizer"]
