"""Train one cell: an algorithm on a partition with a seed; or those of all seeds in one job.

REQUIRES  a prepared data set and its partition (data.smk), the weights that a model of the study
          starts from, if any
PROVIDES  a cell's run, LAYOUT.run: metrics.csv, manifest.json, {final,average,locals}.safetensors; and
          the models that training.keep asks for, undeclared since they differ from cell to cell
"""

from fedgloss.study.layout import CELL, SEED

TRAIN = "fedgloss train {params.jobs:q} --threads {threads} 2> {log:q}"
RUN = LAYOUT.run("{study}", CELL)
RUN_OF_SEED = LAYOUT.run("{study}", f"{{condition}}/{SEED}")


ruleorder: train_seeds > train


rule train:
    """Train one cell on one device; resumes from its checkpoint."""
    input:
        # What counts is its content, whose hash is in the manifest.
        data=ancient(prepared("data.safetensors")),
        manifest=prepared("manifest.json"),
        partition=partition_of,
        # Its SHA-256 is among the settings: what counts is its content, not its date.
        weights=ancient(initial_weights),
    output:
        metrics=RUN / "metrics.csv",
        manifest=RUN / "manifest.json",
        final=RUN / "final.safetensors",
        average=RUN / "average.safetensors",
        local=RUN / "locals.safetensors",
    log:
        LAYOUT.log("train", f"{{study}}/{CELL}"),
    benchmark:
        LAYOUT.benchmark("train", f"{{study}}/{CELL}")
    priority: 2  # accuracies first, sharpness when no cell is left to train
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
        # Names the folder for checkpoints, too, which is no output: Snakemake deletes those before
        # a job and after its failure.
        jobs=job_files("train"),
    shell:
        TRAIN


use rule train as train_seeds with:
    output:
        metrics=expand(RUN_OF_SEED / "metrics.csv", seed=SEEDS, allow_missing=True),
        manifest=expand(RUN_OF_SEED / "manifest.json", seed=SEEDS, allow_missing=True),
        final=expand(RUN_OF_SEED / "final.safetensors", seed=SEEDS, allow_missing=True),
        average=expand(RUN_OF_SEED / "average.safetensors", seed=SEEDS, allow_missing=True),
        local=expand(RUN_OF_SEED / "locals.safetensors", seed=SEEDS, allow_missing=True),
    log:
        LAYOUT.log("train", "{study}/{condition}/seed-all"),
    benchmark:
        LAYOUT.benchmark("train", "{study}/{condition}/seed-all")
    wildcard_constraints:
        condition=packed("train", EXPECTED.is_there, may=is_small),
