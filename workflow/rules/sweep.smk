"""Sweeps: which trials go on, and what is chosen. Trials are cells as any others (train.smk).

REQUIRES  STUDY, LAYOUT (study.smk); trials.smk; what a cell trains on, as in train.smk
PROVIDES  LAYOUT.paused: what a cell is worth where its run paused, with a checkpoint to go on from
          LAYOUT.promoted: the trials of a label that reach a rung
          LAYOUT.chosen: the chosen settings as YAML, for another study
"""

import json
import re

from fedgloss import fingerprint
from fedgloss.study.layout import CELL, SEED

PAUSE = (
    "fedgloss train {params.jobs:q} --threads {threads}"
    " --until {wildcards.rounds:q} --paused {output:q} 2> {log:q}"
)
PAUSED = LAYOUT.paused("{study}", f"{{condition}}/{SEED}", "{rounds}")


wildcard_constraints:
    base="|".join(map(re.escape, STANDINGS.bases)) or "none",
    rung=r"\d+",
    rounds=r"\d+",


ruleorder: pause_seeds > pause


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
        # A seed or a column less decides, too, and is no newer input.
        cells=cells_before,
        code=fingerprint.of_sweeps(),
    shell:
        "fedgloss promote {params.study:q} {wildcards.base:q} {wildcards.rung:q} 2> {log:q}"


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
