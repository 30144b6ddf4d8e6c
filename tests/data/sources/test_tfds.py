import warnings

import numpy as np
import pytest

from pmpjax.data import Budget, SourceError, read_source
from pmpjax.data.documents import Document
from pmpjax.data.sources.tfds import read_tfds

TEXTS = [b"one text", b"\xc3\xa9t\xc3\xa9", b"", b"\xff\xfe", b"another"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds

    class TinyPile(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"text": tfds.features.Text(), "number": np.int64}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._rows(TEXTS), "test": self._rows([b"held out"])}

        def _rows(self, texts):
            for number, text in enumerate(texts):
                yield number, {"text": text, "number": number}

        def _generate_examples(self):
            raise NotImplementedError  # tfds asks for the method; the splits above give the rows

    builder = TinyPile(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_dir)


def test_documents_of_a_written_data_set(folder):
    rows = list(read_tfds(folder))
    documents = [row for row in rows if isinstance(row, Document)]
    assert sorted(document.text for document in documents) == ["another", "one text", "été"]
    assert sorted(row.reason.split(":")[0] for row in rows if not isinstance(row, Document)) == ["empty", "not UTF-8"]
    assert rows == list(read_tfds(folder))


def test_another_split(folder):
    corpus = read_source(f"tfds:{folder}@test", Budget())
    assert [document.text for document in corpus.documents] == ["held out"]


@pytest.mark.parametrize("name", ["no_such_set", "{folder}@nosplit", "{tmp_path}"])
def test_what_cannot_be_had_is_an_error_of_one_line(folder, tmp_path, name):
    with pytest.raises(SourceError, match=r"cannot be read .* ArrayRecord") as caught:
        read_source("tfds:" + name.format(folder=folder, tmp_path=tmp_path), Budget())
    assert "\n" not in str(caught.value)
