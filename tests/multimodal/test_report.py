"""The page of a run and pictures with boxes: pixels of the drawn lines, every task in the table."""

import numpy as np
import pytest
from PIL import Image

from pmpjax.multimodal.report import Shown, draw_boxes, table, verdict, write_report
from pmpjax.multimodal.scenes import draw_scene
from pmpjax.multimodal.tasks import absent_questions, phrase_questions

SHARES = {"phrases": 0.8, "phrases_blank": 0.05, "phrases_ceiling": 0.99, "referring": 0.5, "referring_blank": 0.1}
SHARES |= {"held_out": 0.6, "held_out_ceiling": 0.98}
METRICS = {
    "recall": SHARES,
    "mean_iou": SHARES,
    "rejection": {"absent": 0.9, "phrases": 0.02},
    "naming": {"accuracy": 0.7, "held_out": 0.4, "chance": 1 / 30},
    "switch": {"with_boxes": 1.0, "without": 0.0},
}


def test_a_box_is_drawn_where_it_is(tmp_path):
    image = np.zeros((64, 128, 3), np.uint8)
    draw_boxes(tmp_path / "boxes.png", image, np.array([[0.25, 0.5, 0.75, 1.0]]), "#ff0000")
    drawn = np.asarray(Image.open(tmp_path / "boxes.png"))
    assert drawn.shape == (128, 256, 3)  # enlarged to be seen
    rows, columns = np.nonzero(drawn[..., 0])
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [64, 64, 192, 128]
    assert not drawn[80:110, 80:176].any()


def test_an_image_without_boxes_is_drawn_as_it_is(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (4, 300, 3), np.uint8)
    draw_boxes(tmp_path / "boxes.png", image, np.zeros((0, 4)))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "boxes.png")), image)


def test_boxes_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="reversed"):
        draw_boxes(tmp_path / "boxes.png", np.zeros((4, 4, 3), np.uint8), np.array([[0.9, 0.0, 0.1, 1.0]]))


def test_the_table_has_every_task_with_its_control_and_ceiling():
    rows = {row[0]: row[1:] for row in table(METRICS).rows}
    assert rows["phrase grounding, R@1"] == ["80.0%", "5.0%", "99.0%", "0.80"]
    assert rows["held-out colour and shape, R@1"] == ["60.0%", "", "98.0%", "0.60"]
    assert rows["referring comprehension, accuracy"][:2] == ["50.0%", "10.0%"] and len(rows) == 9
    assert "80.0%" in verdict(METRICS) and "5.0%" in verdict(METRICS) and "99.0%" in verdict(METRICS)


def test_the_page_holds_its_figures(tmp_path):
    scenes = [draw_scene(0, index) for index in range(2)]
    shown = [Shown(one, one.boxes) for one in phrase_questions(scenes, first=True)]
    shown += [Shown(one, np.zeros((0, 4))) for one in absent_questions(scenes, 0)]
    curves = {"losses": np.ones(4), "steps": np.array([0, 4]), "text": np.ones(2), "locations": np.ones(2)}
    write_report(tmp_path, METRICS, curves, shown)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "80.0%" in page
    assert all((tmp_path / f"{name}.png").stat().st_size > 1_000 for name in ("pictures", "losses", "recall"))
