"""Text from a model with a cache: drawn token by token, or searched by beams; each held to what a mask allows."""

from pmpjax.models.search.beams import Beams, Found, search
from pmpjax.models.search.decoding import beam_search, sample
from pmpjax.models.search.endings import Ending
from pmpjax.models.search.masks import TokenMask, automaton, both, no_repeat
from pmpjax.models.search.rollout import Advance, Sampled, Start, roll
from pmpjax.models.search.sampling import Sampling, draw, log_probabilities, support

__all__ = [
    "Advance",
    "Beams",
    "Ending",
    "Found",
    "Sampled",
    "Sampling",
    "Start",
    "TokenMask",
    "automaton",
    "beam_search",
    "both",
    "draw",
    "log_probabilities",
    "no_repeat",
    "roll",
    "sample",
    "search",
    "support",
]
