"""Texts of selected documents, in the order of choice."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pmpjax.scoring.selected import write_selected
from tests.corpora import prepared_corpus


def test_texts_come_in_the_order_asked_for_whatever_their_length(tmp_path):
    prepared = prepared_corpus(tmp_path)
    count = 3000
    texts = [f"{index}\n\u2028é" * (index % 7) for index in range(count)]
    names = np.array([str(index) for index in range(count)], object)
    table = prepared.documents._replace(path=tmp_path / "many.parquet", ids=names, origins=names)
    pq.write_table(pa.table({"text": texts}), table.path, row_group_size=700)
    documents = np.random.default_rng(0).permutation(count)[:900]
    write_selected(tmp_path / "out.jsonl", table, documents, -documents.astype(float), documents % 3)
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    expected = [
        {"id": str(d), "origin": str(d), "score": -float(d), "times": int(d % 3), "text": texts[d]} for d in documents
    ]
    assert [json.loads(line) for line in lines] == expected
    assert {path.name for path in tmp_path.iterdir()} == {"documents.parquet", "many.parquet", "out.jsonl"}
