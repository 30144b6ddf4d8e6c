"""Makes golden/boxes.safetensors and markup.json: transformers' functions for Kosmos-2's boxes and marked text.

With the extra `parity` installed: python -m tests.multimodal.golden.make. boxes: 2,000 random ones, a tenth of them
inside one row or column of cells; codes and decoded by its functions. markup: random marked texts, some broken, with
the clean text and the entities that its reader finds.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from transformers.models.kosmos2 import processing_kosmos2 as kosmos

FOLDER = Path(__file__).parent


def boxes_of(seed: int, count: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    corners = np.sort(draw.uniform(size=(count, 2, 2)), axis=1)
    thin = draw.uniform(size=count) < 0.1
    corners[thin, 1, 0] = np.minimum(corners[thin, 0, 0] + 0.01, 1.0)
    return corners.reshape(count, 4)


def coded(boxes: np.ndarray) -> dict[str, np.ndarray]:
    codes = np.asarray([kosmos.coordinate_to_patch_index(tuple(box), 32) for box in boxes.tolist()])
    back = np.asarray([kosmos.patch_index_to_coordinate(*pair, 32) for pair in codes.tolist()])
    return {"boxes": boxes, "codes": codes, "decoded": back}


def marked(seed: int, count: int) -> list[str]:
    draw = np.random.default_rng(seed)
    words = ["a", "snowman", "by", "the", "fire", ",", "é", " "]
    found = []
    for _ in range(count):
        parts = ["<grounding>"] if draw.uniform() < 0.5 else []
        for _ in range(draw.integers(1, 5)):
            parts.append(" " + " ".join(draw.choice(words, draw.integers(1, 4))))
            boxes = "</delimiter_of_multi_objects/>".join(
                "".join(f"<patch_index_{number:04d}>" for number in draw.integers(1024, size=2))
                for _ in range(draw.integers(1, 4))
            )
            phrase = " ".join(draw.choice(words[:5], draw.integers(1, 3)))
            own = f"<phrase> {phrase}</phrase>" if draw.uniform() < 0.8 else ""
            parts.append(f"{own}<object>{boxes}</object>")
        text = "".join(parts)
        if draw.uniform() < 0.3:  # one tag is lost
            tags = [part for part in text.replace(">", ">\0").split("\0") if part]
            del tags[draw.integers(len(tags))]
            text = "".join(tags)
        found.append(text)
    return found


def read(text: str) -> list:
    clean, entities = kosmos.clean_text_and_extract_entities_with_bboxes(text)
    # It names boxes without a phrase after their tokens, one by one; their places are what there is to compare.
    return [text, clean, [[*span, boxes] for name, span, boxes in entities if not name.startswith("<")]]


def main() -> None:
    save_file(coded(boxes_of(0, 2_000)), FOLDER / "boxes.safetensors")
    texts = [read(text) for text in marked(1, 60)]
    (FOLDER / "markup.json").write_text(json.dumps(texts, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
