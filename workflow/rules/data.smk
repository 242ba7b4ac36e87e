"""Data sets and partitions: shared by all studies and seeds.

REQUIRES  the originals where a data set has any (src/fedgloss/study/constants/methods.yaml, `datasets`)
PROVIDES  prepared data sets, LAYOUT.data: data.safetensors, manifest.json
          who holds which image, LAYOUT.partition: partition.json, partition.png
          {data} and {cut} are the data set's name, or, where a study defines it otherwise than
          src/fedgloss/study/constants/methods.yaml does, the name and a hash of that definition: digits+1a2b3c4d
"""


rule prepare:
    """Turn a data set into uint8 tensors with a manifest."""
    output:
        # A preparation that fails leaves an earlier one as it was, and an imported manifest.
        data=update(LAYOUT.data("{data}") / "data.safetensors"),
        manifest=update(LAYOUT.data("{data}") / "manifest.json"),
    log:
        LAYOUT.log("prepare", "{data}"),
    benchmark:
        LAYOUT.benchmark("prepare", "{data}")
    conda:
        "../../envs/fedgloss.yaml"
    params:
        arguments=prepare_options,
        code=data_code,
        folder=subpath(output.data, parent=True),
    shell:
        "fedgloss prepare {params.arguments:q} --out {params.folder:q} 2> {log:q}"


rule partition:
    """Decide which client holds which image."""
    input:
        # What counts is its content, whose hash is in the manifest. (Snakemake compares contents of
        # small files only, and would go by the date of this one.)
        data=ancient(prepared("data.safetensors")),
        manifest=prepared("manifest.json"),
        split=ancient(split_files),
    output:
        partition=LAYOUT.partition("{cut}", "{alpha}"),
        figure=LAYOUT.partition("{cut}", "{alpha}").with_suffix(".png"),
    log:
        LAYOUT.log("partition", "{cut}/alpha-{alpha}"),
    benchmark:
        LAYOUT.benchmark("partition", "{cut}/alpha-{alpha}")
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
