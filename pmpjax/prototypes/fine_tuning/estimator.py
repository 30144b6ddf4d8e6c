"""Prototypical fine-tuning on given embeddings: one estimator, with scikit-learn's conventions."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from pmpjax.prototypes.fine_tuning import fit as fitting
from pmpjax.prototypes.fine_tuning.checks import DuplicateWarning, checked_class_weights, checked_data, checked_states
from pmpjax.prototypes.fine_tuning.growth import creation_threshold, from_points, spread_of
from pmpjax.prototypes.fine_tuning.store import Prototypes, class_log_probabilities
from pmpjax.prototypes.fine_tuning.temperature import best_temperature
from pmpjax.runs.progress import Bar
from pmpjax.runs.seeds import stage_generator, stage_key

__all__ = ["DuplicateWarning", "Level", "PrototypeClassifier"]

LEVELS = (0.0, 3e-4, 1e-3, 1e-2)
"""Concentrations that cross-validation chooses among: none is created at the first, as many as may be at the last."""


class Level(NamedTuple):
    """A concentration in cross-validation.

    Fields:
        concentration: alpha.
        loss: -log p of held-out examples, their weighted mean, at the best temperature.
        temperature: that one.
        accuracy: on the held-out examples.
    """

    concentration: float
    loss: float
    temperature: float
    accuracy: float


class PrototypeClassifier(ClassifierMixin, BaseEstimator):
    """Classes as Gaussian prototypes in the space of embeddings X [N, D], as many as the data ask for.

    p(y | h) = softmax_y (1/T) log sum_{k: c_k = y} pi_k exp(-|h - p_k|^2 / (2 sigma)).

    Each class begins with one prototype. Classes that are wide get more, by the threshold of `creation_threshold`;
    small ones are dropped; then all are trained together, held to where they were by a prior. The concentration that
    decides how many there are, and the temperature T, are those that predict held-out examples best: with few examples
    one prototype a class stays, with many they grow. In the style of prototypical fine-tuning (arXiv 2211.13638), whose
    equations were not read.

    Parameters:
        concentration: alpha; None chooses among `LEVELS` by cross-validation.
        class_weight: None, "balanced", or a mapping from class to weight.
        classes: labels that must all have an example; None takes those of y.
        policy: how prototypes are fitted; None is `Policy()`.
        folds: of the cross-validation; where a class has one distinct example there is none, T is 1 and no prototype is
            created unless `concentration` says so.
        seed: of the folds.

    Attributes after `fit`:
        classes_: sorted labels. store_: `Prototypes`, of which `active` ones count.
        n_prototypes_: [C] of each class. concentration_, temperature_. levels_: of the cross-validation, empty without.
        calibrated_: whether T was fitted. examples_ [N, D], example_labels_ [N]: what was fitted, for explanations.

    >>> import numpy as np
    >>> draw = np.random.default_rng(0)
    >>> labels = np.arange(80) % 2
    >>> corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    >>> model = PrototypeClassifier().fit(corners[np.arange(80) % 4] + 0.1 * draw.normal(size=(80, 2)), labels)
    >>> model.predict(corners).tolist(), model.n_prototypes_.tolist()
    ([0, 1, 0, 1], [2, 2])
    """

    def __init__(
        self,
        *,
        concentration: float | None = None,
        class_weight: Any = None,
        classes: Any = None,
        policy: fitting.Policy | None = None,
        folds: int = 3,
        seed: int = 0,
    ):
        self.concentration = concentration
        self.class_weight = class_weight
        self.classes = classes
        self.policy = policy
        self.folds = folds
        self.seed = seed

    def fit(self, X: Any, y: Any, *, bar: Bar | None = None) -> "PrototypeClassifier":
        """Learns the prototypes of embeddings X [N, D] with labels y [N]; returns itself.

        Args:
            bar: moves on by 100 in all, a step for each fit of the cross-validation and the last one.

        Raises ValueError as `checked_data` and `checked_class_weights`, and for a concentration below 0 or folds below
        2.
        """
        if self.concentration is not None and not 0 <= self.concentration <= 1:
            raise ValueError(f"concentration is {self.concentration}, expected a number from 0 to 1, or None")
        if self.folds < 2:
            raise ValueError(f"folds is {self.folds}, expected 2 at least")
        data = checked_data(X, y, self.classes)
        weights = checked_class_weights(self.class_weight, data)
        self.classes_, self.n_features_in_ = data.classes, data.states.shape[1]
        self.examples_, self.example_labels_ = data.states, data.labels
        self.levels_: list[Level] = []
        held = self._folds(data.labels, data.groups)
        levels = LEVELS if self.concentration is None else (self.concentration,)
        if self._policy.per_class == 1:
            levels = levels[:1]
        fits = 1 if held is None else 1 + len(levels) * len(np.unique(held))
        moved = (lambda: None) if bar is None else functools.partial(bar.update, 100 / fits)
        if held is not None:
            self.levels_ = [self._level(alpha, data.states, data.labels, weights, held, moved) for alpha in levels]
        # Of equal losses the first: the one with fewest prototypes.
        chosen = min(self.levels_, key=lambda level: level.loss, default=Level(levels[0], np.nan, 1.0, np.nan))
        self.concentration_, self.temperature_ = chosen.concentration, chosen.temperature
        self.calibrated_ = held is not None
        self.keep(self._fitted(data.states, data.labels, weights, self.concentration_))
        moved()
        return self

    def predict_log_proba(self, X: Any) -> Float[np.ndarray, "n c"]:
        """[N, C] calibrated log-probabilities of the classes, in the order of `classes_`."""
        check_is_fitted(self, "store_")
        states = checked_states(X, self.n_features_in_)
        raw = class_log_probabilities(self.store_, jnp.asarray(states), len(self.classes_))
        return log_softmax(np.asarray(raw, np.float64) / self.temperature_, axis=1)

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n c"]:
        """[N, C] calibrated probabilities of the classes, in the order of `classes_`."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """[N] the likeliest class of each embedding."""
        return self.classes_[np.argmax(self.predict_log_proba(X), axis=1)]

    def calibrate(self, X: Any, y: Any) -> "PrototypeClassifier":
        """Fits the temperature anew, to embeddings and labels that no part of the model has seen. Returns itself.

        For an encoder that was trained on the fitted texts: held-out parts of those would promise too much.

        Raises ValueError: a label that was not fitted.
        """
        check_is_fitted(self, "store_")
        states, labels = checked_states(X, self.n_features_in_), np.asarray(y)
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise ValueError(f"label {unknown[0]!s} was not fitted; leave its examples out")
        raw = class_log_probabilities(self.store_, jnp.asarray(states), len(self.classes_))
        found = np.asarray(raw, np.float64)
        self.temperature_, _ = best_temperature(found, np.searchsorted(self.classes_, labels), np.ones(len(labels)))
        self.calibrated_ = True
        return self

    def abstained(self, X: Any, threshold: float) -> Bool[np.ndarray, " n"]:
        """[N] whether the likeliest class has a probability below the threshold: such texts want a person."""
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}, expected a probability from 0 to 1")
        return np.max(self.predict_proba(X), axis=1) < threshold

    def nearest_examples(self, X: Any, count: int = 3) -> Int[np.ndarray, "n count"]:
        """[N, count] rows of the fitted examples that are nearest to each embedding, the nearest first.

        They explain a prediction: of each prototype's class and place they are the texts that it stands for.
        Fewer columns where fewer examples were fitted.
        """
        check_is_fitted(self, "store_")
        return _nearest(checked_states(X, self.n_features_in_), self.examples_, count)

    def prototype_examples(self, count: int = 3) -> dict[int, Int[np.ndarray, " count"]]:
        """For each active slot of `store_`, the rows of the fitted examples of its class nearest to its point."""
        check_is_fitted(self, "store_")
        found = {}
        classes = np.asarray(self.store_.classes)
        for slot in np.flatnonzero(np.asarray(self.store_.active)):
            own = np.flatnonzero(self.example_labels_ == classes[slot])
            point = np.asarray(self.store_.points)[slot : slot + 1]
            found[int(slot)] = own[_nearest(point, self.examples_[own], count)[0]]
        return found

    def add_class(self, X: Any, label: Any) -> "PrototypeClassifier":
        """Adds a class by the examples X [N, D] of it; no other prototype moves. Returns itself.

        Its prototypes are grown with the width and concentration of the fit, the threshold by today's prototypes, and
        not trained against the other classes.

        Raises ValueError: a class that is there already.
        """
        check_is_fitted(self, "store_")
        if np.any(self.classes_ == label):
            raise ValueError(f"class {label!s} is there already; delete it first, or choose another name")
        states, store = checked_states(X, self.n_features_in_), self.store_
        threshold = creation_threshold(store, spread_of(store), self.concentration_)
        policy, array = self._policy, jnp.asarray(states)
        own = from_points(array.mean(axis=0, keepdims=True), jnp.exp(store.log_variance), policy.per_class)
        counted = jnp.zeros(len(states), int), jnp.ones(len(states), array.dtype)
        own = fitting.grow(own, array, *counted, threshold, policy=policy)
        names = np.append(self.classes_, np.asarray([label]))
        number = len(self.classes_)
        parts = zip(store[:4], own._replace(classes=own.classes + number)[:4], strict=True)
        points, classes, active, log_weight = (jnp.concatenate(pair) for pair in parts)
        self.examples_ = np.concatenate([self.examples_, states])
        self.example_labels_ = np.concatenate([self.example_labels_, np.full(len(states), number)])
        order = np.argsort(names, kind="stable")
        self._renumber(Prototypes(points, classes, active, log_weight, store.log_variance), names, order)
        return self

    def delete_class(self, label: Any) -> "PrototypeClassifier":
        """Forgets a class, its prototypes and its examples; no other prototype moves. Returns itself.

        Raises ValueError: no such class, or only two are left.
        """
        check_is_fitted(self, "store_")
        if not np.any(self.classes_ == label):
            raise ValueError(f"no class {label!s}; there are {', '.join(map(str, self.classes_))}")
        if len(self.classes_) == 2:
            raise ValueError(f"class {label!s} is one of two; a classifier needs two at least")
        self._renumber(self.store_, self.classes_, np.flatnonzero(self.classes_ != label))
        return self

    @property
    def _policy(self) -> fitting.Policy:
        return fitting.Policy() if self.policy is None else self.policy

    def _renumber(self, store: Prototypes, names: np.ndarray, order: np.ndarray) -> None:
        """Keeps the classes `order` of `names`, in that order."""
        place = np.full(len(names), -1)
        place[order] = np.arange(len(order))
        of_slot, of_example = place[np.asarray(store.classes)], place[self.example_labels_]
        self.classes_ = names[order]
        self.examples_, self.example_labels_ = self.examples_[of_example >= 0], of_example[of_example >= 0]
        active = store.active & jnp.asarray(of_slot >= 0)
        self.keep(store._replace(classes=jnp.asarray(np.maximum(of_slot, 0)), active=active))

    def keep(self, store: Prototypes) -> None:
        """Takes these prototypes in place of the fitted ones, as `storage` does."""
        self.store_ = Prototypes(*(jnp.asarray(part) for part in store))
        classes, active = np.asarray(store.classes), np.asarray(store.active)
        self.n_prototypes_ = np.bincount(classes[active], minlength=len(self.classes_))

    def _fitted(self, states: np.ndarray, labels: np.ndarray, weights: np.ndarray, alpha: float) -> Prototypes:
        return fitting.fit_prototypes(
            stage_key(self.seed, "prototypes"),
            jnp.asarray(states),
            jnp.asarray(labels),
            jnp.asarray(weights),
            alpha,
            classes=len(self.classes_),
            policy=self._policy,
        )

    def _folds(self, labels: np.ndarray, groups: np.ndarray) -> np.ndarray | None:
        """[N] fold of each example: classes in equal shares, copies together; None where a class would be left out."""
        generator = stage_generator(self.seed, "folds")
        fold = np.empty(groups.max() + 1, int)
        _, first = np.unique(groups, return_index=True)
        for label in range(len(self.classes_)):
            own = generator.permutation(groups[first[labels[first] == label]])
            fold[own] = (np.arange(len(own)) + label) % self.folds
        held = fold[groups]
        each = [np.bincount(labels[held != one], minlength=len(self.classes_)).min() for one in np.unique(held)]
        return held if min(each) > 0 and len(each) > 1 else None

    def _level(
        self,
        alpha: float,
        states: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray,
        held: np.ndarray,
        moved: Callable[[], None],
    ) -> Level:
        """One concentration: held-out log-probabilities of each example, and the temperature that fits them."""
        found, all_states = np.zeros((len(states), len(self.classes_))), jnp.asarray(states)
        for one in np.unique(held):
            outside = held == one
            # Held-out examples have weight 0, and all are predicted: one program serves every fold.
            store = self._fitted(states, labels, np.where(outside, 0, weights).astype(np.float32), alpha)
            found[outside] = class_log_probabilities(store, all_states, len(self.classes_))[outside]
            moved()
        temperature, loss = best_temperature(found, labels, weights)
        accuracy = float(np.average(found.argmax(axis=1) == labels, weights=weights))
        return Level(float(alpha), loss, temperature, accuracy)


def _nearest(states: np.ndarray, examples: np.ndarray, count: int) -> Int[np.ndarray, "n count"]:
    if count < 1:
        raise ValueError(f"count is {count}, expected 1 at least")
    squared = np.sum(states**2, axis=1)[:, None] - 2 * states @ examples.T + np.sum(examples**2, axis=1)[None, :]
    return np.argsort(squared, axis=1, kind="stable")[:, :count]
