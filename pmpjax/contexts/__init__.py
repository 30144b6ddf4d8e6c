"""Contexts as training: in-context learning as optimisation, weights on demonstrations, what a context implies."""

from pmpjax.contexts.demonstrations import Contributions, answer_losses, best, contributions, forward_problem
from pmpjax.contexts.linear import LinearTask, Pairs, implied_change, linear_attention
from pmpjax.contexts.low_rank import ContextChange, changed, context_change
from pmpjax.contexts.prompt import Format, Prompt, Prompts, balanced_groups, build_prompt, stack_prompts

__all__ = [
    "ContextChange",
    "Contributions",
    "Format",
    "LinearTask",
    "Pairs",
    "Prompt",
    "Prompts",
    "answer_losses",
    "balanced_groups",
    "best",
    "build_prompt",
    "changed",
    "context_change",
    "contributions",
    "forward_problem",
    "implied_change",
    "linear_attention",
    "stack_prompts",
]
