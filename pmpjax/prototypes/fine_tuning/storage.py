"""A fitted classifier in a folder: arrays, and what names them. No code is stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from pmpjax.prototypes.fine_tuning.estimator import Level, PrototypeClassifier
from pmpjax.prototypes.fine_tuning.store import Prototypes
from pmpjax.runs.files import read_arrays, read_json, write_arrays, write_json
from pmpjax.runs.lock import RunError

_ARRAYS, _NAMES = "classifier.npz", "classifier.json"


class Stored(NamedTuple):
    """model: fitted. texts: of its examples, in their order."""

    model: PrototypeClassifier
    texts: list[str]


def save_classifier(folder: Path, model: PrototypeClassifier, texts: Sequence[str]) -> None:
    """Writes a fitted classifier whose classes are text, and the texts of its examples."""
    store = {f"store.{name}": part for name, part in model.store_._asdict().items()}
    examples = {"examples": model.examples_, "example_labels": model.example_labels_}
    write_arrays(folder / _ARRAYS, store | examples | {"temperature": model.temperature_})
    names = {
        "classes": [str(name) for name in model.classes_],
        "concentration": model.concentration_,
        "calibrated": model.calibrated_,
        "levels": [level._asdict() for level in model.levels_],
        "texts": list(texts),
    }
    write_json(folder / _NAMES, names)


def load_classifier(folder: Path) -> Stored:
    """Reads what `save_classifier` wrote; `predict` gives the same bits.

    Raises RunError: files that are missing, or are not of one classifier.
    """
    names = read_json(folder / _NAMES)
    if not (folder / _ARRAYS).is_file():
        raise RunError(f"{folder} has no {_ARRAYS}; fit again with `pmpjax prototypes fit`")
    held = read_arrays(folder / _ARRAYS)
    model = PrototypeClassifier()
    try:
        store = Prototypes(*(jnp.asarray(held[f"store.{name}"]) for name in Prototypes._fields))
        model.examples_, model.example_labels_ = held["examples"], held["example_labels"]
        model.temperature_ = float(held["temperature"])
        model.classes_, model.concentration_ = np.asarray(names["classes"]), names["concentration"]
        model.calibrated_ = names["calibrated"]
        model.levels_ = [Level(**level) for level in names["levels"]]
        texts = names["texts"]
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder} holds another kind of classifier ({error}); fit again") from error
    if len(texts) != len(model.examples_) or len(model.classes_) <= int(store.classes.max()):
        raise RunError(f"{folder / _NAMES} and {_ARRAYS} are not of one classifier; fit again")
    model.n_features_in_ = store.points.shape[1]
    model.keep(store)
    return Stored(model, texts)
