"""Runs that Snakemake did not see being made: they are not trained again.

A job that outlives a killed Snakemake leaves its run whole, its manifest last. Snakemake still has its
files marked as incomplete, and would train it again. What it has noted of such a run is forgotten, as
by --cleanup-metadata: like an imported one it then counts as made.

Of these Snakemake has no notes, and goes by dates. Images and partitions that are made beside an imported
run are newer than it, with the same content: they are given its date.

REQUIRES  STUDY, LAYOUT (study.smk), EXPECTED (packing.smk)
PROVIDES  nothing
"""

import os
from base64 import urlsafe_b64encode
from contextlib import suppress

from fedgloss.study.layout import MANIFEST, RUN_FILES

LONGEST = 254
"""Characters of a file's name; Snakemake puts what is longer into folders."""


def noted(kind, file):
    """Where Snakemake notes something of a file; kind: incomplete or metadata."""
    name = urlsafe_b64encode(str(file).encode()).decode()
    *folders, last = [name[i : i + LONGEST] for i in range(0, len(name), LONGEST)]
    return Path(".snakemake", kind, *(f"@{folder}" for folder in folders), last)


def forget_marks_of_whole_runs():
    """Forget what is noted of runs that are marked as incomplete, and whole."""
    for cell in STUDY.cells:
        files = [LAYOUT.run(STUDY.name, cell) / name for name in (MANIFEST, *RUN_FILES)]
        marked = [file for file in files if noted("incomplete", file).is_file()]
        if marked and EXPECTED.is_there(cell):
            for kind in ("metadata", "incomplete"):  # once unmarked, nothing more is forgotten
                for file in files:
                    noted(kind, file).unlink(missing_ok=True)


def date_back_what_they_are_trained_on():
    """Give what unseen runs are trained on no later a date than theirs, if it is what they say."""
    for cell in STUDY.cells:
        run = LAYOUT.run(STUDY.name, cell)
        metrics = LAYOUT.metrics(STUDY.name, cell)
        if noted("metadata", metrics).is_file() or not EXPECTED.is_there(cell):
            continue
        data, partition = (EXPECTED.files(cell)[name] for name in ("data", "partition"))
        made = min(file.stat().st_mtime_ns for file in (metrics, run / MANIFEST))
        for file in filter(Path.is_file, (partition, data)):  # the partition is made from the data
            if file.stat().st_mtime_ns > made:
                with suppress(PermissionError):  # of a group's folder: they stay newer
                    os.utime(file, ns=(made, made))
            made = min(made, file.stat().st_mtime_ns)


if workflow.is_main_process:
    forget_marks_of_whole_runs()
    date_back_what_they_are_trained_on()
