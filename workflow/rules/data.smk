"""Data sets and partitions: shared by all studies and seeds.

REQUIRES  the originals where a data set has any (src/fedgloss/study/constants/methods.yaml, `datasets`)
PROVIDES  results/data/{data}/{data.safetensors,manifest.json}
          results/partitions/{cut}/alpha-{alpha}/partition.{json,png}
          {data} and {cut} are the data set's name, or, where a study defines it otherwise than
          src/fedgloss/study/constants/methods.yaml does, the name and a hash of that definition: digits+1a2b3c4d

With --cache and SNAKEMAKE_OUTPUT_CACHE other checkouts share them, where their definition is all
there is to them (Snakemake allows no `benchmark` in a rule with `cache`).
"""


rule prepare:
    """Turn a data set into uint8 tensors with a manifest."""
    output:
        data="results/data/{data}/data.safetensors",
        manifest="results/data/{data}/manifest.json",
    log:
        "results/logs/prepare/{data}.log",
    wildcard_constraints:
        data=kept_by(DATA, same_everywhere=True),
    cache: CACHE
    conda:
        "../../envs/fedgloss.yaml"
    params:
        arguments=prepare_options,
        code=data_code,
        folder=subpath(output.data, parent=True),
    shell:
        "fedgloss prepare {params.arguments:q} --out {params.folder:q} 2> {log:q}"


use rule prepare as prepare_uncached with:
    wildcard_constraints:
        data=kept_by(DATA, same_everywhere=False),
    cache: False


rule partition:
    """Decide which client holds which image."""
    input:
        # What counts is its content, whose hash is in the manifest. (Snakemake compares contents of
        # small files only, and would go by the date of this one.)
        data=ancient(prepared("data.safetensors")),
        manifest=prepared("manifest.json"),
        split=ancient(split_files),
    output:
        partition="results/partitions/{cut}/alpha-{alpha}/partition.json",
        figure="results/partitions/{cut}/alpha-{alpha}/partition.png",
    log:
        "results/logs/partition/{cut}/alpha-{alpha}.log",
    wildcard_constraints:
        cut=kept_by(CUT_DATA, same_everywhere=True),
    cache: CACHE
    conda:
        "../../envs/fedgloss.yaml"
    params:
        arguments=partition_options,
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
        cut=kept_by(CUT_DATA, same_everywhere=False),
    cache: False
