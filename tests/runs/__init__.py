"""Tests of pmpjax.runs."""
