"""One process in a directory: a second is refused by name, a dead one holds nothing, and no lock is no run."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from filelock import SoftFileLock

from pmpjax.runs import RunError
from pmpjax.runs.lock import lock

HOLDER = """
import sys, time
from pathlib import Path
from pmpjax.runs.lock import lock

with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)  # until it is killed
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_by_the_pid_of_the_first(tmp_path, holder):
    with pytest.raises(RunError, match=rf"process {holder.pid} is working in {tmp_path}"), lock(tmp_path):
        pass


def test_a_second_lock_of_the_same_process_is_refused(tmp_path):
    with lock(tmp_path), pytest.raises(RunError, match=f"process {os.getpid()} "), lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_a_lock_dies_with_its_process(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".lock.pid").read_text() == str(holder.pid), "it had no time to clear up"
    with lock(tmp_path):
        assert (tmp_path / ".lock.pid").read_text() == str(os.getpid())
    assert not (tmp_path / ".lock.pid").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch, number):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr("fcntl.flock", refuse)
        with pytest.raises(RunError, match=r"cannot lock .*\.lock"), lock(tmp_path):
            pass
    with lock(tmp_path):  # what was tried leaves nothing that stands in the way
        pass


def test_a_python_without_locks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pmpjax.runs.lock.FileLock", SoftFileLock)
    with pytest.raises(RunError, match=r"cannot lock .*\.lock"), lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
