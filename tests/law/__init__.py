"""Tests of pmpjax.law."""
