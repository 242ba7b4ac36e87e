"""Data sets and partitions: shared by all studies and seeds.

REQUIRES  the originals where a data set has any (config/methods.yaml, `datasets`)
PROVIDES  results/data/{dataset}/{data.safetensors,manifest.json}
          results/partitions/{dataset}/alpha-{alpha}/partition.{json,png}
"""


rule prepare:
    """Turn a data set into uint8 tensors with a manifest."""
    output:
        data="results/data/{dataset}/data.safetensors",
        manifest="results/data/{dataset}/manifest.json",
    log:
        "results/logs/prepare/{dataset}.log",
    benchmark:
        "results/benchmarks/prepare/{dataset}.jsonl"
    conda:
        "../../envs/fedgloss.yaml"
    params:
        arguments=prepare_arguments,
        code=lambda wildcards: fingerprint.of_data(STUDY.datasets[wildcards.dataset]["source"]),
        folder=subpath(output.data, parent=True),
    shell:
        "fedgloss prepare {params.arguments:q} --out {params.folder:q} 2> {log:q}"


rule partition:
    """Decide which client holds which image."""
    input:
        data="results/data/{dataset}/data.safetensors",
        manifest="results/data/{dataset}/manifest.json",
    output:
        partition="results/partitions/{dataset}/alpha-{alpha}/partition.json",
        figure="results/partitions/{dataset}/alpha-{alpha}/partition.png",
    log:
        "results/logs/partition/{dataset}/alpha-{alpha}.log",
    benchmark:
        "results/benchmarks/partition/{dataset}/alpha-{alpha}.jsonl"
    conda:
        "../../envs/fedgloss.yaml"
    params:
        arguments=partition_arguments,
        code=partition_code,
        data=subpath(input.data, parent=True),
    shell:
        "fedgloss partition {params.arguments:q}"
        " --data {params.data:q}"
        " --out {output.partition:q}"
        " --figure {output.figure:q}"
        " 2> {log:q}"
