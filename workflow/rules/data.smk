"""Data sets and partitions: shared by all studies and seeds.

REQUIRES  the originals where a data set has any (config/methods.yaml, `datasets`)
PROVIDES  results/data/{dataset}/{data.safetensors,manifest.json}
          results/partitions/{dataset}/alpha-{alpha}/partition.{json,png}

With --cache and SNAKEMAKE_OUTPUT_CACHE other checkouts share them, where their definition is all
there is to them (Snakemake allows no `benchmark` in a rule with `cache`).
"""


rule prepare:
    """Turn a data set into uint8 tensors with a manifest."""
    output:
        data="results/data/{dataset}/data.safetensors",
        manifest="results/data/{dataset}/manifest.json",
    log:
        "results/logs/prepare/{dataset}.log",
    wildcard_constraints:
        dataset=datasets_by(same_everywhere=True),
    cache: CACHE
    conda:
        "../../envs/fedgloss.yaml"
    params:
        arguments=prepare_arguments,
        code=lambda wildcards: fingerprint.of_data(STUDY.datasets[wildcards.dataset]["source"]),
        folder=subpath(output.data, parent=True),
    shell:
        "fedgloss prepare {params.arguments:q} --out {params.folder:q} 2> {log:q}"


use rule prepare as prepare_uncached with:
    wildcard_constraints:
        dataset=datasets_by(same_everywhere=False),
    cache: False


rule partition:
    """Decide which client holds which image."""
    input:
        # What counts is its content, whose hash is in the manifest. (Snakemake compares contents of
        # small files only, and would go by the date of this one.)
        data=ancient("results/data/{dataset}/data.safetensors"),
        manifest="results/data/{dataset}/manifest.json",
        split=ancient(split_files),
    output:
        partition="results/partitions/{dataset}/alpha-{alpha}/partition.json",
        figure="results/partitions/{dataset}/alpha-{alpha}/partition.png",
    log:
        "results/logs/partition/{dataset}/alpha-{alpha}.log",
    wildcard_constraints:
        dataset=datasets_by(same_everywhere=True),
    cache: CACHE
    conda:
        "../../envs/fedgloss.yaml"
    params:
        arguments=partition_arguments,
        code=partition_code,
        split=split_content,
        data=subpath(input.data, parent=True),
    shell:
        "fedgloss partition {params.arguments:q}"
        " --data {params.data:q}"
        " --out {output.partition:q}"
        " --figure {output.figure:q}"
        " 2> {log:q}"


use rule partition as partition_uncached with:
    wildcard_constraints:
        dataset=datasets_by(same_everywhere=False),
    cache: False
