"""Which demonstrations? The best k of n by their contributions, against random ones and a query's nearest neighbours.

`python experiments/demonstration_choice.py`. SmolLM2 on four of Debian's sections, a pool of 4 demonstrations of each,
one of each class shown. Contributions are -dJ/du on 24 labelled texts of the split "dev"; accuracy is of 100 texts of
the test split. Five seeds, each with a pool of its own. What is measured is kept in OUT: a stopped run goes on.
"""

import sys
from pathlib import Path

import jax
import numpy as np

from pmpjax.contexts import Format, balanced_groups, build_prompt, contributions, stack_prompts
from pmpjax.evaluation.tasks import draw, examples_of, load_task, with_classes
from pmpjax.evaluation.tasks.task import take
from pmpjax.models import encode_sentences, load_encoder
from pmpjax.prototypes.prompted import Template, label_scores, load_model, question
from pmpjax.runs.files import read_json, write_json
from pmpjax.runs.progress import progress
from pmpjax.scoring.options import Item, option_ids, option_log_probabilities
from pmpjax.statistics import estimate, paired_difference

TASK = with_classes(load_task("debian-sections"), ("doc", "net", "python", "science"))
TEMPLATE = Template("{text}\nSection:", {name: f" {name}" for name in TASK.classes})
EACH, LABELLED, TESTED, DRAWS = 4, 6, 100, 5


def measured(model, seed: int) -> dict[str, float]:
    """Accuracy in per cent of each way to choose, with one pool."""
    pool, known = draw(TASK, EACH, seed), draw(TASK, LABELLED, seed, split="dev")
    tested = take(TASK, examples_of(TASK, "test").index[:TESTED])
    order = np.random.default_rng(seed).permutation(len(TASK.classes))
    members = [np.flatnonzero(pool.labels == label) for label in order]
    pairs = [(text, TASK.classes[label]) for text, label in zip(pool.texts, pool.labels, strict=True)]

    def right(shown: np.ndarray, texts: list[str], labels: np.ndarray) -> float:
        scores = label_scores(model, TEMPLATE, texts, [pairs[number] for number in shown])
        return 100 * float(np.mean(scores.argmax(axis=1) == labels))

    form = Format(lambda text: model.tokenizer.encode(text, add_special_tokens=False).ids, 2048)
    words = option_ids(model.tokenizer, list(TEMPLATE.options.values()))
    texts = [question(TEMPLATE, text) + TEMPLATE.options[label] + TEMPLATE.separator for text, label in pairs]
    groups = balanced_groups(jax.random.key(seed), len(pairs), 8, 2).tolist()
    rows = zip(known.texts, known.labels, strict=True)
    known_rows = [(question(TEMPLATE, text), TEMPLATE.options[TASK.classes[label]]) for text, label in rows]
    prompts = stack_prompts([build_prompt(form, texts, *row, group) for row in known_rows for group in groups])
    total = contributions(model.decoder, model.params, prompts).total
    by = {name: np.array([rows[pick(total[rows])] for rows in members]) for name, pick in PICKS.items()}
    found = {name: right(shown, tested.texts, tested.labels) for name, shown in by.items()}
    generator = np.random.default_rng([seed, 1])
    drawn = [np.array([generator.choice(rows) for rows in members]) for _ in range(DRAWS)]
    found["random"] = float(np.mean([right(shown, tested.texts, tested.labels) for shown in drawn]))
    near = encode_sentences(load_encoder("minilm"), [*tested.texts, *pool.texts])
    likeness = near[: len(tested.texts)] @ near[len(tested.texts) :].T
    own = ["".join(texts[rows[row[rows].argmax()]] for rows in members) for row in likeness]
    whole = [
        Item(form.encode(before + question(TEMPLATE, text)), words)
        for before, text in zip(own, tested.texts, strict=True)
    ]
    scores = option_log_probabilities(model.decoder, model.params, whole)
    found["nearest"] = 100 * float(np.mean(scores.argmax(axis=1) == tested.labels))
    return found


PICKS = {"best": np.argmax, "worst": np.argmin}


def main(out: Path) -> None:
    model, found = load_model("smollm2"), []
    with progress("pools", total=5) as bar:
        for seed in range(5):
            path = out / f"{seed}.json"
            if not path.exists():
                write_json(path, measured(model, seed))
            found.append(read_json(path))
            bar.update()
    for name in found[0]:
        values = [row[name] for row in found]
        gap = paired_difference([row["best"] for row in found], values)
        print(
            f"| {name} | {values} | {estimate(values).mean:.1f} | best less it {gap['mean']:+.1f} {gap['interval']} |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demonstration-choice"))
