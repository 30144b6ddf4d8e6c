"""Prototypical fine-tuning: classes as prototypes that grow in number with the data."""

from pmpjax.prototypes.fine_tuning.estimator import DuplicateWarning, PrototypeClassifier
from pmpjax.prototypes.fine_tuning.fit import Policy
from pmpjax.prototypes.fine_tuning.store import Prototypes

__all__ = ["DuplicateWarning", "Policy", "PrototypeClassifier", "Prototypes"]
