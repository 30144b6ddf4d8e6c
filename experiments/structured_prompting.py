"""Structured prompting on Debian's sections: accuracy and spread against the number of groups.

    python experiments/structured_prompting.py [--small]

Each draw of demonstrations is one line of JSON in OUT; lines that are there are not computed again.
"""

import dataclasses
import json
import pathlib

import numpy as np
import tyro

from pmpjax.contexts import ContextAttention, attach, build_context, build_groups
from pmpjax.contexts.structured_prompting.command import demonstration, items_of, text_format
from pmpjax.evaluation.tasks import draw, examples_of, load_task, with_classes
from pmpjax.models import Decoder, load_pretrained, pretrained_tokenizer
from pmpjax.runs.files import write_json
from pmpjax.runs.progress import progress
from pmpjax.scoring.options import OptionScoring, option_log_probabilities
from pmpjax.statistics import bootstrap, estimate, paired_difference

QUESTION = "Section:"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure. Seeds are the first draws."""

    model: str = "smollm2"
    classes: tuple[str, ...] = ("doc", "net", "python", "science")
    groups: tuple[int, ...] = (1, 2, 4, 8)
    seeds: int = 5
    draws: int = 20
    items: int = 200
    out: pathlib.Path = pathlib.Path("runs/structured-prompting")
    small: bool = False


def main(options: Options) -> None:
    if options.small:
        options = dataclasses.replace(
            options, groups=(1, 2), seeds=2, draws=2, items=8, out=options.out.with_name(options.out.name + "-small")
        )
    task = with_classes(load_task("debian-sections"), options.classes)
    config, params = load_pretrained(options.model, scan_layers=True)
    decoder, tokenizer = Decoder(config), pretrained_tokenizer(options.model)
    asked = examples_of(task, "test")
    items = items_of(tokenizer, asked.texts[: options.items], QUESTION, task.classes)
    labels = asked.labels[: options.items]
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {"model": options.model, "classes": options.classes, "items": len(items), "question": QUESTION}
    told = options.out / "settings.json"
    plain = json.loads(json.dumps(settings))
    if told.exists() and json.loads(told.read_text()) != plain:
        raise SystemExit(f"{options.out} was begun with other settings; give another --out")
    write_json(told, settings)
    file = options.out / "draws.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    found = {(line["draw"], line["groups"], line["log_m"]): line["accuracy"] for line in lines}
    wanted = [
        (d, m, w) for d in range(options.draws) for m in options.groups for w in ((True, False) if m > 1 else (True,))
    ]
    with progress("draws", len(wanted)) as bar:
        for key in wanted:
            number, count, log_m = key
            if key not in found:
                # One demonstration of each class in a group; draws of one seed are nested: M adds groups.
                drawn = draw(task, count, number)
                turns = [np.sum(drawn.labels[:i] == label) for i, label in enumerate(drawn.labels)]
                order = np.argsort(turns, kind="stable")
                texts = [demonstration(drawn.texts[i], QUESTION, task.classes[drawn.labels[i]]) for i in order]
                groups = build_groups(text_format(tokenizer, 2048), texts, size=len(task.classes), room=256)
                attention = ContextAttention() if log_m else ContextAttention(own_log_weight=0.0)
                attached = attach(decoder, build_context(decoder, params, groups), None, attention)
                scores = option_log_probabilities(decoder, params, items, OptionScoring(batch=8), attached=attached)
                found[key] = float(np.mean(scores.argmax(axis=1) == labels))
                with file.open("a") as lines_of:
                    line = {"draw": number, "groups": count, "log_m": log_m, "accuracy": found[key]}
                    lines_of.write(json.dumps(line) + "\n")
            bar.update(1, accuracy=found[key])
    summary = summarise(options, found)
    write_json(options.out / "summary.json", summary)
    print(table(options, summary))


def summarise(options: Options, found: dict) -> dict:
    first, last = options.groups[0], options.groups[-1]
    drawn = {m: np.asarray([found[d, m, True] for d in range(options.draws)]) for m in options.groups}
    rows = {}
    for m in options.groups:
        own = estimate([found[d, m, True] for d in range(options.seeds)])
        rows[m] = {"mean": own.mean, "interval": own.interval, "sd over draws": float(drawn[m].std(ddof=1))}
        if m > 1:
            without = [found[d, m, False] for d in range(options.seeds)]
            rows[m]["without log M"] = estimate(without).mean
            rows[m]["gain"] = paired_difference([found[d, m, True] for d in range(options.seeds)], without)

    def log_ratio(index: np.ndarray) -> np.ndarray:
        least = 0.25 / options.items**2  # draws that all agree would divide by zero
        few, many = (np.maximum(drawn[m][index].var(axis=1, ddof=1), least) for m in (first, last))
        return np.log(many / few)

    ratio = float(np.exp(log_ratio(np.arange(options.draws)[None])[0]))
    low, high = np.exp(bootstrap(log_ratio, options.draws))
    spread = {"groups": [first, last], "ratio of variances": ratio, "interval": [float(low), float(high)]}
    return {"rows": rows, "spread": spread, "draws": options.draws, "seeds": options.seeds, "items": options.items}


def table(options: Options, summary: dict) -> str:
    lines = ["| M | accuracy | 95% interval | without log M | gain | sd over draws |", "|---|---|---|---|---|---|"]
    for m, row in summary["rows"].items():
        interval = "-" if row["interval"] is None else "{:.3f} to {:.3f}".format(*row["interval"])
        gain = "-"
        if "gain" in row:
            gain = f"{row['gain']['mean']:+.3f}"
            if row["gain"]["interval"]:
                gain += " [{:+.3f}, {:+.3f}]".format(*row["gain"]["interval"])
        without = f"{row['without log M']:.3f}" if "without log M" in row else "-"
        lines.append(f"| {m} | {row['mean']:.3f} | {interval} | {without} | {gain} | {row['sd over draws']:.3f} |")
    spread = summary["spread"]
    lines += [
        "",
        f"Variance over {options.draws} draws, M = {spread['groups'][1]} over M = {spread['groups'][0]}: "
        "{:.2f} [{:.2f}, {:.2f}]".format(spread["ratio of variances"], *spread["interval"]),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Options))
