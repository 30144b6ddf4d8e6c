"""The rate of the optimizer, what decays, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.train import OptimizerConfig, adamw


def test_the_rate_warms_up_then_stays_and_scales_do_not_decay():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=2, weight_decay=0.5)
    stacked = {"matrix": jnp.ones((1, 1)), "scale": jnp.ones(1), "norm": {"scale": jnp.ones((1, 1))}}
    optimizer, params = adamw(config), stacked
    state, sizes = optimizer.init(params), []
    for _ in range(5):
        updates, state = optimizer.update(jax.tree.map(lambda p: 0.1 * p, params), state, params)
        sizes.append((float(updates["scale"][0]), float(updates["matrix"][0, 0])))
        assert float(updates["norm"]["scale"][0, 0]) == sizes[-1][0]
    np.testing.assert_allclose([s for s, _ in sizes], [0, -0.05, -0.1, -0.1, -0.1], atol=1e-6)
    np.testing.assert_allclose([m / s for s, m in sizes[1:]], 1.5, rtol=1e-4)


@pytest.mark.parametrize("field", [{"learning_rate": 0.0}, {"final_fraction": 1.5}, {"warmup_steps": -1}])
def test_impossible_settings_of_the_optimizer_are_refused_by_name(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        OptimizerConfig(**field)
    with pytest.raises(ValueError, match="steps 50, warmup_steps 50"):
        adamw(OptimizerConfig(schedule="cosine"), steps=50)
