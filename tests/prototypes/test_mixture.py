"""Expectation and maximisation compared with scikit-learn from equal starts, and what a likelihood must do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from pmpjax.prototypes.mixture import Mixture, fit_from_many_starts, fit_mixture, k_means, log_densities, maximise

THEIRS = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


@pytest.fixture(scope="module")
def blobs():
    """Three overlapping clusters of different shapes."""
    draw = np.random.default_rng(0)
    parts = [draw.normal(size=(n, 3)) @ draw.normal(size=(3, 3)) + 2 * draw.normal(size=3) for n in (60, 90, 40)]
    return np.concatenate(parts)


class Peer(GaussianMixture):
    """scikit-learn's, from given responsibilities, with its path of log-likelihoods."""

    def path(self, x, responsibilities):
        self._initialize(x, responsibilities)
        found = []
        for _ in range(self.max_iter):
            bound, log_responsibilities = self._e_step(x)
            found.append(float(bound))
            self._m_step(x, log_responsibilities)
            if len(found) > 1 and abs(found[-1] - found[-2]) < self.tol:
                break
        return found


@pytest.mark.parametrize("covariance", THEIRS)
def test_the_path_is_scikit_learns(blobs, covariance, float64):
    start = np.eye(3)[np.argsort(np.argsort(blobs[:, 1])) * 3 // len(blobs)]  # thirds along one axis
    peer = Peer(3, covariance_type=THEIRS[covariance], reg_covar=1e-6, tol=1e-7, max_iter=60)
    expected = peer.path(blobs, start)
    fit = fit_mixture(jnp.asarray(blobs), jnp.asarray(start), covariance, 60, 1e-7)
    path = np.asarray(fit.path[: fit.steps])
    assert len(path) == len(expected) > 5
    np.testing.assert_allclose(path, expected, atol=1e-6)
    np.testing.assert_allclose(fit.mixture.means, peer.means_, atol=1e-5)
    np.testing.assert_allclose(fit.mixture.weights, peer.weights_, atol=1e-6)
    assert (np.diff(path) > -1e-9).all(), "the likelihood of a maximisation never falls"


@pytest.mark.parametrize("covariance", THEIRS)
def test_moments_are_those_of_differences(covariance, float64):
    """Narrow clusters far apart and far from 0, as the clipped log-probabilities: sums of squares must not cancel."""
    draw = np.random.default_rng(5)
    labels = np.arange(400) % 2
    x = np.array([[0.0, -27.6], [-27.6, 0.0]])[labels] + 1e-3 * draw.normal(size=(400, 2)) - 100
    mixture = maximise(jnp.asarray(x), jnp.eye(2)[labels], covariance, 1e-8)
    each = np.stack([np.cov(x[labels == k].T, bias=True) for k in range(2)])
    expected = {"full": each, "tied": np.broadcast_to(each.mean(0), each.shape)}.get(covariance)
    if expected is None:
        variances = np.diagonal(each, axis1=1, axis2=2)
        if covariance == "spherical":
            variances = np.broadcast_to(variances.mean(1, keepdims=True), variances.shape)
        expected = variances[:, :, None] * np.eye(2)
    precision = mixture.whitening @ mixture.whitening.mT
    np.testing.assert_allclose(np.linalg.inv(precision), expected + 1e-8 * np.eye(2), atol=1e-11)


def test_single_precision_is_refused():
    """Its moments would be wrong by more than the floor, without a sign of it."""
    with pytest.raises(ValueError, match="float32, expected float64"):
        fit_mixture(jnp.ones((12, 2), jnp.float32), jnp.full((12, 2), 0.5, jnp.float32))


def test_densities_are_those_of_scipy(float64):
    draw = np.random.default_rng(2)
    x, mean = draw.normal(size=(5, 3)), draw.normal(size=3)
    root = draw.normal(size=(3, 3))
    covariance = root @ root.T + np.eye(3)
    whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
    mixture = Mixture(jnp.ones(1), jnp.asarray(mean)[None], jnp.asarray(whitening)[None])
    expected = multivariate_normal(mean, covariance).logpdf(x)
    np.testing.assert_allclose(log_densities(mixture, jnp.asarray(x))[:, 0], expected, rtol=1e-12)


def test_many_starts_are_those_of_their_keys(blobs, float64):
    x, key = jnp.asarray(blobs), jax.random.key(3)
    many = fit_from_many_starts(key, x, 3, 5, chunk=2)
    for index, own in enumerate(jax.random.split(key, 5)):
        alone = fit_mixture(x, k_means(own, x, 3))
        np.testing.assert_allclose(many.mixture.means[index], alone.mixture.means, atol=1e-9)
        assert many.steps[index] == alone.steps


def test_k_means_finds_clusters_that_lie_apart(float64):
    draw = np.random.default_rng(4)
    x = np.concatenate([draw.normal(size=(20, 2)) * 0.1 + centre for centre in ((0, 0), (5, 0), (0, 5))])
    found = np.asarray(k_means(jax.random.key(0), jnp.asarray(x), 3))
    assert sorted(map(tuple, found[::20].tolist())) == [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert all((found[begin : begin + 20] == found[begin]).all() for begin in (0, 20, 40))


def test_points_on_a_line_and_equal_points_keep_their_floor(float64):
    """Without `floor` their covariance has no inverse."""
    line = jnp.stack([jnp.linspace(0.0, 1.0, 12), -jnp.linspace(0.0, 1.0, 12)], axis=1)
    for x in (line, jnp.ones((12, 2))):
        mixture = maximise(x, jnp.full((12, 2), 0.5), "full", 1e-6)
        assert jnp.isfinite(log_densities(mixture, x)).all()
    assert jnp.isnan(fit_mixture(jnp.ones((12, 2)), jnp.full((12, 2), 0.5), floor=0.0).path[0])
