"""Structured prompting: groups of demonstrations encoded once, and attended to by any query (arXiv 2212.06713)."""

from pmpjax.contexts.structured_prompting.context import (
    Context,
    ContextAttention,
    attach,
    build_context,
    join_contexts,
)
from pmpjax.contexts.structured_prompting.groups import Groups, build_groups
from pmpjax.contexts.structured_prompting.stored import context_notes, load_context, save_context
from pmpjax.contexts.structured_prompting.weights import fit_group_weights, group_problem

__all__ = [
    "Context",
    "ContextAttention",
    "Groups",
    "attach",
    "build_context",
    "build_groups",
    "context_notes",
    "fit_group_weights",
    "group_problem",
    "join_contexts",
    "load_context",
    "save_context",
]
