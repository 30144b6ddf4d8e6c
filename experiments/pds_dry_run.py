"""The paper's four sizes compiled for the machines of their presets: `python experiments/pds_dry_run.py` (10 minutes).

128 devices are simulated on the CPU; nothing is allocated and nothing is run.
"""

from pathlib import Path

from pmpjax.costs.dry_run import CAVEATS, HEADER, dry_run_notes, dry_run_rows, simulate_devices
from pmpjax.pds.dry_run import dry_run
from pmpjax.pds.presets import PLACEMENTS, PRESETS
from pmpjax.runs import write_text

NAMES = ("paper-160m", "paper-470m", "paper-1b", "paper-1.7b")


def section(name: str) -> str:
    """A preset's table and the notes below it, in Markdown."""
    report = dry_run(PRESETS[name], PLACEMENTS[name])
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADER, *dry_run_rows(report))]
    lines.insert(1, "|---" * len(HEADER) + "|")
    notes = [f"{note[0].upper()}{note[1:]}." for note in dry_run_notes(report) if note not in CAVEATS]
    return "\n".join([f"## {name}", "", *lines, "", " ".join(notes)])


if __name__ == "__main__":
    simulate_devices(128)
    title = "# The paper's sizes, compiled for simulated devices\n\n`python experiments/pds_dry_run.py`"
    reading = "\n".join(["How to read it:\n", *(f"- {caveat}" for caveat in CAVEATS)])
    text = "\n\n".join([title, *map(section, NAMES), reading])
    write_text(Path(__file__).with_suffix(".md"), text + "\n")
    print(text)
