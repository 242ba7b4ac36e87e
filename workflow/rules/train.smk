"""Train one cell: an algorithm on a partition with a seed; or those of all seeds in one job.

REQUIRES  a data set in results/data and its partition in results/partitions (data.smk), the weights
          that a model of the study starts from, if any
PROVIDES  results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/
"""

TRAINED = "results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}"
# The files of one cell, or with `--config together=seeds` of all seeds of a method.
JOB = "{seed}" if TOGETHER == "cells" else "all"
JOB_SEEDS = ["{seed}"] if TOGETHER == "cells" else SEEDS


rule train:
    """Train one cell, or its seeds together, on one device; resumes from its checkpoint."""
    input:
        # What counts is its content, whose hash is in the manifest.
        data=ancient(prepared("data.safetensors")),
        manifest=prepared("manifest.json"),
        partition=partition_of,
        # Its SHA-256 is among the settings: what counts is its content, not its date.
        weights=ancient(initial_weights),
    output:
        metrics=expand(f"{TRAINED}/metrics.csv", seed=JOB_SEEDS, allow_missing=True),
        manifest=expand(f"{TRAINED}/manifest.json", seed=JOB_SEEDS, allow_missing=True),
        final=expand(f"{TRAINED}/final.safetensors", seed=JOB_SEEDS, allow_missing=True),
        average=expand(f"{TRAINED}/average.safetensors", seed=JOB_SEEDS, allow_missing=True),
        local=expand(f"{TRAINED}/locals.safetensors", seed=JOB_SEEDS, allow_missing=True),
    log:
        f"results/logs/train/{{study}}/{{dataset}}/alpha-{{alpha}}/{{model}}/{{algorithm}}/seed-{JOB}.log",
    benchmark:
        f"results/benchmarks/train/{{study}}/{{dataset}}/alpha-{{alpha}}/{{model}}/{{algorithm}}/seed-{JOB}.jsonl"
    conda:
        "../../envs/fedgloss.yaml"
    threads: 1
    resources:
        gpu=needs("training", "gpu"),
        runtime=needs("training", "minutes"),
        mem_mb=needs("training", "memory"),
    params:
        settings=resolved_settings,
        code=lambda wildcards: [training_code(wildcards)] * len(trained_by(wildcards)),
        weights=weights_arguments,
        data=subpath(input.data, parent=True),
        partitions=lambda wildcards, input: [input.partition] * len(trained_by(wildcards)),
        folders=lambda wildcards, output: [str(Path(file).parent) for file in output.metrics],
        # Not declared as an output: Snakemake deletes those before a job and after its failure.
        checkpoints=lambda wildcards: [
            f"results/checkpoints/{STUDY.name}/{cell}" for cell in trained_by(wildcards)
        ],
    shell:
        "fedgloss train"
        " --settings {params.settings:q}"
        " --data {params.data:q}"
        " --partition {params.partitions:q}"
        " {params.weights:q}"
        " --out {params.folders:q}"
        " --checkpoints {params.checkpoints:q}"
        " --code {params.code:q}"
        " --threads {threads}"
        " 2> {log:q}"
