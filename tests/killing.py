"""Runs in processes of their own that are killed where a test says so, and started again until they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

_KEPT = {
    "jax_compilation_cache_dir": "",
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}


@contextmanager
def compilations_kept(cache: Path) -> Iterator[None]:
    """Keeps this process's compilations in `cache` within the block, for those that `start` is given it for."""
    settings = {**_KEPT, "jax_compilation_cache_dir": str(cache)}
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # it may have found at an earlier compilation that there is none
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def start(*line: object, cache: Path | None = None, **environment: str) -> subprocess.Popen:
    """`python *line`. `cache`: keeps compilations there, so that a restart is quick."""
    environment = {**os.environ, **environment}
    if cache is not None:
        settings = {**_KEPT, "jax_compilation_cache_dir": cache}
        environment |= {name.upper(): str(value) for name, value in settings.items()}
    command = [sys.executable, *map(str, line)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen, seconds: float = 240) -> tuple[str, str]:
    """Standard output and error of a process that ends well."""
    try:
        out, error = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, error[-3000:]
    return out, error


def kill(process: subprocess.Popen, ready: Callable[[], bool], seconds: float = 240) -> None:
    """Kills a process as soon as `ready()`, of what it has written; it must not have ended before."""
    try:
        latest = time.monotonic() + seconds
        while not ready():
            assert process.poll() is None, f"it ended before it was killed: {process.communicate()[1][-3000:]}"
            assert time.monotonic() < latest, "what it is waited for did not come"
            time.sleep(0.005)  # polls the other process
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed: give it more to do"


def kill_and_resume(begin: Callable[[], subprocess.Popen], moments: Iterable[Callable[[], bool]]) -> tuple[str, str]:
    """Starts a run, kills it at each of the moments and starts it again; then lets it end. What the last one wrote."""
    for ready in moments:
        kill(begin(), ready)
    return finish(begin())
