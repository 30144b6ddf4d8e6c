import json

import pytest

from pmpjax.data.documents import SourceError
from pmpjax.evaluation.tasks import TASKS, load_task, make_task, table_task
from pmpjax.evaluation.tasks import load as module


def csv_file(path, rows, header="text,label"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_the_users_table_by_its_path(tmp_path):
    rows = [f"{kind} number {i},{kind}" for kind in ("spam", "ham") for i in range(20)]
    task = load_task(str(csv_file(tmp_path / "mail.csv", [*rows, ",spam", "no label,"])))
    assert task.name == "mail.csv" and task.classes == ("ham", "spam") and len(task.texts) == 40
    assert task.counts["rejected"] == 2 and task.source.endswith("mail.csv")
    (tmp_path / "mail.jsonl").write_text(
        "\n".join(json.dumps({"body": row.split(",")[0], "kind": row.split(",")[1]}) for row in rows)
    )
    other = load_task(str(tmp_path / "mail.jsonl"), text="body", label="kind")
    assert other.texts == task.texts and other.splits["test"].tolist() == task.splits["test"].tolist()


def test_a_second_table_is_the_test_set(tmp_path):
    train = csv_file(tmp_path / "train.csv", [f"text {i},{'ab'[i % 2]}" for i in range(20)])
    test = csv_file(tmp_path / "test.csv", ["TEXT 3,b", "unseen,a", "text 4,b", ","])
    task = table_task(train, test=test)
    assert {task.texts[number] for number in task.splits["test"]} == {"TEXT 3", "unseen"}
    assert len(task.splits["train"]) == 18 and len(task.splits["dev"]) == 0
    assert (task.counts["duplicates"], task.counts["conflicting"], task.counts["rejected"]) == (1, 2, 1)


def test_tasks_by_name(monkeypatch):
    toy = [(f"{kind} {i}", kind) for kind in "abc" for i in range(10)]
    monkeypatch.setitem(module.TASKS, "toy", lambda *, seed: make_task("toy", toy, seed=seed))
    splits = [load_task("toy", seed=seed).splits["test"].tolist() for seed in (3, 3, 4)]
    assert splits[0] == splits[1] != splits[2]
    assert {"wordnet", "debian-sections", "installed-docs", "digits"} <= set(TASKS)
    assert load_task("wordnet: plant , act", seed=1).classes == ("act", "plant")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("wordnets", SourceError, "no task 'wordnets'; did you mean wordnet"),
        ("nothing", SourceError, r"no task 'nothing'; give one of wordnet, .* that ends in \.csv"),
        ("wordnet:food,persons", ValueError, "no class 'persons'; did you mean 'person'"),
        ("wordnet:food", ValueError, "give at least two"),
        ("none/there.csv", SourceError, "does not exist"),
    ],
)
def test_what_is_no_task_is_refused(name, error, message):
    with pytest.raises(error, match=message):
        load_task(name)


def test_a_table_of_one_class(tmp_path):
    with pytest.raises(ValueError, match=r"'a\.csv' has 1 classes \(x\) in 2 examples"):
        load_task(str(csv_file(tmp_path / "a.csv", ["one,x", "two,x"])))
