"""Files are whole or as they were; JSON and tables come back as they were written."""

import numpy as np
import pyarrow as pa
import pytest

from pmpjax.runs import RunError, atomic, read_json, read_table, write_json, write_table


def test_json_comes_back_and_numbers_that_are_not_finite_as_null(tmp_path):
    value = {"loss": [1.5, None], "name": "zwölf", "nested": {"3": True}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    write_json(tmp_path / "b.json", {"loss": np.array([1.5, np.nan], np.float32)})
    assert read_json(tmp_path / "b.json") == {"loss": [1.5, None]}


@pytest.mark.parametrize(("content", "found"), [(None, "has no a.json"), (b"{", "not JSON"), (b"\xff", "not JSON")])
def test_a_missing_or_broken_json_file_is_named(tmp_path, content, found):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RunError, match=found) as raised:
        read_json(tmp_path / "a.json")
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("kind", [dict, pa.table], ids=["columns", "table"])
def test_a_table_comes_back_with_its_types(tmp_path, kind):
    columns = {
        "id": ["a", "ä", "c"],
        "row": np.arange(3, dtype=np.int32),
        "score": np.array([0.1, -0.0, 3e300]),
    }
    path = tmp_path / "new" / "scores.parquet"
    write_table(path, kind(columns))
    found = read_table(path)
    assert list(found) == list(columns) and found["id"].tolist() == columns["id"]
    for name in ("row", "score"):
        np.testing.assert_array_equal(found[name], columns[name], strict=True)
    assert list(read_table(path, "score")) == ["score"]


def test_equal_tables_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_table(tmp_path / name, {"score": np.linspace(0, 1, 1000)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_table_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "scores.parquet"
    write_table(path, {"score": [1.0]})
    with pytest.raises(pa.ArrowInvalid):
        write_table(path, {"score": [1.0], "id": ["a", "b"]})
    assert read_table(path)["score"].tolist() == [1.0] and len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "x.json", [1])
    with pytest.raises(ZeroDivisionError):
        with atomic(tmp_path / "x.json") as temporary:
            temporary.write_text("half")
            1 / 0  # noqa: B018
    with pytest.raises(TypeError, match="object"):
        write_json(tmp_path / "x.json", object())
    assert read_json(tmp_path / "x.json") == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
