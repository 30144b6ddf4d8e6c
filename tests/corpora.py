"""Small texts and corpora with a known answer: half of the source speaks the target's language, half another one."""

import json

import jax
import numpy as np
import optax
import pyarrow as pa
import pyarrow.parquet as pq

from pmpjax.data import DocumentTable, Prepared, document_rows
from pmpjax.train import OptimizerConfig, adamw
from pmpjax.train.warm_start import WarmStart

VOCABULARY, END, LENGTH = 24, 0, 12


class Recorder:
    """A progress bar that remembers."""

    def __init__(self):
        self.done = 0.0
        self.fields = {}

    def update(self, advance: float = 1, **fields: float | str) -> None:
        self.done += advance
        self.fields |= fields


def sequences(count, language, generator):
    """Documents in which token a + 1 follows token a within the language's half of the ids, nine times in ten."""
    first, size = 1 + 11 * language, 11
    result = []
    for _ in range(count):
        steps = np.where(generator.random(generator.integers(4, 30)) < 0.1, generator.integers(size), 1)
        walk = first + (generator.integers(size) + np.cumsum(steps)) % size
        result.append(np.append(walk, END).astype(np.int32))
    return result


def prepared_corpus(folder, documents=60, seed=0) -> Prepared:
    """Documents 0, 2, 4, ... are of the target's language (0), the others of another (1)."""
    generator = np.random.default_rng(seed)
    tokens = [sequences(1, index % 2, generator)[0] for index in range(documents)]
    rows, document = document_rows(tokens, LENGTH, END)
    texts = [" ".join(map(str, document)) for document in tokens]
    counts = np.bincount(document)
    table = DocumentTable(
        path=folder / "documents.parquet",
        ids=np.array([f"document-{index}" for index in range(documents)], object),
        origins=np.array(
            [f"made:{'docstring' if index % 2 == 0 else 'code'}:{index}" for index in range(documents)], object
        ),
        n_bytes=np.array([len(text) for text in texts]),
        n_tokens=np.array([len(document) for document in tokens]),
        first_row=np.cumsum(counts) - counts,
        n_rows=counts,
    )
    pq.write_table(pa.table({"id": list(table.ids), "text": texts}), table.path)
    dev, test = (document_rows(sequences(12, 0, generator), LENGTH, END)[0] for _ in range(2))
    return Prepared(
        tokenizer_path=folder / "tokenizer.json",
        documents=table,
        source=rows,
        source_document=document,
        dev=dev,
        test=test,
        vocabulary=VOCABULARY,
        end_of_document=END,
        counts={"duplicates_removed": 0, "leaks_removed": 0, "rejected_rows": 0},
    )


def warm_start(params) -> WarmStart:
    """A proxy whose Adam has moments of all coordinates, those of no training in particular."""
    optimizer = OptimizerConfig(learning_rate=0.02, warmup_steps=0)

    def moments(node):
        if not isinstance(node, optax.ScaleByAdamState):
            return node
        keys = jax.tree.map(lambda leaf: jax.random.key(leaf.size), node.mu)
        mu, nu = (
            jax.tree.map(lambda leaf, key: draw(key, leaf.shape, leaf.dtype), node.mu, keys)
            for draw in (
                lambda key, shape, dtype: 0.01 * jax.random.normal(key, shape, dtype),
                lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, 1e-4, 1e-3),
            )
        )
        return optax.ScaleByAdamState(node.count + 5, mu, nu)

    state = adamw(optimizer).init(params)
    state = jax.tree.map(moments, state, is_leaf=lambda node: isinstance(node, optax.ScaleByAdamState))
    return WarmStart(params, state, optimizer)


WORDS = (
    "the gradient of this smooth function at a point is returned as an array with one value for each input".split(),
    "river stone cloud winter apple horse window mirror garden candle silver mountain feather ocean bread".split(),
)


def write_texts(path, language, count, seed):
    """A .jsonl file of `count` documents of random words of one language."""
    generator = np.random.default_rng([seed, language])
    lines = [
        json.dumps({"text": " ".join(generator.choice(WORDS[language], generator.integers(20, 60)))})
        for _ in range(count)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sources(folder, wanted=60, other=90, target=40):
    """wanted.jsonl and target.jsonl in the target's language, other.jsonl in another one."""
    for seed, (name, language, count) in enumerate((("wanted", 0, wanted), ("other", 1, other), ("target", 0, target))):
        write_texts(folder / f"{name}.jsonl", language, count, seed)
    return folder


LABELLED = [(f"{kind} text number {i}", kind) for kind in ("b", "a", "c") for i in range(40)]
"""(text, class) pairs of three classes, for tasks."""


def split_texts(task):
    """The texts of each split of a task."""
    return {name: {task.texts[number] for number in index} for name, index in task.splits.items()}
