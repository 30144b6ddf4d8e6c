"""Calibration of a language model's label scores: one estimator for five ways, with scikit-learn's conventions."""

import warnings
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.special import log_softmax, logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from pmpjax.prototypes.mixture import Covariance, Mixture, fit_from_many_starts, log_densities
from pmpjax.prototypes.quasi_newton import minimised
from pmpjax.runs.precision import double_precision

Method = Literal["argmax", "contextual", "batch", "prototypical", "supervised"]

LEAST = float(np.log(1e-12))
"""A log-probability below this counts as this: one -inf would be the mean of its cluster."""

_STEPS = 100


class DoubtfulClassWarning(UserWarning):
    """A cluster was given to a class that it does not speak for: the class may be absent from what was fitted."""


class Calibrator(ClassifierMixin, BaseEstimator):
    """Classes from the log-probabilities of label words, x [N, C], corrected for the model's bias towards some words.

    With log p = log softmax(x):
    - "argmax": log p as it is.
    - "contextual": log p - log p(empty), the scores of a text without content (arXiv 2102.09690).
    - "batch": log p - log mean_n p_n over the fitted texts (arXiv 2309.17249).
    - "prototypical": a Gaussian mixture of C clusters over log p. Clusters become classes by the permutation k that
      maximises sum_n mu_{n, k_n}; of many starts the one of greatest sum is kept, not the likeliest; a text's class is
      that of the cluster of greatest density, without its weight (ProCa, arXiv 2205.10183, equations 6 and 7).
    - "supervised": log softmax(a * log p + b), one scale and one shift for each class, fitted to labels (of the kind of
      arXiv 2505.23783).

    Only "supervised" needs labels. The other methods learn from texts alone, and several of them give no meaning to a
    batch of one.

    Parameters:
        method: one of the five.
        covariance: of the clusters: "full", "tied", "diagonal" or "spherical".
        starts: runs of expectation and maximisation from different seeds.
        penalty: of "supervised", on (a - 1)^2 + b^2, per text.
        seed: of the starts.

    Attributes after `fit`:
        classes_: [C], sorted labels where labels were given, else 0 .. C-1.
        shift_, scale_: [C], of all methods but "prototypical".
        mixture_, assignment_ (class of each cluster), assignment_score_, assignment_margin_ (best sum less the second
            best), run_scores_ and run_log_likelihoods_ (of all starts; NaN for a start whose covariance collapsed),
            run_accuracies_ (where labels were given), doubtful_ (classes whose cluster, less the mean of all texts,
            speaks for another class): of "prototypical".
        clipped_: scores that were below log 1e-12 and count as that.

    >>> import numpy as np
    >>> draw = np.random.default_rng(0)
    >>> labels = np.arange(200) % 2
    >>> scores = np.where(labels, 1.5, -1.5)[:, None] * [-0.5, 0.5] + [3.0, 0.0] + 0.1 * draw.normal(size=(200, 2))
    >>> [float(Calibrator(method).fit(scores).score(scores, labels)) for method in ("argmax", "batch")]
    [0.5, 1.0]
    """

    def __init__(
        self,
        method: Method = "prototypical",
        *,
        covariance: Covariance = "full",
        starts: int = 100,
        penalty: float = 1e-2,
        seed: int = 0,
    ):
        self.method = method
        self.covariance = covariance
        self.starts = starts
        self.penalty = penalty
        self.seed = seed

    def fit(self, X: Any, y: Any = None, content_free: Any = None) -> "Calibrator":
        """Learns the correction from scores X [N, C]; returns itself.

        Args:
            X: log-probabilities of the C label words, or anything equal to them up to a constant in each row.
            y: [N] labels, of which every class has at least one; column c is the c-th of them in sorted order.
            content_free: [C] or [M, C] scores of texts such as "N/A", for "contextual"; their mean probabilities count.

        Raises ValueError: an unknown method; scores that are not [N, C >= 2], NaN or +inf; fewer texts than classes;
        labels that are missing, of another number, or of another number of classes; every start without a likelihood.
        """
        known = Method.__args__  # pyright: ignore[reportAttributeAccessIssue]
        if self.method not in known:
            raise ValueError(f"no method {self.method!r}; known ones: {', '.join(known)}")
        x, self.clipped_ = _log_probabilities(X)
        classes = x.shape[1]
        if len(x) < classes and self.method in ("batch", "prototypical"):
            raise ValueError(
                f"{len(x)} texts for {classes} classes: {self.method!r} needs as many texts at least, and some hundred "
                "for a figure that lasts"
            )
        numbers = self._numbered(y, len(x), classes)
        self.n_features_in_ = classes
        self.scale_, self.shift_ = np.ones(classes), np.zeros(classes)
        if self.method == "contextual":
            if content_free is None:
                raise ValueError('"contextual" needs content_free: the scores of a text such as "N/A"')
            empty, _ = _log_probabilities(np.atleast_2d(np.asarray(content_free, np.float64)))
            if empty.shape[1] != classes:
                raise ValueError(
                    f"content_free has {empty.shape[1]} classes, the scores {classes}; give the same words"
                )
            self.shift_ = -_log_mean(empty)
        if self.method == "batch":
            self.shift_ = -_log_mean(x)
        if self.method == "supervised":
            if numbers is None:
                raise ValueError('"supervised" needs labels y; without labels take "batch" or "prototypical"')
            self.scale_, self.shift_ = _fitted(x, numbers, self.penalty)
        if self.method == "prototypical":
            self._fit_mixture(x, numbers)
        return self

    def predict_log_proba(self, X: Any) -> Float[np.ndarray, "n c"]:
        """[N, C] log-probabilities of the classes, in the order of `classes_`."""
        check_is_fitted(self, "classes_")
        x, _ = _log_probabilities(X)
        if x.shape[1] != self.n_features_in_:
            raise ValueError(f"scores of {x.shape[1]} classes, {self.n_features_in_} were fitted; give the same words")
        if self.method != "prototypical":
            return log_softmax(x * self.scale_ + self.shift_, axis=1)
        return log_softmax(self._densities(x), axis=1)

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n c"]:
        """[N, C] probabilities of the classes, in the order of `classes_`."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """[N] the likeliest class of each text."""
        return self.classes_[np.argmax(self.predict_log_proba(X), axis=1)]

    def _numbered(self, y: Any, count: int, classes: int) -> np.ndarray | None:
        if y is None:
            self.classes_ = np.arange(classes)
            return None
        self.classes_, numbers = np.unique(np.asarray(y), return_inverse=True)
        if len(numbers) != count:
            raise ValueError(f"{len(numbers)} labels for {count} texts; give one for each")
        if len(self.classes_) != classes:
            raise ValueError(
                f"labels of {len(self.classes_)} classes, scores of {classes}; each column needs a class with at least "
                "one text, or leave its word out"
            )
        return numbers

    def _fit_mixture(self, x: np.ndarray, numbers: np.ndarray | None) -> None:
        classes = x.shape[1]
        with double_precision():
            key = jax.random.key(self.seed)
            fits = fit_from_many_starts(key, jnp.asarray(x, jnp.float64), classes, self.starts, self.covariance)
            mixtures = jax.tree.map(np.asarray, fits.mixture)
            likelihoods = np.asarray(fits.path)[np.arange(self.starts), np.asarray(fits.steps) - 1]
        finite = np.isfinite(mixtures.means).all((1, 2)) & np.isfinite(mixtures.whitening).all((1, 2, 3))
        if not finite.any():
            raise ValueError(
                f"none of {self.starts} starts has a likelihood: the scores of the {len(x)} texts are equal, or "
                "almost; look at the prompts"
            )
        assigned = {int(run): linear_sum_assignment(-mixtures.means[run])[1] for run in np.flatnonzero(finite)}
        rows = np.arange(classes)
        scores = {run: float(mixtures.means[run][rows, labels].sum()) for run, labels in assigned.items()}
        best = max(scores, key=lambda run: scores[run])
        self.run_log_likelihoods_ = np.where(finite, likelihoods, np.nan)
        self.run_scores_ = np.asarray([scores.get(run, np.nan) for run in range(self.starts)])
        if numbers is not None:
            self.run_accuracies_ = np.full(self.starts, np.nan)
            for run, labels in assigned.items():
                self.mixture_, self.assignment_ = _of_run(mixtures, run), labels
                self.run_accuracies_[run] = np.mean(np.argmax(self._densities(x), axis=1) == numbers)
        self.mixture_, self.assignment_ = _of_run(mixtures, best), assigned[best]
        self.assignment_score_ = scores[best]
        self.assignment_margin_ = scores[best] - _second(np.asarray(self.mixture_.means), self.assignment_)
        spoken_for = np.argmax(self.mixture_.means - x.mean(axis=0), axis=1)
        self.doubtful_ = self.classes_[np.sort(self.assignment_[spoken_for != self.assignment_])]
        if len(self.doubtful_):
            warnings.warn(
                f"the clusters of {', '.join(map(str, self.doubtful_))} speak for other classes: a class without texts "
                "makes the others share its cluster. Compare with method='batch', or fit texts of all classes",
                DoubtfulClassWarning,
                stacklevel=3,
            )

    def _densities(self, x: np.ndarray) -> np.ndarray:
        """[N, C] log-density of the cluster of each class."""
        with double_precision():
            found = np.asarray(log_densities(Mixture(*map(jnp.asarray, self.mixture_)), jnp.asarray(x, jnp.float64)))
        return found[:, np.argsort(self.assignment_)]


def _of_run(mixtures: Mixture, run: int) -> Mixture:
    return Mixture(*(part[run] for part in mixtures))


def _log_probabilities(scores: Any) -> tuple[np.ndarray, int]:
    """log softmax of scores, none below `LEAST`, and how many were."""
    x = np.asarray(scores, np.float64)
    if x.ndim != 2 or x.shape[1] < 2 or not len(x):
        raise ValueError(f"scores have the shape {list(x.shape)}; expected [texts, classes], two classes at least")
    wrong = np.flatnonzero(~(np.isfinite(x) | np.isneginf(x)).all(axis=1) | np.isneginf(x).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of {len(x)} rows of scores, the first of them row {wrong[0]}, hold NaN, +inf or nothing but "
            "-inf; leave these texts out"
        )
    x = log_softmax(x, axis=1)
    return np.maximum(x, LEAST), int(np.sum(x < LEAST))


def _log_mean(x: np.ndarray) -> np.ndarray:
    return logsumexp(x, axis=0) - np.log(len(x))


def _second(means: np.ndarray, assignment: np.ndarray) -> float:
    """The greatest sum of another permutation: it differs from the best in one cluster at least."""
    found = -np.inf
    for cluster, label in enumerate(assignment):
        forbidden = means.copy()
        forbidden[cluster, label] = means.min() - 1e6 * (1 + np.ptp(means))
        rows, columns = linear_sum_assignment(-forbidden)
        found = max(found, float(forbidden[rows, columns].sum()))
    return found


def _fitted(x: np.ndarray, labels: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """argmin_{a, b} mean_n -log softmax(a * x_n + b)_{y_n} + penalty (|a - 1|^2 + |b|^2), a convex function."""
    with double_precision():
        data, targets = jnp.asarray(x), jnp.asarray(labels)

        def loss(params: Any) -> jax.Array:
            scale, shift = params
            logits = data * scale[None] + shift[None]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            return jnp.mean(losses) + penalty * (jnp.sum((scale - 1) ** 2) + jnp.sum(shift**2))

        start = (jnp.ones(x.shape[1]), jnp.zeros(x.shape[1]))
        params = minimised(loss, start, _STEPS)
        scale, shift = (np.asarray(part) for part in params)
    return scale, shift
