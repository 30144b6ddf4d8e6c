"""Contexts as training: in-context learning as optimisation, weights on demonstrations, what a context implies."""

from pmpjax.contexts.demonstrations import Contributions, answer_losses, best, contributions, forward_problem
from pmpjax.contexts.linear import LinearTask, Pairs, implied_change, linear_attention
from pmpjax.contexts.low_rank import ContextChange, changed, context_change
from pmpjax.contexts.prompt import Format, Prompt, Prompts, balanced_groups, build_prompt, stack_prompts
from pmpjax.contexts.structured_prompting import (
    Context,
    ContextAttention,
    Groups,
    attach,
    build_context,
    build_groups,
    context_notes,
    fit_group_weights,
    group_problem,
    join_contexts,
    load_context,
    save_context,
)

__all__ = [
    "Context",
    "ContextAttention",
    "ContextChange",
    "Contributions",
    "Format",
    "Groups",
    "LinearTask",
    "Pairs",
    "Prompt",
    "Prompts",
    "answer_losses",
    "attach",
    "balanced_groups",
    "best",
    "build_context",
    "build_groups",
    "build_prompt",
    "changed",
    "context_change",
    "context_notes",
    "contributions",
    "fit_group_weights",
    "forward_problem",
    "group_problem",
    "implied_change",
    "join_contexts",
    "linear_attention",
    "load_context",
    "save_context",
    "stack_prompts",
]
