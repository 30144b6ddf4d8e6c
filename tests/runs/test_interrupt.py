"""A signal waits for a safe moment, and is forgotten afterwards."""

import os
import signal
import subprocess
import sys

import pytest

from pmpjax.runs import open_run
from pmpjax.runs.interrupt import check, deferred
from pmpjax.runs.progress import progress


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_signal_is_noted_and_raised_at_the_next_check(number):
    notes, handlers = [], [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with deferred(lambda: notes.append("noted")) as received:
        check()
        os.kill(os.getpid(), number)
        assert notes == ["noted"] and received == [number]
        with pytest.raises(KeyboardInterrupt):
            check()
    check()
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers


def test_bars_and_stages_check(tmp_path):
    with deferred(lambda: None), open_run(tmp_path, "test", {}) as run:
        with progress("work") as bar, pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            bar.update(1)
        with pytest.raises(KeyboardInterrupt):
            run.stage("one", lambda folder: pytest.fail("built"))


def test_a_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal, time; from pmpjax.runs.interrupt import deferred\n"
        "with deferred(lambda: print('noted', flush=True)):\n"
        "    for _ in range(2): os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(30)"  # never slept out: the second signal must end it, well before the timeout
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.returncode == 130 and done.stdout == "noted\n"
