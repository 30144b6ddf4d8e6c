"""A tiny decoder with random weights, and a task over letters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from pmpjax.contexts.meta_optimization.comparison import Bench, Questions
from pmpjax.contexts.meta_optimization.reading import Layout
from pmpjax.contexts.meta_optimization.record import scanned
from pmpjax.contexts.prompt import Format
from pmpjax.models import Decoder, DecoderConfig, initialise

BASE = DecoderConfig(vocabulary=30, width=16, layers=2, heads=4, key_value_heads=2, hidden=12)
OPTIONS = {
    "llama": {},
    "gpt2": {
        "norm": "layer",
        "feed_forward": "gelu",
        "biases": True,
        "positions": "learned",
        "max_length": 60,
        "tied_embeddings": False,
        "key_value_heads": 4,
    },
}
FORM = Format(lambda text: [ord(letter) - ord("a") for letter in text], window=60, prefix=(28, 29))
LAYOUT = Layout(FORM, "z", [[1], [2]])
DEMONSTRATIONS = ["acdb", "efgc", "hijkb", "lmc"]
QUESTIONS = Questions(["pq", "pqr", "stu", "vw", "xpq"], np.array([0, 1, 0, 1, 1]))
BENCH = Bench(LAYOUT, batch=2)


def plain(name):
    """The unrolled decoder and parameters of the precision that is on."""
    return _plain(name, jax.config.jax_enable_x64)


@functools.cache
def _plain(name, double):
    decoder = Decoder(dataclasses.replace(BASE, **OPTIONS[name]))
    params = initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    generator = np.random.default_rng(1)
    return decoder, jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape) * 0.5), params)


def model(name):
    """The same with stacked layers."""
    return scanned(*plain(name))
