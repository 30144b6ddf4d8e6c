import json
from types import SimpleNamespace

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import errors

from pmpjax.data import Budget, SourceError, read_source
from pmpjax.data.sources.hub import files_of_split

FILES = ["README.md", "pile-train.txt", "data/train-0-of-2.parquet", "data/train-1-of-2.parquet", "data/test-0.parquet"]


class Hub:
    """What the hub's client would do, without a network: the files lie in a folder named after the commit."""

    def __init__(self, folder, files):
        self.folder, self.files, self.asked = folder / "0123abc", files, None
        for number, file in enumerate(files):
            path = self.folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if file.endswith(".parquet"):
                pq.write_table(pa.table({"text": [f"row {number}", ""]}), path)
            else:
                path.write_text(json.dumps({"text": f"row {number}"}))

    def dataset_info(self, repository):
        return SimpleNamespace(sha="0123abc", siblings=[SimpleNamespace(rfilename=file) for file in self.files])

    def snapshot_download(self, repository, *, repo_type, revision, allow_patterns):
        assert (repo_type, revision) == ("dataset", "0123abc")
        self.asked = allow_patterns
        return str(self.folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    found = Hub(tmp_path, FILES)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    return found


def test_the_files_of_a_split_are_downloaded_and_read(hub):
    corpus = read_source("hf:some/set", Budget())
    assert hub.asked == FILES[2:4]
    assert [document.text for document in corpus.documents] == ["row 2", "row 3"]
    assert corpus.documents[0].origin == "hf:some/set/data/train-0-of-2.parquet:1"
    assert [(item.file, item.line, item.reason) for item in corpus.rejected] == [
        (f"hf:some/set/{file}", 2, "empty") for file in FILES[2:4]
    ]
    assert [document.text for document in read_source("hf:some/set@test", Budget()).documents] == ["row 4"]


def test_a_split_that_is_not_there_is_named(hub):
    with pytest.raises(SourceError, match=r"hf:some/set has no file of split 'validation' that ends in \.txt"):
        read_source("hf:some/set@validation", Budget())


@pytest.mark.parametrize(
    "error",
    [
        OSError("Name or service not known\nand more"),
        errors.LocalEntryNotFoundError("no network"),
        errors.HFValidationError("no name of a set"),
    ],
)
def test_without_a_network_or_a_set_the_error_says_so_in_one_line(hub, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(hub, "dataset_info", fail)
    with pytest.raises(SourceError, match=r"^hf:some/set cannot be had \(.*\); it needs a network") as caught:
        read_source("hf:some/set", Budget())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "split", "wanted"),
    [
        (["a.jsonl", "b.jsonl", "c.py"], "train", ["a.jsonl", "b.jsonl"]),
        (["train.jsonl", "test.jsonl"], "train", ["train.jsonl"]),
        (["trainer.jsonl", "constrained.jsonl"], "test", []),
        (
            ["en/train/0.parquet", "de/dev.parquet", "x_valid.parquet"],
            "validation",
            ["de/dev.parquet", "x_valid.parquet"],
        ),
        (["test.jsonl"], "train", []),
        (["unusual.txt", "train.txt"], "unusual", ["unusual.txt"]),
        (["train.txt", "train.jsonl"], "train", ["train.txt"]),
    ],
)
def test_which_files_make_a_split(names, split, wanted):
    assert files_of_split(names, split) == wanted
