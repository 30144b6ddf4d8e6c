"""Parameters of unrolled layers as those of scanned ones, and back."""

import jax
import jax.numpy as jnp

from pmpjax.models.losses import Parameters

_LAYER = "layers_"


def stack_layers(params: Parameters) -> Parameters:
    """trunk/layers[i] = trunk/layers_i: what a decoder or scorer with `scan_layers` takes, from one without it.

    >>> params = {"trunk": {"layers_0": {"a": jnp.zeros(3)}, "layers_1": {"a": jnp.ones(3)}, "norm": jnp.ones(3)}}
    >>> stacked = stack_layers(params)
    >>> stacked["trunk"]["layers"]["a"].shape, sorted(unstack_layers(stacked)["trunk"])
    ((2, 3), ['layers_0', 'layers_1', 'norm'])
    """
    trunk = params["trunk"]
    names = sorted((name for name in trunk if name.startswith(_LAYER)), key=lambda name: int(name[len(_LAYER) :]))
    if not names:
        raise ValueError(f"the trunk has no {_LAYER}0, but {', '.join(sorted(trunk))}; is it stacked already?")
    rest = {name: part for name, part in trunk.items() if name not in names}
    layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(trunk[name] for name in names))
    return {**params, "trunk": {**rest, "layers": layers}}


def unstack_layers(params: Parameters) -> Parameters:
    """trunk/layers_i = trunk/layers[i]: what a decoder or scorer without `scan_layers` takes, from one with it."""
    trunk = params["trunk"]
    if "layers" not in trunk:
        raise ValueError(f"the trunk has no stacked layers, but {', '.join(sorted(trunk))}; is it unrolled already?")
    count = len(jax.tree.leaves(trunk["layers"])[0])
    rest = {name: part for name, part in trunk.items() if name != "layers"}
    layers = {f"{_LAYER}{i}": jax.tree.map(lambda leaf, i=i: leaf[i], trunk["layers"]) for i in range(count)}
    return {**params, "trunk": {**rest, **layers}}
