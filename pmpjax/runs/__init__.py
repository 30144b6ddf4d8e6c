"""Run directories: manifests, locks, resumable stages, atomic files.

`pmpjax.runs.progress` has the bar and `pmpjax.runs.plots` the figures; the two are imported by name, so that a command
which draws nothing does not wait for matplotlib.
"""

from pmpjax.runs.configs import read_config as read_config
from pmpjax.runs.configs import stored_config as stored_config
from pmpjax.runs.directory import Run as Run
from pmpjax.runs.directory import fingerprint as fingerprint
from pmpjax.runs.directory import open_run as open_run
from pmpjax.runs.directory import versions as versions
from pmpjax.runs.files import atomic as atomic
from pmpjax.runs.files import read_arrays as read_arrays
from pmpjax.runs.files import read_json as read_json
from pmpjax.runs.files import read_table as read_table
from pmpjax.runs.files import write_arrays as write_arrays
from pmpjax.runs.files import write_json as write_json
from pmpjax.runs.files import write_table as write_table
from pmpjax.runs.files import write_text as write_text
from pmpjax.runs.lock import RunError as RunError

__all__ = [
    "Run",
    "RunError",
    "atomic",
    "fingerprint",
    "open_run",
    "read_arrays",
    "read_config",
    "read_json",
    "read_table",
    "stored_config",
    "versions",
    "write_arrays",
    "write_json",
    "write_table",
    "write_text",
]
