"""Structured prompting: groups of demonstrations encoded once, and attended to by any query (arXiv 2212.06713)."""

from pmpjax.contexts.structured_prompting.context import (
    Context,
    ContextAttention,
    attach,
    build_context,
    join_contexts,
)
from pmpjax.contexts.structured_prompting.groups import Groups, build_groups

__all__ = [
    "Context",
    "ContextAttention",
    "Groups",
    "attach",
    "build_context",
    "build_groups",
    "join_contexts",
]
