"""Calibration of label scores and prototypical fine-tuning, with scikit-learn's conventions."""

from pmpjax.prototypes.calibration import Calibrator, DoubtfulClassWarning
from pmpjax.prototypes.fine_tuning import PrototypeClassifier

__all__ = ["Calibrator", "DoubtfulClassWarning", "PrototypeClassifier"]
