"""The marker of tests that need the two model packages."""

import importlib.util

import pytest

from pmpjax.models.packages import INSTALL, PACKAGES

MISSING = [package for package, _ in PACKAGES.values() if importlib.util.find_spec(package) is None]


def needs_models(test):
    """Marks a test by `models`; where a package is missing it is skipped with what installs it."""
    return pytest.mark.models(pytest.mark.skipif(bool(MISSING), reason=INSTALL)(test))
