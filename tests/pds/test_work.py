"""What a stage reads is what the stages before it have left now, not what they had left before."""

import shutil

import numpy as np
import pytest

from pmpjax.data import load_prepared
from pmpjax.data.prepared import load_kept
from pmpjax.pds import run_stage
from pmpjax.pds.work import Work
from pmpjax.runs import RunError
from tests.corpora import write_sources, write_texts
from tests.pds.test_pipeline import config


def test_a_rebuilt_prepare_is_read_anew_in_the_same_process(tmp_path):
    write_sources(tmp_path, 20, 20, 20)
    settings, out = config(tmp_path), tmp_path / "run"
    folder = run_stage(settings, out, "prepare")
    work = Work(settings, out / "proxy.partial", {"prepare": folder}, {})
    before = work.data
    assert len(before.documents.ids) == 40
    assert work.data is before is load_kept(folder), "kept in memory while nothing has changed"

    shutil.rmtree(folder)
    write_texts(tmp_path / "other.jsonl", 1, 30, seed=7)
    assert run_stage(settings, out, "prepare") == folder
    after = work.data
    assert len(after.documents.ids) == 50
    assert after.counts != before.counts
    np.testing.assert_array_equal(after.source.tokens, load_prepared(folder).source.tokens)
    texts = after.documents.texts([0, 49])
    assert all(texts) and len(texts) == 2

    # A folder of another name is another one, though its stage is the same: it has files of its own.
    copy = tmp_path / "copy" / "prepare"
    shutil.copytree(folder, copy)
    assert load_kept(copy).documents.path.is_relative_to(copy)
    shutil.rmtree(copy)
    with pytest.raises(RunError, match=r"copy/prepare does not exist; name a file or folder"):
        load_kept(copy)
