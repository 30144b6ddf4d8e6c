"""Tests of pmpjax.contexts."""
