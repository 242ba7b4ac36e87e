"""Train one cell: an algorithm on a partition with a seed.

REQUIRES  results/data/{dataset}/, results/partitions/{dataset}/alpha-{alpha}/partition.json,
          the weights that a model of the study starts from, if any
PROVIDES  results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/
"""


rule train:
    """Train one cell on one device; resumes from its checkpoint after an interruption."""
    input:
        data="results/data/{dataset}/data.safetensors",
        manifest="results/data/{dataset}/manifest.json",
        partition="results/partitions/{dataset}/alpha-{alpha}/partition.json",
        # Its SHA-256 is among the settings: what counts is its content, not its date.
        weights=ancient(initial_weights),
    output:
        metrics="results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/metrics.csv",
        manifest="results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/manifest.json",
        final="results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/final.safetensors",
        average="results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/average.safetensors",
        local="results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/locals.safetensors",
    log:
        "results/logs/train/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}.log",
    benchmark:
        "results/benchmarks/train/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}.jsonl"
    conda:
        "../../envs/fedgloss.yaml"
    threads: 1
    resources:
        gpu=needs("training", "gpu"),
        runtime=needs("training", "minutes"),
        mem_mb=needs("training", "memory"),
    params:
        settings=resolved_settings,
        code=training_code,
        weights=weights_arguments,
        data=subpath(input.data, parent=True),
        folder=subpath(output.metrics, parent=True),
        # Not declared as an output: Snakemake deletes those before a job and after its failure.
        checkpoints="results/checkpoints/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}",
    shell:
        "fedgloss train"
        " --settings {params.settings:q}"
        " --data {params.data:q}"
        " --partition {input.partition:q}"
        " {params.weights:q}"
        " --out {params.folder:q}"
        " --checkpoints {params.checkpoints:q}"
        " --code {params.code:q}"
        " --threads {threads}"
        " 2> {log:q}"
