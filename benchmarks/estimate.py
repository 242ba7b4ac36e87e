"""How far off `fedgloss estimate` is: small studies built from nothing, beside what was foreseen.

    python benchmarks/estimate.py [smoke quickstart ...] [--cores 2] [--json FILE]

Each study of config/ is built in a copy of the project without results. Ends with 1 if a build took
more than 30 % more or less than the estimate says for so many cores. That is a fair question only
where nobody else uses them: the load of the machine before each build is shown, too.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fedgloss.study.costs import here
from fedgloss.study.remaining import remaining
from fedgloss.study.study import load_study

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "workflow", "config", "profiles", "envs", "src")
TOLERANCE = 0.3


def measured(name: str, cores: int) -> dict[str, float | str]:
    """Build a study from nothing: seconds foreseen and taken, and the load before."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            copy(ROOT / part, project / part)
        study = load_study(project / "config" / f"{name}.yaml")
        foreseen = here(study, [*remaining(study, project / "results")], cores)
        load, begun = os.getloadavg()[0], time.monotonic()
        subprocess.run(
            ["snakemake", "--cores", str(cores), f"--configfile=config/{name}.yaml"],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(project / "src")},
            check=True,
            capture_output=True,
        )
        taken = time.monotonic() - begun
    return {"study": name, "foreseen": foreseen, "taken": taken, "load_before": load}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", default=["smoke", "quickstart"])
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    found = [measured(name, options.cores) for name in options.studies]
    for one in found:
        off = one["taken"] / one["foreseen"] - 1
        print(
            f"{one['study']}: {one['foreseen']:.0f} s foreseen on {options.cores} cores,"
            f" {one['taken']:.0f} s taken ({off:+.0%}); load before {one['load_before']:.1f}"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(any(abs(one["taken"] / one["foreseen"] - 1) > TOLERANCE for one in found))


if __name__ == "__main__":
    sys.exit(main())
