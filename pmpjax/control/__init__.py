"""Optimal control of any discrete dynamics. Imports jax (and optax for outer steps); never flax, never a file."""
