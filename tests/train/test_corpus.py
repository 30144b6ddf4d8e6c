import dataclasses
import itertools
import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from pmpjax.data import Budget, PackedRows, SourceError, load_tokenizer, token_stream
from pmpjax.data.corpus import STEPS
from pmpjax.data.storage import read_tokens
from pmpjax.train.corpus import CorpusConfig, build_corpus

BUDGET = Budget(docstring=150_000, code=80_000, readme=10_000, changelog=1_000, licence=20_000, data=30_000)
CONFIG = CorpusConfig(heldout="installed-docs:optax,tyro", heldout_bytes=60_000, vocabulary=600, budget=BUDGET)


class Recorder:
    def __init__(self):
        self.done = 0.0

    def update(self, advance: float = 1, **fields: float | str) -> None:
        self.done += advance


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus")
    bar = Recorder()
    build_corpus(CONFIG, path, bar)
    assert bar.done == STEPS
    return path


def counts_of(folder):
    return json.loads((folder / "counts.json").read_text())


def texts_of(folder, name, end="<|end|>"):
    tokenizer = load_tokenizer(folder / "tokenizer.json", end)
    sequences = read_tokens(folder / "tokens", name)
    assert all(sequence[-1] == tokenizer.token_to_id(end) for sequence in sequences)
    return [tokenizer.decode(sequence[:-1].tolist()) for sequence in sequences]


def test_counts_are_those_of_the_shards(folder):
    counts = counts_of(folder)
    assert counts["vocabulary"] == 600 and counts["end_of_document"] == 0 and counts["end_token"] == "<|end|>"
    for name in ("train", "heldout"):
        texts = texts_of(folder, name)
        sequences = read_tokens(folder / "tokens", name)
        assert counts[name]["documents"] == len(texts) > 20
        assert counts[name]["bytes"] == sum(len(text.encode()) for text in texts)
        assert counts[name]["tokens"] == sum(map(len, sequences))
    assert counts["heldout"]["bytes"] <= CONFIG.heldout_bytes
    assert sum(kind["documents"] for kind in counts["by_kind"].values()) == counts["train"]["documents"]
    assert len((folder / "rejected.jsonl").read_text().splitlines()) == counts["rejected_rows"]


def test_heldout_packages_are_not_trained_on(folder):
    packages = json.loads((folder / "packages.json").read_text())
    assert set(packages["heldout"]) == {"optax", "tyro"}
    assert packages["source"]["optax"]["documents"] == packages["source"]["tyro"]["documents"] == 0
    assert not set(texts_of(folder, "train")) & set(texts_of(folder, "heldout"))


def test_the_rows_can_be_streamed(folder):
    rows = PackedRows(folder / "tokens", "train", 64)
    batch = next(iter(token_stream(rows, batch=4, seed=0)))
    assert batch["tokens"].shape == (4, 65) and batch["tokens"].max() < 600
    assert (rows.dropped + rows.padding) / rows.tokens < 0.02
    heldout = PackedRows(folder / "tokens", "heldout", 64, keep_last=True)
    assert sum(int(heldout[index]["lengths"]) - 1 for index in range(len(heldout))) == heldout.tokens - 1


@pytest.fixture
def pile(tmp_path):
    """60 rows by topic, of which 3 repeat and 2 copy the held-out file; 2 are bad; the held-out file has 11 rows."""
    random = np.random.default_rng(0)

    def text(topic):
        return " ".join(f"{topic}{i}" for i in random.integers(0, 2000, 40))

    held = [text("h") for _ in range(10)]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in [*held, held[1].upper()]))
    fresh = [text("a" if i < 28 else "b") for i in range(55)]
    rows = [*fresh, fresh[0], fresh[1].upper(), fresh[2].rsplit(" ", 1)[0], held[0], held[5] + " more"]
    lines = [json.dumps({"text": row}) for row in rows] + ["{", '{"text": 3}']
    (tmp_path / "pile.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def config_of(pile, **changes):
    base = {"source": (str(pile / "pile.jsonl"),), "heldout": str(pile / "held.jsonl"), "vocabulary": 300}
    return CorpusConfig(**(base | changes))


def test_copies_leaks_and_bad_rows_are_counted(pile, tmp_path):
    build_corpus(config_of(pile), tmp_path / "out", Recorder())
    counts = counts_of(tmp_path / "out")
    wanted = {
        "duplicates_removed": 3,
        "exact_duplicates_removed": 2,
        "leaks_removed": 2,
        "heldout_duplicates_removed": 1,
        "rejected_rows": 2,
        "heldout_overlap": 0.0,
    }
    assert {key: counts[key] for key in wanted} == wanted
    assert counts["train"]["documents"] == 55 and counts["heldout"]["documents"] == 10


def test_a_part_of_the_source_by_bytes(pile, tmp_path):
    for name, size in (("all", 10**6), ("part", 5_000)):
        build_corpus(config_of(pile, source_bytes=size), tmp_path / name, Recorder())
    build_corpus(config_of(pile), tmp_path / "none", Recorder())
    assert counts_of(tmp_path / "all")["train"]["documents"] == counts_of(tmp_path / "none")["train"]["documents"]
    part = texts_of(tmp_path / "part", "train")
    assert 10 < len(part) < 55 and set(part) < set(texts_of(tmp_path / "all", "train"))
    assert 4_000 < counts_of(tmp_path / "part")["train"]["bytes"] <= 5_000


def test_a_share_of_the_source_is_held_out_by_whole_files(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    for number in range(20):
        text = "".join(f"number {number} line {line} has words of its own {number * line}\n" for line in range(30))
        (files / f"{number:02}.txt").write_text(text)
    config = CorpusConfig(source=(str(files),), heldout="20%", vocabulary=300)
    build_corpus(config, tmp_path / "out", Recorder())
    train, heldout = texts_of(tmp_path / "out", "train"), texts_of(tmp_path / "out", "heldout")

    def numbers(texts):
        return {int(text.split()[1]) for text in texts}

    assert numbers(train) | numbers(heldout) == set(range(20)) and not numbers(train) & numbers(heldout)
    assert 2 <= len(numbers(heldout)) <= 4
    for wrong in ("0%", "100%", "some%"):
        with pytest.raises(SourceError, match=wrong):
            build_corpus(dataclasses.replace(config, heldout=wrong), tmp_path / "no", Recorder())


def test_stories_are_held_out_of_stories(tmp_path):
    config = CorpusConfig(source=("story-grammar:200",), heldout="story-grammar:20", vocabulary=400)
    build_corpus(config, tmp_path, Recorder())
    counts = counts_of(tmp_path)
    assert counts["leaks_removed"] == counts["heldout"]["documents"] == 20 and counts["train"]["documents"] == 180
    assert set(counts["by_kind"]) == {"story-grammar"}


def test_documents_come_in_a_seeded_random_order(pile, tmp_path):
    orders = []
    for number, seed in enumerate((0, 0, 1)):
        build_corpus(config_of(pile, seed=seed), tmp_path / str(number), Recorder())
        orders.append(texts_of(tmp_path / str(number), "train"))
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])
    topics = [text[0] for text in orders[0]]
    assert 15 < sum(a != b for a, b in itertools.pairwise(topics)) < 40


def other_tokenizer(path, special):
    """A word-level tokenizer with ids left out, that truncates and pads unless it is told not to."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(["a1 b2 c3"], trainers.WordLevelTrainer(special_tokens=["<unk>", *special]))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding()
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"]["rare"] = 70_000
    path.write_text(json.dumps(content))
    return path


def test_any_tokenizer_with_its_own_end_of_document(pile, tmp_path):
    path = other_tokenizer(tmp_path / "other.json", ["</s>"])
    build_corpus(config_of(pile, tokenizer=str(path), end_token="</s>"), tmp_path / "out", Recorder())
    counts = counts_of(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == path.read_bytes()
    assert counts["vocabulary"] == 70_001 and counts["end_token"] == "</s>"
    sequences = read_tokens(tmp_path / "out" / "tokens", "train")
    assert sequences[0].dtype == np.uint32 and all(sequence[-1] == counts["end_of_document"] for sequence in sequences)
    assert {len(sequence) for sequence in sequences} == {41}


def test_a_tokenizer_without_that_token_is_refused_before_anything_is_read(tmp_path):
    path = other_tokenizer(tmp_path / "other.json", ["</s>"])
    config = CorpusConfig(source=("absent",), heldout="absent", tokenizer=str(path), end_token="<|endoftext|>")
    with pytest.raises(SourceError, match=r"no token '<\|endoftext\|>' .* special tokens are '</s>', '<unk>'"):
        build_corpus(config, tmp_path / "out", Recorder())
    with pytest.raises(SourceError, match=r"none\.json is not a tokenizer\.json"):
        build_corpus(CorpusConfig(tokenizer=str(tmp_path / "none.json")), tmp_path / "out", Recorder())


def test_a_number_out_of_range_is_named_before_anything_is_read(tmp_path):
    with pytest.raises(SourceError, match="vocabulary is 256"):
        build_corpus(CorpusConfig(source=("absent",), heldout="absent", vocabulary=256), tmp_path, Recorder())
