"""Runs that are what the study asks for are not trained again, whatever Snakemake has noted of them.

It notes a job's parameters and inputs, and goes by dates where it has no notes. Neither is what decides:
a run's manifest says what the run is, and the study whether it asks for that.

REQUIRES  STUDY, LAYOUT, invocation (study.smk), settings_text (cells.smk), notes.smk, EXPECTED (packing.smk),
          STANDINGS (trials.smk)
PROVIDES  nothing
"""

import json
import os
import shutil
import time
from contextlib import suppress

from fedgloss.errors import InputError, of_system
from fedgloss.files import read_json, write_text
from fedgloss.study.layout import IMAGES_FILE, MANIFEST


def correct(cell, files):
    """Note of a cell's files that they were made as the study asks; whether they were not noted so.

    A run that was imported in another's place has that one's notes. And of code that the study
    accepts beside today's Snakemake knows nothing.
    """
    asked = sorted(map(repr, (EXPECTED.code(cell, {}), settings_text(cell))))
    corrected = False
    for note in (noted("metadata", file) for file in files):
        with suppress(InputError):
            said = read_json(note) if note.is_file() else {}
            if said.get("params", asked) != asked:
                write_text(note, json.dumps(said | {"params": asked}))
                corrected = True
    return corrected


def dated(file):
    """When a file was written last, in nanoseconds."""
    return file.stat().st_mtime_ns


def date(file, latest):
    """Give a file no later a date than this."""
    if dated(file) > latest:
        with suppress(OSError):  # of a group's folder: it stays newer
            os.utime(file, ns=(latest, latest))


def trained_on(cell):
    """What says what a cell is trained on, each made of the next: its partition, and its data."""
    files = EXPECTED.files(cell)
    return [file for file in (files["partition"], files["data"]) if file.is_file()]


def date_back(files, made):
    """Give what something is trained on no later a date than that, `made`.

    Images that are older than their manifest stay so: younger ones are read to know what they are.
    """
    images = files[-1].with_name(IMAGES_FILE)
    believed = images.is_file() and dated(images) <= dated(files[-1])
    for file in files:
        date(file, made)
        made = min(made, dated(file)) - 1
    if believed and dated(images) > dated(files[-1]):
        date(images, made)


def is_of_others(cell):
    """Whether a run is of other data, or of another partition, than those that are there."""
    manifest = EXPECTED.read(cell, {})[0] or {}
    inputs = manifest.get("inputs") if isinstance(manifest.get("inputs"), dict) else {}
    return any(inputs.get(key) != value for key, value in EXPECTED.inputs(cell).items())


def bring_to_today():
    """Give no data or partition a date that is yet to come, as another machine's clock may have.

    What was trained on it would be older, and Snakemake would delete it as soon as it is made.
    """
    for cell in STUDY.cells:
        files = trained_on(cell)
        images = EXPECTED.files(cell)["data"].with_name(IMAGES_FILE)
        for file in (*files, *([images] if images.is_file() else [])):
            date(file, time.time_ns())


def decide_anew():
    """Remove what says which trials of a sweep reach a rung, unless the runs that are there say so.

    Snakemake goes by dates, and by what it has noted; the file may be damaged, or of other trials.
    """
    there = Standings(STUDY, LAYOUT.results)
    for base in STANDINGS.bases:
        for rung in range(1, len(STANDINGS.rungs)):
            file = LAYOUT.promoted(STUDY.name, base, rung)
            if file.is_file():
                with suppress(InputError):
                    trials = [trial.label for trial in there.left(base, rung)]
                    if read_json(file) == {"trials": trials}:
                        continue
                with suppress(OSError):  # results that can only be looked at
                    file.unlink()


def tidy(cell):
    """Remove the checkpoints of a run that is whole: its job was killed before it could.

    Should another process train it all the same, it leaves when it finds out.
    """
    shutil.rmtree(LAYOUT.checkpoints(STUDY.name, cell), ignore_errors=True)
    with suppress(OSError):
        LAYOUT.owner(STUDY.name, cell).unlink()


def keep():
    """See to it that nothing is trained again that is there, and is what the study asks for.

    Data and partitions get the date of what was trained on them: they are what manifests say, and
    may have been made again since, or in another place. Not where a run is of others: by its
    date alone Snakemake knows that it is to be trained again.
    """
    runs = {cell: LAYOUT.run(STUDY.name, cell) for cell in STUDY.cells}
    runs = {cell: run for cell, run in runs.items() if (run / MANIFEST).is_file()}
    kept = [cell for cell in runs if EXPECTED.is_there(cell)]
    changed = {
        file for cell in {*runs} - {*kept} if is_of_others(cell) for file in trained_on(cell)
    }
    for cell in kept:
        files = files_of_run(cell)
        # A job that outlives a killed Snakemake leaves its run whole, its manifest last.
        if any(noted("incomplete", file).is_file() for file in files):
            tidy(cell)
            forget(files)
        elif correct(cell, files):
            forget([*LAYOUT.hessian(STUDY.name, cell).parent.glob("*")])  # of the run that was here
        inputs = trained_on(cell)
        if inputs and changed.isdisjoint(inputs):
            date_back(inputs, min(map(dated, files[:2])))
    for cell, rounds in STANDINGS.pauses():
        paused = LAYOUT.paused(STUDY.name, cell, rounds)
        if paused.is_file() and STANDINGS.paused(cell, rounds)[0]:
            correct(cell, [paused])


if workflow.is_main_process:
    try:
        bring_to_today()
        keep()
        decide_anew()
    except OSError as error:  # a full disk
        invocation.refuse(of_system(error))
