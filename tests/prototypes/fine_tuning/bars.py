"""A progress that remembers what moved on, and by how much."""

from contextlib import contextmanager


class Bars(dict):
    """{name: [total, moved]} of every bar that was opened."""

    @contextmanager
    def __call__(self, name, total=None):
        self[name] = [total, 0.0]
        yield _Bar(self[name])


class _Bar:
    def __init__(self, moved):
        self._moved = moved

    def update(self, advance=1, **fields):
        self._moved[1] += advance
