"""Parameters to start from, for a model that is trained from nothing: places are told from the first step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pmpjax.models import ImageRows, Kosmos, initialise
from pmpjax.multimodal.examples import Layout


def plane_code(side: int, width: int) -> Float[np.ndarray, "p d"]:
    """c = [w(x); w(y)] of the centres of side x side cells, w(t) = [sin f t; cos f t], f from pi to side pi / 2.

    Neighbours have similar codes, and each code's mean square is 1 / 2; what `width` leaves over is zero.

    >>> code = plane_code(4, 16)
    >>> code.shape, bool(code[0] @ code[1] > code[0] @ code[2] > code[0] @ code[15])
    ((16, 16), True)
    """
    waves = width // 4
    frequencies = np.pi * (side / 2) ** np.linspace(0, 1, waves)  # the fastest turns by pi / 2 a cell
    at = (np.arange(side) + 0.5) / side
    angles = at[:, None] * frequencies
    wave = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    x, y = np.tile(wave, (side, 1)), np.repeat(wave, side, axis=0)
    return np.pad(np.concatenate([x, y], axis=1), ((0, 0), (0, width - 4 * waves)))


def start(kosmos: Kosmos, layout: Layout, rows: ImageRows, seed: int) -> Any:
    """Random parameters, of which three are made to tell places apart.

    The vision tower's positions and the embeddings of location tokens begin as `plane_code`; the connector's first
    product is scaled by sqrt(vision width), so that image features, of length 1, weigh as much as its latents. Kosmos-2
    itself begins with a trained vision tower, which has all this. Without it the location tokens of a small model were
    still guessed (3.70 nats per token) after 600 steps of 32 rows.
    """
    params = initialise(kosmos, jax.random.key(seed), rows.tokens, rows.images, rows.places)
    vision, decoder = kosmos.config.vision, kosmos.config.decoder
    positions = np.zeros((vision.tokens, vision.width))
    positions[1:] = plane_code(vision.size // vision.patch, vision.width)
    first = layout.id("<patch_index_0000>")
    places = slice(first, first + layout.locations.size)
    embedding = params["decoder"]["trunk"]["embedding"]
    scale = jnp.std(embedding) * np.sqrt(2.0)
    code = scale * jnp.asarray(plane_code(layout.locations.side, decoder.width), embedding.dtype)
    kernel = params["connector"]["features"]["kernel"]
    changed = {
        ("vision", "positions"): jnp.asarray(positions, embedding.dtype),
        ("connector", "features", "kernel"): kernel * np.sqrt(vision.width),
        ("decoder", "trunk", "embedding"): embedding.at[places].add(code),
    }
    return _replaced(params, changed)


def _replaced(params: Any, changed: dict[tuple[str, ...], Any]) -> Any:
    def replace(path: Any, leaf: Any) -> Any:
        return changed.get(tuple(one.key for one in path), leaf)

    return jax.tree_util.tree_map_with_path(replace, params)
