import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.models import cross_entropy
from pmpjax.runs.precision import double_precision


@pytest.mark.parametrize("chunk", [4, 5, 24])
def test_chunked_cross_entropy_equals_the_whole_one_in_value_and_derivatives(chunk):
    with double_precision():
        h = jax.random.normal(jax.random.key(0), (13, 6), jnp.float64)
        output = jax.random.normal(jax.random.key(1), (17, 6), jnp.float64)
        labels = jax.random.randint(jax.random.key(2), (13,), 0, 17)
        weight = jnp.arange(13.0)

        def total(h, output, chunk):
            return jnp.vdot(weight, cross_entropy(h, output, labels, chunk))

        plain = jnp.vdot(weight, -jax.nn.log_softmax(h @ output.T)[jnp.arange(13), labels])
        np.testing.assert_allclose(total(h, output, chunk), plain, rtol=1e-13)
        direction = (jnp.cos(h), jnp.sin(output))
        whole, parts = (
            jax.jit(lambda *x, c=c: jax.jvp(lambda h, o: jax.grad(total, (0, 1))(h, o, c), (h, output), x))(*direction)
            for c in (0, chunk)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), whole, parts)


@pytest.mark.parametrize("tokens", [8_192, 8_193])
def test_the_logits_of_all_tokens_are_kept_while_they_take_no_more_than_128_megabytes(tokens):
    """By shape alone: nothing of this size is computed."""
    shapes = (jax.ShapeDtypeStruct((tokens, 2), jnp.float32), jax.ShapeDtypeStruct((4_096, 2), jnp.float32))
    traced = str(jax.make_jaxpr(cross_entropy)(*shapes, jax.ShapeDtypeStruct((tokens,), jnp.int32)))
    assert (f"f32[{tokens},4096]" in traced) == (tokens == 8_192)
    assert ("f32[512,4096]" in traced) == (tokens == 8_193)
