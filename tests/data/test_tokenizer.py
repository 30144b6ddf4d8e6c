import subprocess
import sys

import numpy as np
import pytest

from pmpjax.data.documents import SourceError
from pmpjax.data.tokenizer import END_OF_DOCUMENT, encode, end_of_document, load_tokenizer, train_tokenizer

TEXTS = [f"def function_{i % 7}(x):\n    return x + {i}  # adds {i}\n" for i in range(300)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


def strange_texts():
    random = np.random.default_rng(0)
    for _ in range(50):
        points = random.integers(0, 0x110000, 40)
        yield "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)
    yield from (
        "\x00\r\n\t  \n\n   x",
        "naïve 日本語 🏋🏽‍♀️",
        END_OF_DOCUMENT,
        f"a{END_OF_DOCUMENT}b",
        " ",
        "Ġ Ċ",
        "e\u0301",
    )


def test_any_text_comes_back_and_none_makes_the_special_token(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for loaded in (tokenizer, load_tokenizer(tmp_path / "tokenizer.json")):
        for text, ids in zip(strange_texts(), encode(loaded, list(strange_texts())), strict=True):
            assert ids[-1] == end_of_document(loaded) and (ids[:-1] != end_of_document(loaded)).all()
            assert ids.max() < loaded.get_vocab_size()
            assert loaded.decode(ids[:-1].tolist(), skip_special_tokens=False) == text


def test_merges_shorten_what_was_trained_on(tokenizer):
    assert tokenizer.get_vocab_size() == 400
    assert sum(map(len, encode(tokenizer, TEXTS))) < 0.5 * sum(len(text) for text in TEXTS)


def test_the_same_texts_give_the_same_file_in_another_process(tokenizer):
    code = (
        "from pmpjax.data.tokenizer import train_tokenizer\n"
        "t = [f'def function_{i % 7}(x):\\n    return x + {i}  # adds {i}\\n' for i in range(300)]\n"
        "print(train_tokenizer(t, 400).to_str(), end='')"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout == tokenizer.to_str()


def test_the_smallest_type_is_chosen(tokenizer):
    assert encode(tokenizer, ["x"])[0].dtype == np.uint16


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="256 bytes"):
        train_tokenizer(TEXTS, 256)


def test_a_file_that_is_no_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(SourceError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_tokenizer_without_the_end_token_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(SourceError, match="end"):
        load_tokenizer(tmp_path / "tokenizer.json")
