"""The connector against one cross-attention written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from pmpjax.models import Connector, ConnectorConfig
from pmpjax.models.layers import apply


def test_the_connector_is_one_cross_attention(float64):
    connector = Connector(ConnectorConfig(latents=3, width=8, heads=2))
    draw = np.random.default_rng(2)
    features = jnp.asarray(draw.normal(size=(2, 5, 6)))
    shapes = jax.eval_shape(connector.init, jax.random.key(0), features)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape)), shapes)
    found = apply(connector, params, features)

    def dense(x, name):
        return x @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])

    for row, one in enumerate(np.asarray(features)):
        latents = np.asarray(params["latents"])
        both = np.concatenate([dense(one, "features"), latents])
        query, key, value = dense(latents, "query"), dense(both, "key"), dense(both, "value")
        heads = [slice(0, 4), slice(4, 8)]
        mixed = [softmax(query[:, h] @ key[:, h].T / 2, axis=1) @ value[:, h] for h in heads]
        np.testing.assert_allclose(found[row], dense(np.concatenate(mixed, 1), "output"), atol=1e-12)
    # It knows no order.
    np.testing.assert_allclose(apply(connector, params, features[:, jnp.asarray([3, 0, 4, 2, 1])]), found, atol=1e-12)
