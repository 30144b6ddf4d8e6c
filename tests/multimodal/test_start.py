"""Parameters to start from: codes of places, and that three leaves alone are changed."""

import jax
import numpy as np

from pmpjax.models import Kosmos, KosmosConfig, VisionConfig, initialise, magneto
from pmpjax.multimodal import PatchLocations
from pmpjax.multimodal.examples import Example, Layout, image_rows, location_tokenizer
from pmpjax.multimodal.start import plane_code, start


def test_codes_are_those_of_their_places():
    """The product of two codes is a function of the difference of their places, largest where there is none."""
    code = plane_code(8, 34)
    assert code.shape == (64, 34) and not code[:, 32:].any()
    products = (code @ code.T).reshape(8, 8, 8, 8)
    np.testing.assert_allclose(products[0, 0, 1, 2], products[3, 4, 4, 6])
    np.testing.assert_allclose(np.einsum("yxyx->yx", products), 16)
    assert (products.reshape(64, 64).argmax(axis=1) == np.arange(64)).all()
    assert products[3, 3, 3, 4] > products[3, 3, 3, 5] > products[3, 3, 3, 7]


def test_three_leaves_begin_otherwise():
    locations = PatchLocations(3)
    layout = Layout(location_tokenizer(["a disc"] * 2, locations, 260), locations, latents=2)
    vision = VisionConfig(size=8, patch=4, width=8, layers=1, heads=2, hidden=8)
    kosmos = Kosmos(KosmosConfig(magneto(layout.tokenizer.get_vocab_size(), 16, 2, layers=1, hidden=8), vision, 2))
    rows = image_rows([Example(np.zeros((8, 8, 3), np.uint8), "", "a disc")], layout)
    plain = initialise(kosmos, jax.random.key(3), rows.tokens, rows.images, rows.places)
    ours = start(kosmos, layout, rows, 3)
    changed = {
        jax.tree_util.keystr(path)
        for path, equal in jax.tree_util.tree_leaves_with_path(
            jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), plain, ours)
        )
        if not equal
    }
    assert changed == {
        "['connector']['features']['kernel']",
        "['decoder']['trunk']['embedding']",
        "['vision']['positions']",
    }
    np.testing.assert_allclose(ours["vision"]["positions"][1:], plane_code(2, 8), rtol=1e-6)
    first = layout.id("<patch_index_0000>")
    added = np.asarray(ours["decoder"]["trunk"]["embedding"] - plain["decoder"]["trunk"]["embedding"])
    assert not added[:first].any() and added[first : first + 9].any(axis=1).all() and not added[first + 9 :].any()
