"""Calibration of label scores, with scikit-learn's conventions."""

from pmpjax.prototypes.calibration import Calibrator, DoubtfulClassWarning

__all__ = ["Calibrator", "DoubtfulClassWarning"]
