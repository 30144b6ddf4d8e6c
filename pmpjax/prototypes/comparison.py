"""`pmpjax calibrate`: every method of calibration on one file of label scores."""

import dataclasses
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from jaxtyping import Float
from sklearn.metrics import roc_auc_score

from pmpjax.prototypes.calibration import Calibrator, Method
from pmpjax.prototypes.prompted import scores_of
from pmpjax.runs.files import read_arrays, write_arrays
from pmpjax.runs.progress import Bar

_ALL: tuple[Method, ...] = ("argmax", "contextual", "batch", "prototypical", "supervised")


@dataclasses.dataclass(frozen=True)
class CalibrateConfig:
    """Which scores, and how they are corrected.

    Attributes:
        scores: .npz file with `logp` [N, C]; optionally `labels` [N], `content_free` [C] or [M, C], `classes` [C] (the
            columns' names, which labels then number), and `fit` [N], true for the texts that are fitted (without it
            all are). Or a prompt file: .json with model, data, template and options, whose scores are made first.
        method: one method alone; without it all that the file allows.
        starts: of the clusters.
        seed: of the starts.
        out: .npz file of predictions; in the folder of the scores if absent.
    """

    scores: tyro.conf.Positional[Path]
    method: Method | None = None
    starts: int = 100
    seed: int = 0
    out: Path | None = None


class Result(NamedTuple):
    """One method on the texts that were not fitted, or on all where all were.

    Fields:
        calibrator: fitted.
        accuracy: share of right classes; None without labels.
        auc: area under the curve of each class against the others, their mean; None without labels.
        predicted: [C] texts of each class.
        texts: that these figures are of.
        names: [C] of the classes.
    """

    calibrator: Calibrator
    accuracy: float | None
    auc: float | None
    predicted: np.ndarray
    texts: int
    names: np.ndarray


def run(config: CalibrateConfig, progress: Callable[..., AbstractContextManager[Bar]]) -> dict[str, Result]:
    """Fits each method and writes `<method>` [N] (numbers of classes) and `<method>_probabilities` [N, C] to `out`.

    Of a prompt file the scores are written too, as an .npz file of the same name: the model runs once.
    "supervised" is fitted only where `fit` leaves texts that it has not seen: its figure on its own would say nothing.

    Args:
        progress: `pmpjax.runs.progress.progress`.

    Raises ValueError: the file lacks `logp`, its arrays are not of one number of texts, or the method needs another.
    """
    path = config.scores
    if path.suffix == ".json":
        write_arrays(path.with_suffix(".npz"), scores_of(path, progress))
        path = path.with_suffix(".npz")
    held = _read(path)
    classes = held.get("classes")
    scores, labels = held["logp"], held.get("labels")
    fitted = held.get("fit", np.ones(len(scores), bool))
    shown = ~fitted if not fitted.all() else fitted
    allowed: dict[str, bool] = {
        "contextual": "content_free" in held,
        "supervised": labels is not None and not fitted.all() and len(np.unique(labels[fitted])) == scores.shape[1],
    }
    methods: list[Method] = [m for m in _ALL if allowed.get(m, True)] if config.method is None else [config.method]
    results, arrays = {}, {}
    with progress("calibrate", total=len(methods)) as bar:
        for method in methods:
            calibrator = Calibrator(method, starts=config.starts, seed=config.seed)
            # Named classes number the columns, so labels are needed only where they are learned from.
            known = labels if classes is None or method == "supervised" else None
            content_free = held.get("content_free")
            calibrator.fit(scores[fitted], None if known is None else known[fitted], content_free=content_free)
            probabilities = calibrator.predict_proba(scores)
            chosen = np.argmax(probabilities, axis=1)
            arrays[method], arrays[f"{method}_probabilities"] = chosen, probabilities
            counts = np.bincount(chosen[shown], minlength=scores.shape[1])
            accuracy = auc = None
            if labels is not None:
                _check_known(path, labels, calibrator.classes_)
                accuracy = float(np.mean(calibrator.classes_[chosen[shown]] == labels[shown]))
                auc = area_under_curve(probabilities[shown], np.searchsorted(calibrator.classes_, labels[shown]))
            names = calibrator.classes_ if classes is None else classes
            results[method] = Result(calibrator, accuracy, auc, counts, int(shown.sum()), names)
            bar.update()
    write_arrays(config.out or config.scores.with_suffix(".calibrated.npz"), arrays)
    return results


def area_under_curve(probabilities: Float[np.ndarray, "n c"], labels: np.ndarray) -> float | None:
    """P(score of a text of the class > score of another), each class against the others, their mean.

    None where a class has no text, or every text. It does not depend on where the thresholds lie: what calibration can
    reach.
    """
    present = np.bincount(labels, minlength=probabilities.shape[1])
    if (present == 0).any():
        return None
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(roc_auc_score(labels, probabilities, multi_class="ovr"))


def rows_of(result: Result) -> dict[str, str]:
    """The result's lines in a table."""
    found = result.calibrator
    rows = {"texts": f"{result.texts:,}"}
    if result.accuracy is not None:
        rows["accuracy"] = f"{result.accuracy:.1%}"
        rows["AUC"] = "a class has no text" if result.auc is None else f"{result.auc:.1%}"
    names = ", ".join(f"{name}: {count:,}" for name, count in zip(result.names, result.predicted, strict=True))
    rows["predicted"] = names
    if found.clipped_:
        rows["scores below log 1e-12"] = f"{found.clipped_:,}"
    if found.method == "prototypical":
        spread = found.run_scores_
        rows["sum of the assignment"] = (
            f"{found.assignment_score_:.3f}; second best permutation {found.assignment_margin_:.3f} less; "
            f"starts {np.nanmin(spread):.3f} to {np.nanmax(spread):.3f}"
        )
        likelihoods = found.run_log_likelihoods_
        rows["log-likelihood, nats per text"] = (
            f"{likelihoods[np.nanargmax(spread)]:.3f}; "
            f"starts {np.nanmin(likelihoods):.3f} to {np.nanmax(likelihoods):.3f}"
        )
        if np.isnan(likelihoods).any():
            rows["starts that collapsed"] = f"{np.isnan(likelihoods).sum()} of {len(likelihoods)}"
        if hasattr(found, "run_accuracies_"):
            own = found.run_accuracies_
            rows["accuracy of the starts, fitted texts"] = f"{np.nanmin(own):.1%} to {np.nanmax(own):.1%}"
        if len(found.doubtful_):
            rows["doubtful classes"] = ", ".join(
                map(str, result.names[np.searchsorted(found.classes_, found.doubtful_)])
            )
    return rows


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; name an .npz file with the array logp [texts, classes]")
    try:
        held = read_arrays(path)
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz file of plain arrays ({error}); write it by numpy.savez") from error
    if "logp" not in held:
        raise ValueError(f"{path} has no array logp [texts, classes], but {', '.join(sorted(held)) or 'none'}")
    scores = held["logp"]
    if scores.ndim != 2 or scores.dtype.kind not in "fiu":
        raise ValueError(f"{path}: logp is {scores.dtype} {list(scores.shape)}, expected numbers [texts, classes]")
    for name in ("labels", "fit"):
        if name in held and held[name].shape != (len(scores),):
            raise ValueError(f"{path}: {name} has the shape {list(held[name].shape)} for {len(scores)} rows of logp")
    if "classes" in held:
        classes, labels = held["classes"], held.get("labels", np.zeros(0, int))
        if classes.shape != scores.shape[1:]:
            raise ValueError(
                f"{path}: classes has the shape {list(classes.shape)} for {scores.shape[1]} columns of logp"
            )
        if not np.isin(labels, np.arange(len(classes))).all():
            raise ValueError(f"{path}: labels are not the numbers 0 to {len(classes) - 1} of the named classes")
    if "fit" in held:
        fitted = held["fit"]
        if not np.isin(fitted, (0, 1)).all():
            raise ValueError(
                f"{path}: fit holds other values than true and false; it is a mask, not the texts' numbers"
            )
        held["fit"] = fitted.astype(bool)
        if not held["fit"].any():
            raise ValueError(f"{path}: fit marks no text; leave it out to fit all")
    return held


def _check_known(path: Path, labels: np.ndarray, classes: np.ndarray) -> None:
    unknown = ~np.isin(labels, classes)
    if unknown.any():
        row = int(np.argmax(unknown))
        raise ValueError(
            f"{path}: {unknown.sum()} labels, the first of them {labels[row]} of row {row}, are of no class among the "
            "fitted texts; give texts of theirs to fit, or leave these out"
        )
