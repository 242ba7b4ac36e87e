"""Sweeps: which trials go on, and what is chosen. Trials are cells as any others (train.smk).

REQUIRES  STUDY, LAYOUT (study.smk); what a cell trains on, as in train.smk
PROVIDES  LAYOUT.paused: what a cell is worth where its run paused, with a checkpoint to go on from
          LAYOUT.promoted: the trials of a label that reach a rung
          LAYOUT.chosen: the chosen settings as YAML, for another study
          going_on, promoted_files, chosen_files: functions of inputs
"""

import json
import re
from itertools import chain

from fedgloss import fingerprint
from fedgloss.study.layout import CELL, SEED
from fedgloss.study.standings import Standings
from fedgloss.study.sweep import packs

PAUSE = (
    "fedgloss train {params.jobs:q} --threads {threads}"
    " --until {wildcards.rounds} --paused {output:q} 2> {log:q}"
)
STANDINGS = Standings(STUDY, LAYOUT.results)
"""Asked for nothing but what the study says of its trials: files are Snakemake's business."""
PAUSED = LAYOUT.paused("{study}", f"{{condition}}/{SEED}", "{rounds}")


wildcard_constraints:
    base="|".join(map(re.escape, STANDINGS.bases)) or "none",
    rung=r"\d+",
    rounds=r"\d+",


ruleorder: pause_seeds > pause


FIRST = STANDINGS.rungs[0]
"""What all trials train for."""
PACKS = {f"trials{i}": labels for i, labels in enumerate(packs(STUDY.trials.values(), most=8))}
"""Trials that one job serves where cells are small, by the wildcard that names their setting."""


def trials_at(setting, labels):
    """The cells of these trials in a setting, with the seeds that all trials train with."""
    cells = SETTINGS[setting]
    return [cell for cell in cells if cell.algorithm in labels and cell.seed in FIRST.seeds]


def packed_trials(labels, done):
    """A pattern for the settings in which these trials are one job, or none at all.

    As for seeds (packing.smk), and only where the whole study is built.
    """
    settings = [setting for setting in SETTINGS if trials_at(setting, labels)]
    if workflow.is_main_process:  # a cluster's job has been told already which it is
        whole = {*chain(*asked_for())} <= {"all"} and len(PART) == len(STUDY.cells)
        settings = [
            setting
            for setting in settings
            if whole
            and TOGETHER != "cells"
            and all(map(is_small, trials_at(setting, labels)))
            and not any(map(done, trials_at(setting, labels)))
        ]
    return "|".join(map(re.escape, settings)) or "none"


def left(base, rung):
    """The labels of the trials that reach a rung, when the runs that decide it are done."""
    if rung == 0:
        return [trial.label for trial in STUDY.trials.values() if trial.base == base]
    done = checkpoints.promote.get(study=STUDY.name, base=base, rung=rung)
    with open(done.output[0], encoding="utf-8") as file:
        return json.load(file)["trials"]


def rung_files(wildcards):
    """A rule's input: what decides who reaches a rung, the runs of the one before."""
    before = int(wildcards.rung) - 1
    rounds = STANDINGS.rungs[before].rounds
    for label in left(wildcards.base, before):
        for cell in STANDINGS.cells(STUDY.trials[label], before):
            if rounds is None:
                yield LAYOUT.run(STUDY.name, cell) / "manifest.json"
            else:
                yield LAYOUT.paused(STUDY.name, cell, rounds)


def going_on(cells):
    """Those of these cells that are trained to their end: all, but for the trials dropped."""
    last = len(STANDINGS.rungs) - 1
    if last == 0:
        return cells
    ends = {label for base in STANDINGS.bases for label in left(base, last)}
    return [cell for cell in cells if cell.algorithm not in STUDY.trials or cell.algorithm in ends]


def promoted_files():
    """What says which trials were dropped."""
    return [
        LAYOUT.promoted(STUDY.name, base, rung)
        for base in STANDINGS.bases
        for rung in range(1, len(STANDINGS.rungs))
    ]


def chosen_files(wildcards):
    """A rule's input: what a study's sweep has chosen, if it is one.

    What promotes trials is named beside it: asked for one by one, labels would wait for each other.
    """
    return [*promoted_files(), LAYOUT.chosen(STUDY.name)] if STUDY.trials else []


def deciding_files(wildcards):
    """A rule's input: what a choice is made from."""
    cells = going_on([cell for cell in STUDY.cells if cell.algorithm in STUDY.trials])
    manifests = [LAYOUT.run(STUDY.name, cell) / "manifest.json" for cell in cells]
    return [*manifests, *promoted_files()]


def sweep_text(wildcards):
    """A rule's parameter: what the study says of its sweep, as JSON."""
    return json.dumps(config.get("sweep"))


def is_paused(cell):
    """Whether a cell has come to a rung already."""
    paused = [LAYOUT.paused(STUDY.name, cell, rung.rounds) for rung in STANDINGS.rungs]
    return any(file.is_file() for file in paused)


rule pause:
    """Train one cell up to a rung; `train` goes on from there."""
    input:
        data=ancient(prepared("data.safetensors")),
        manifest=prepared("manifest.json"),
        partition=partition_of,
        weights=ancient(initial_weights),
    output:
        LAYOUT.paused("{study}", CELL, "{rounds}"),
    log:
        LAYOUT.log("pause", f"{{study}}/{CELL}/round-{{rounds}}"),
    benchmark:
        LAYOUT.benchmark("pause", f"{{study}}/{CELL}/round-{{rounds}}")
    priority: 3  # so that it is known who goes on
    conda:
        "../../envs/fedgloss.yaml"
    threads: 1
    resources:
        gpu=needs("training", "gpu"),
        runtime=needs("training", "minutes"),
        mem_mb=needs("training", "memory"),
    params:
        settings=settings_but_seed,
        code=training_code,
        jobs=job_files("train"),
    shell:
        PAUSE


use rule pause as pause_seeds with:
    output:
        expand(PAUSED, seed=SEEDS, allow_missing=True),
    log:
        LAYOUT.log("pause", "{study}/{condition}/seed-all/round-{rounds}"),
    benchmark:
        LAYOUT.benchmark("pause", "{study}/{condition}/seed-all/round-{rounds}")
    wildcard_constraints:
        condition=packed("pause", is_paused, may=is_small),


for wildcard, labels in PACKS.items():
    # Of one stage, the first, all trials are known from the start.
    if FIRST.rounds is None:
        runs = expand(
            LAYOUT.run("{study}", f"{{{wildcard}}}/{{label}}/{SEED}"),
            label=labels,
            seed=FIRST.seeds,
            allow_missing=True,
        )
        workflow.ruleorder(f"train_{wildcard}", "train_seeds", "train")

        rule:
            name:
                f"train_{wildcard}"
            input:
                data=ancient(prepared("data.safetensors")),
                manifest=prepared("manifest.json"),
                partition=partition_of,
                weights=ancient(initial_weights),
            output:
                metrics=[f"{run}/metrics.csv" for run in runs],
                manifest=[f"{run}/manifest.json" for run in runs],
                final=[f"{run}/final.safetensors" for run in runs],
                average=[f"{run}/average.safetensors" for run in runs],
                local=[f"{run}/locals.safetensors" for run in runs],
            log:
                LAYOUT.log("train", f"{{study}}/{{{wildcard}}}/{wildcard}"),
            benchmark:
                LAYOUT.benchmark("train", f"{{study}}/{{{wildcard}}}/{wildcard}")
            wildcard_constraints:
                **{wildcard: packed_trials(labels, EXPECTED.is_there)},
            priority: 2
            conda:
                "../../envs/fedgloss.yaml"
            threads: 1
            resources:
                gpu=needs("training", "gpu"),
                runtime=needs("training", "minutes"),
                mem_mb=needs("training", "memory"),
            params:
                settings=settings_but_seed,
                code=training_code,
                jobs=job_files("train"),
            shell:
                TRAIN

    else:
        paused = expand(
            LAYOUT.paused("{study}", f"{{{wildcard}}}/{{label}}/{SEED}", "{rounds}"),
            label=labels,
            seed=FIRST.seeds,
            allow_missing=True,
        )
        workflow.ruleorder(f"pause_{wildcard}", "pause_seeds", "pause")

        rule:
            name:
                f"pause_{wildcard}"
            input:
                data=ancient(prepared("data.safetensors")),
                manifest=prepared("manifest.json"),
                partition=partition_of,
                weights=ancient(initial_weights),
            output:
                paused,
            log:
                LAYOUT.log("pause", f"{{study}}/{{{wildcard}}}/{wildcard}/round-{{rounds}}"),
            benchmark:
                LAYOUT.benchmark("pause", f"{{study}}/{{{wildcard}}}/{wildcard}/round-{{rounds}}")
            wildcard_constraints:
                **{wildcard: packed_trials(labels, is_paused)},
                rounds=str(FIRST.rounds),
            priority: 3
            conda:
                "../../envs/fedgloss.yaml"
            threads: 1
            resources:
                gpu=needs("training", "gpu"),
                runtime=needs("training", "minutes"),
                mem_mb=needs("training", "memory"),
            params:
                settings=settings_but_seed,
                code=training_code,
                jobs=job_files("train"),
            shell:
                PAUSE


checkpoint promote:
    """Decide which trials of a label reach the next rung."""
    input:
        rung_files,
    output:
        LAYOUT.promoted("{study}", "{base}", "{rung}"),
    log:
        LAYOUT.log("promote", "{study}/{base}-{rung}"),
    benchmark:
        LAYOUT.benchmark("promote", "{study}/{base}-{rung}")
    conda:
        "../../envs/fedgloss.yaml"
    params:
        study=study_argument,
        sweep=sweep_text,
        code=fingerprint.of_sweeps(),
    shell:
        "fedgloss promote {params.study:q} {wildcards.base:q} {wildcards.rung} 2> {log:q}"


rule choose:
    """Write the settings that the sweep has chosen."""
    input:
        deciding_files,
    output:
        LAYOUT.chosen("{study}"),
    log:
        LAYOUT.log("choose", "{study}"),
    benchmark:
        LAYOUT.benchmark("choose", "{study}")
    conda:
        "../../envs/fedgloss.yaml"
    params:
        study=study_argument,
        # All of it: the file names the study by a hash of what it says.
        asked=lambda wildcards: json.dumps(config),
        code=fingerprint.of_sweeps(),
    shell:
        "fedgloss choose {params.study:q} 2> {log:q}"
