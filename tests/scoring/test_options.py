"""Options' log-probabilities against those of each whole row alone, with and without cached prefixes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.data import train_tokenizer
from pmpjax.models import Decoder, DecoderConfig, initialise, stack_layers
from pmpjax.models.layers import apply
from pmpjax.scoring.options import Item, OptionScoring, option_ids, option_log_probabilities

CONFIG = DecoderConfig(vocabulary=23, width=16, layers=2, heads=4, key_value_heads=2, hidden=24)
PREFIX = [3, 1, 4, 1, 5]
ITEMS = [
    Item([1, 2, 3], [[4], [5, 6], [7, 8, 9]]),
    Item([10], [[4], [5, 6]]),
    Item([11, 12, 13, 14, 15, 16, 17], [[18, 19], [20], [21, 22, 1]]),
    Item([2, 2], [[4], [5]]),
    Item([9, 8, 7, 6, 5], [[4, 4], [3]]),
]
SINGLE = [Item(item.prompt, [[4], [5], [6]]) for item in ITEMS]


@pytest.fixture(scope="module")
def params():
    return initialise(Decoder(CONFIG), jax.random.key(0), jnp.zeros((1, 4), jnp.int32))


def alone(decoder, params, prefix, item):
    """Each row whole, unpadded, without a cache."""
    scores = []
    for option in item.options:
        row = [*prefix, *item.prompt, *option]
        logits = jax.nn.log_softmax(apply(decoder, params, jnp.asarray([row], jnp.int32))[0])
        places = range(len(row) - len(option) - 1, len(row) - 1)
        scores.append(np.mean([logits[place, row[place + 1]] for place in places]))
    return scores


@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize("prefix", [[], PREFIX], ids=["no prefix", "prefix"])
@pytest.mark.parametrize("items", [ITEMS, SINGLE], ids=["options of any lengths", "options of one token"])
def test_batches_and_caches_change_nothing(params, items, prefix, scanned):
    decoder = Decoder(dataclasses.replace(CONFIG, scan_layers=scanned))
    own = stack_layers(params) if scanned else params
    done = []
    found = option_log_probabilities(
        decoder, own, items, OptionScoring(batch=2, buckets=2), prefix=prefix, scored=done.append
    )
    assert done == [2, 4, 5]
    for row, item in zip(found, items, strict=True):
        np.testing.assert_allclose(row[: len(item.options)], alone(Decoder(CONFIG), params, prefix, item), atol=2e-6)
        assert np.isneginf(row[len(item.options) :]).all()


def test_bad_items_are_named(params):
    decoder = Decoder(CONFIG)
    for items, named in (
        ([], "no items"),
        ([Item([1], [[2]]), Item([], [[2]])], "item 1"),
        ([Item([1], [[2], []])], "item 0"),
        ([Item([1], [[23]])], "id 23"),
    ):
        with pytest.raises(ValueError, match=named):
            option_log_probabilities(decoder, params, items)
    short = Decoder(dataclasses.replace(CONFIG, positions="learned", max_length=6))
    with pytest.raises(ValueError, match="max_length is 6"):
        option_log_probabilities(short, params, [Item([1, 2], [[3, 4]])], prefix=[1, 2, 3, 4])
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    with pytest.raises(ValueError, match="item 0"):
        option_log_probabilities(decoder, broken, [Item([1, 2], [[3]])])


def test_options_become_ids():
    tokenizer = train_tokenizer(["good bad good bad"], 262)
    assert len(option_ids(tokenizer, [" good", " bad"])) == 2
    with pytest.raises(ValueError, match="no tokens"):
        option_ids(tokenizer, ["good", ""])
    with pytest.raises(ValueError, match="stands twice"):
        option_ids(tokenizer, ["good", "good"])
