"""Where a token stands: rotary, xPos, sinusoidal and linear-penalty positions, and counting inside packed rows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

XPOS_SCALE = 512.0
"""Positions over which xPos decays by its factor (arXiv 2212.10554, section 3.1)."""


def rotate(
    x: Float[Array, "n l h d"], positions: Int[Array, "m l"], base: float, decay: int = 0
) -> Float[Array, "n l h d"]:
    """R(p) x: the pair (x_j, x_{j + d/2}) turned by the angle p * base^(-2j/d); `positions` are [N, L] or [1, L].

    <R(p) q, R(s) k> depends on p - s alone (RoFormer, arXiv 2104.09864, equation 16; pairs are halves, as in Llama).
    `decay` 1 for queries and -1 for keys gives xPos (arXiv 2212.10554): the pair is also multiplied by z_j^(decay p),
    z_j = ((2j + 0.4 d) / (1.4 d))^(1 / 512), so that the product falls with the distance.
    """
    size = x.shape[-1]
    half = size // 2
    frequencies = base ** (-jnp.arange(half, dtype=x.dtype) / half)
    place = positions.astype(x.dtype)[:, :, None]
    angles = place * frequencies[None, None, :]
    cosine, sine = jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]
    if decay:
        z = (2 * jnp.arange(half, dtype=x.dtype) + 0.4 * size) / (1.4 * size)
        factor = jnp.exp(decay * place / XPOS_SCALE * jnp.log(z)[None, None, :])[:, :, None, :]
        cosine, sine = cosine * factor, sine * factor
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def sinusoidal(positions: Int[Array, "m l"], width: int, dtype: jnp.dtype) -> Float[Array, "m l d"]:
    """[sin(p w_j), cos(p w_j)], w_j = 10000^(-2j/d) (Attention is all you need, section 3.5; sines, then cosines)."""
    frequencies = 10_000.0 ** (-jnp.arange(width // 2, dtype=dtype) / (width // 2))
    angles = positions.astype(dtype)[:, :, None] * frequencies[None, None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def tensor2tensor(positions: Int[Array, "m l"], width: int, dtype: jnp.dtype) -> Float[Array, "m l d"]:
    """`sinusoidal` with w_j = 10000^(-2j/(d - 2)), so that the last w is 1/10000: what fairseq and Kosmos-2 compute."""
    frequencies = 10_000.0 ** (-np.arange(width // 2) / (width // 2 - 1))
    angles = positions.astype(dtype)[:, :, None] * jnp.asarray(frequencies, dtype)[None, None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def slopes(heads: int) -> np.ndarray:
    """ALiBi's penalty a step of distance, by head, [H]: 2^(-8 h / H), h = 1..H (arXiv 2108.12409, section 3).

    Where H is no power of two: those of the next lower one, then every second of the next higher one.

    >>> slopes(8)[:2].tolist(), slopes(6)[4:].tolist()
    ([0.5, 0.25], [0.5, 0.125])
    """
    power = 2 ** int(math.log2(heads))
    own = 2.0 ** (-8.0 * np.arange(1, power + 1) / power)
    more = 2.0 ** (-8.0 * np.arange(1, 2 * power + 1, 2) / (2 * power))
    return np.concatenate([own, more])[:heads].astype(np.float32)


def segment_positions(segments: Int[Array, "n l"]) -> Int[Array, "n l"]:
    """Counts from 0 inside each run of equal numbers.

    >>> segment_positions(jnp.array([[1, 1, 1, 2, 2, 0]])).tolist()
    [[0, 1, 2, 0, 1, 0]]
    """
    index = jnp.broadcast_to(jnp.arange(segments.shape[1])[None, :], segments.shape)
    begins = jnp.concatenate([jnp.ones_like(segments[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1)
    return index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
