"""Simple stories: the data set TinyStories (by download), and a small story grammar of this library (generated).

The two are different corpora with different names: nothing that the grammar makes is called TinyStories.
"""

import random
import re
from collections.abc import Iterator

from pmpjax.data.documents import Document, Rejection, SourceError
from pmpjax.data.sources.hub import read_hub
from pmpjax.data.sources.story_grammar import ELDERS, HEROES, PLOTS, PRONOUNS, RULES

TINYSTORIES = "tinystories"
TINYSTORIES_REPOSITORY = "roneneldan/TinyStories"
GRAMMAR = "story-grammar"
STORIES = 5_000
"""Stories of the grammar when no count is named."""


def read_tinystories(split: str) -> Iterator[Document | Rejection]:
    """The data set TinyStories (Eldan and Li, arXiv 2305.07759) from the Hugging Face hub; split "train" when empty.

    Raises `SourceError` where there is no network; nothing is put in its place.
    """
    try:
        yield from read_hub(f"{TINYSTORIES_REPOSITORY}@{split}" if split else TINYSTORIES_REPOSITORY)
    except SourceError as error:
        raise SourceError(
            f"{TINYSTORIES} is the data set {TINYSTORIES_REPOSITORY} and must be downloaded: {error}. "
            f"{GRAMMAR} needs no network, but it is another corpus"
        ) from error


def generate_stories(count: int, seed: int) -> Iterator[Document]:
    """Stories of `pmpjax.data.sources.story_grammar`: a hero's wish, an obstacle, what is said and tried, an end.

    Story i depends on (seed, i) alone. A plot fixes what fits together; everything else is chosen rule by rule.
    Documents are grouped by plot.

    >>> next(generate_stories(1, seed=0)).origin
    'story-grammar:learn:0/1'
    """
    for number in range(1, count + 1):
        plot, text = _story(random.Random(f"{GRAMMAR}/{seed}/{number}"))
        yield Document(f"{GRAMMAR}:{seed}:{number}", text, f"{GRAMMAR}:{plot}:{seed}/{number}", f"{GRAMMAR}:{plot}")


def grammar_count(rest: str) -> int:
    """The count of "story-grammar:COUNT"; raises `SourceError` where it is no positive number.

    >>> grammar_count(""), grammar_count("12")
    (5000, 12)
    """
    if not rest:
        return STORIES
    if not (rest.isascii() and rest.isdigit() and int(rest) > 0):
        raise SourceError(f"{GRAMMAR}:{rest} names no number of stories; write {GRAMMAR}:{STORIES}, for example")
    return int(rest)


def _story(choices: random.Random) -> tuple[str, str]:
    """(plot, text). Symbols in braces are replaced until none is left; a bound one by the same words all through.

    In a shape, | parts paragraphs and ~ sentences.
    """
    (name, hero_gender, kind), (friend, friend_gender, friend_kind) = choices.sample(HEROES, 2)
    elder, elder_gender = choices.choice(ELDERS)
    plot = choices.choice(sorted(PLOTS))
    bound = {"name": name, "kind": kind, "friend": friend, "friend_kind": friend_kind, "elder": elder}
    for prefix, gender in (("", hero_gender), ("friend_", friend_gender), ("elder_", elder_gender)):
        bound |= {prefix + case: word for case, word in PRONOUNS[gender].items()}
    # What the story is about is chosen once; sentences name it again.
    for symbol, alternatives in PLOTS[plot].items():
        if symbol.islower():
            bound[symbol] = choices.choice(alternatives)
    for symbol in ("place", "weather", "feeling", "trait", "colour", "number"):
        bound.setdefault(symbol, choices.choice(RULES[symbol]))
    rules = RULES | {symbol: found for symbol, found in PLOTS[plot].items() if symbol.isupper()}

    def expand(text: str) -> str:
        result = ""
        while text:
            before, brace, text = text.partition("{")
            symbol, _, text = text.partition("}") if brace else ("", "", "")
            result += before
            if brace:
                result += expand(bound[symbol] if symbol in bound else choices.choice(rules[symbol]))
        return result

    text = expand(choices.choice(rules["SHAPE"]))
    paragraphs = [" ".join(map(_with_capitals, part.split("~"))) for part in text.split("|")]
    return plot, "\n\n".join(paragraphs)


def _with_capitals(text: str) -> str:
    """A capital at the start of each sentence, inside quotation marks too, but not behind what is asked or called.

    >>> _with_capitals('"who is it?" asked Pip. it was Ben: "only me. hello!"')
    '"Who is it?" asked Pip. It was Ben: "Only me. Hello!"'
    """
    return re.sub(r'(^"?|[.!?] "?|\." |: ")([a-z])', lambda found: found[1] + found[2].upper(), text)
