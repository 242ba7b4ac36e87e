"""Runs that are what the study asks for are not trained again, whatever Snakemake has noted of them.

It notes a job's parameters and inputs, and goes by dates where it has no notes. Neither is what decides:
a run's manifest says what the run is, and the study whether it asks for that.

REQUIRES  STUDY, LAYOUT (study.smk), EXPECTED (packing.smk)
PROVIDES  nothing
"""

import os
from base64 import urlsafe_b64encode
from contextlib import suppress

from fedgloss.files import read_json
from fedgloss.study.layout import IMAGES_FILE, MANIFEST, RUN_FILES

LONGEST = 254
"""Characters of a file's name; Snakemake puts what is longer into folders."""


def noted(kind, file):
    """Where Snakemake notes something of a file; kind: incomplete or metadata."""
    name = urlsafe_b64encode(str(file).encode()).decode()
    *folders, last = [name[i : i + LONGEST] for i in range(0, len(name), LONGEST)]
    return Path(".snakemake", kind, *(f"@{folder}" for folder in folders), last)


def dated(file):
    """When a file was written last, in nanoseconds."""
    return file.stat().st_mtime_ns


def is_misjudged(cell, files):
    """Whether Snakemake would train a run again for what it has noted, though it is the one asked for.

    A job that outlives a killed Snakemake leaves its run whole, its manifest last, and marked as
    incomplete. A run that was imported in another's place has that one's notes, which are older. And
    of code that the study accepts beside today's Snakemake knows nothing.
    """
    if any(noted("incomplete", file).is_file() for file in files):
        return True
    note, manifest = noted("metadata", files[0]), files[0]
    if not note.is_file():
        return False
    imported = dated(note) < dated(manifest)
    return imported or read_json(manifest).get("code") != EXPECTED.code(cell, {})


def forget(files):
    """Forget what is noted of files, as by --cleanup-metadata: like imported ones they are there."""
    for kind in ("metadata", "incomplete"):  # once unmarked, nothing more is forgotten
        for file in files:
            noted(kind, file).unlink(missing_ok=True)


def date_back(cell, made):
    """Give what a run is trained on no later a date than the run's, `made`.

    It is what the run's manifest says, and may have been made again since, or in another place.
    """
    data, partition = (EXPECTED.files(cell)[name] for name in ("data", "partition"))
    files = [partition, data]  # in this order: the partition is made from the data
    images = data.with_name(IMAGES_FILE)
    if images.is_file() and data.is_file() and dated(images) < dated(data):
        files.append(images)  # as the manifest says: only younger ones are read to know
    for file in filter(Path.is_file, files):
        if dated(file) > made:
            with suppress(PermissionError):  # of a group's folder: they stay newer
                os.utime(file, ns=(made, made))
        made = min(made, dated(file)) - 1


def keep_runs():
    """See to it that no run of the study is made again that is there, and is what it asks for."""
    for cell in STUDY.cells:
        run = LAYOUT.run(STUDY.name, cell)
        files = [run / name for name in (MANIFEST, *RUN_FILES)]
        if files[0].is_file() and EXPECTED.is_there(cell):
            if is_misjudged(cell, files):
                forget(files)
            date_back(cell, min(map(dated, files[:2])))


if workflow.is_main_process:
    keep_runs()
