"""Sharpness of trained cells: Hessian eigenvalues and loss surfaces.

REQUIRES  a cell's run folder, its data and its partition
PROVIDES  results/analysis/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/{hessian.json,landscape.csv}
"""


rule hessian:
    """The largest eigenvalues of the Hessian at a cell's averaged model."""
    input:
        manifest="results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/manifest.json",
        average="results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/average.safetensors",
        final="results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/final.safetensors",
        data="results/data/{dataset}/data.safetensors",
        partition="results/partitions/{dataset}/alpha-{alpha}/partition.json",
    output:
        hessian="results/analysis/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/hessian.json",
    log:
        "results/logs/hessian/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}.log",
    benchmark:
        "results/benchmarks/hessian/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}.jsonl"
    conda:
        "../../envs/fedgloss.yaml"
    threads: 1
    params:
        choice=STUDY.config.get("hessian", {}).get("data", "paper"),
        eigenvalues=STUDY.config.get("hessian", {}).get("count", 5),
        code=lambda wildcards: fingerprint.of_analysis("hessian", wildcards.model),
        run=subpath(input.manifest, parent=True),
        data=subpath(input.data, parent=True),
    shell:
        "fedgloss hessian"
        " --run {params.run:q}"
        " --data {params.data:q}"
        " --partition {input.partition:q}"
        " --out {output.hessian:q}"
        " --choice {params.choice:q}"
        " --count {params.eigenvalues}"
        " --threads {threads}"
        " 2> {log:q}"


rule landscape:
    """The loss surface around a cell's averaged model."""
    input:
        manifest="results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/manifest.json",
        average="results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/average.safetensors",
        data="results/data/{dataset}/data.safetensors",
        partition="results/partitions/{dataset}/alpha-{alpha}/partition.json",
    output:
        landscape="results/analysis/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/landscape.csv",
    log:
        "results/logs/landscape/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}.log",
    benchmark:
        "results/benchmarks/landscape/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}.jsonl"
    conda:
        "../../envs/fedgloss.yaml"
    threads: 1
    params:
        points=STUDY.config.get("landscape", {}).get("points", 21),
        extent=STUDY.config.get("landscape", {}).get("extent", 1.0),
        code=lambda wildcards: fingerprint.of_analysis("landscape", wildcards.model),
        run=subpath(input.manifest, parent=True),
        data=subpath(input.data, parent=True),
    shell:
        "fedgloss landscape"
        " --run {params.run:q}"
        " --data {params.data:q}"
        " --partition {input.partition:q}"
        " --out {output.landscape:q}"
        " --points {params.points}"
        " --extent {params.extent}"
        " --threads {threads}"
        " 2> {log:q}"
