"""Metrics are lines and events that a resume cuts and never doubles."""

import json

import pytest

from pmpjax.runs import RunError
from pmpjax.runs.metrics import Metrics, read_metrics


def scalars(folder):
    """[(tag, step, value)] in the event files, in the order written."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    found = []
    for path in sorted((folder / "events").glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
            event = Event.FromString(data[12 : 12 + size])
            found += [(value.tag, event.step, round(value.simple_value, 4)) for value in event.summary.value]
            data = data[16 + size :]
    return found


def test_a_resume_cuts_at_its_step_and_derives_for_each_line(tmp_path):
    with Metrics(tmp_path, lambda step, values: {"rate": step / 10} if "loss" in values else {}) as metrics:
        metrics.resume(0)
        for step in range(4):
            metrics.write(step, {"loss": float(step)})
        metrics.write(4, {"heldout_loss": float("nan")})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # a kill in the middle of a line
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 2, 3, 4]
    with Metrics(tmp_path) as metrics:
        metrics.resume(2)
        metrics.write(2, {"loss": 7.0})
    lines = [{key: value for key, value in line.items() if key != "time"} for line in read_metrics(tmp_path)]
    assert lines == [
        {"step": 0, "loss": 0.0, "rate": 0.0},
        {"step": 1, "loss": 1.0, "rate": 0.1},
        {"step": 2, "loss": 7.0},
    ]
    assert scalars(tmp_path) == [("loss", 0, 0.0), ("rate", 0, 0.0), ("loss", 1, 1.0), ("rate", 1, 0.1), ("loss", 2, 7)]


def test_a_number_that_is_not_finite_is_null_and_no_event(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.write(0, {"loss": float("inf"), "norm": 1.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None
    assert scalars(tmp_path) == [("norm", 0, 1.0)]


@pytest.mark.parametrize("line", ["{", '{"loss": 1}', '{"step": "a", "time": 0}', "[]"])
def test_a_foreign_line_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "time": 1.0}\n' + line + "\n")
    with pytest.raises(RunError, match=r"metrics.jsonl:2 is not a line of metrics"):
        Metrics(tmp_path).resume(1)
