"""Sharpness of trained cells: Hessian eigenvalues and loss surfaces.

REQUIRES  a cell's run folder, its data and its partition
PROVIDES  results/analysis/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}/{hessian.json,landscape.csv}
"""

RUN = "results/runs/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}"
ANALYSIS = "results/analysis/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}"


rule hessian:
    """The largest Hessian eigenvalues at the averaged models of a method, all seeds in one job."""
    input:
        manifests=expand(f"{RUN}/manifest.json", seed=SEEDS, allow_missing=True),
        # A model changes with its run, and a run leaves a new manifest.
        averages=ancient(expand(f"{RUN}/average.safetensors", seed=SEEDS, allow_missing=True)),
        finals=ancient(expand(f"{RUN}/final.safetensors", seed=SEEDS, allow_missing=True)),
        data=ancient(prepared("data.safetensors")),
        partition=partition_of,
    output:
        expand(f"{ANALYSIS}/hessian.json", seed=SEEDS, allow_missing=True),
    log:
        "results/logs/hessian/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}.log",
    benchmark:
        "results/benchmarks/hessian/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}.jsonl"
    conda:
        "../../envs/fedgloss.yaml"
    threads: 1
    resources:
        gpu=needs("hessian", "gpu"),
        runtime=needs("hessian", "minutes"),
        mem_mb=needs("hessian", "memory"),
    params:
        choice=STUDY.config.get("hessian", {}).get("data", "paper"),
        eigenvalues=STUDY.config.get("hessian", {}).get("count", 5),
        models=STUDY.config.get("hessian", {}).get("models", ["average", "final"]),
        code=analysis_code("hessian"),
        runs=lambda wildcards, input: [str(Path(file).parent) for file in input.manifests],
        data=subpath(input.data, parent=True),
    shell:
        "fedgloss hessian"
        " --run {params.runs:q}"
        " --data {params.data:q}"
        " --partition {input.partition:q}"
        " --out {output:q}"
        " --models {params.models:q}"
        " --choice {params.choice:q}"
        " --count {params.eigenvalues:q}"
        " --threads {threads}"
        " 2> {log:q}"


rule landscape:
    """The loss surface around a cell's averaged model."""
    input:
        manifest=f"{RUN}/manifest.json",
        # A model changes with its run, and a run leaves a new manifest.
        average=ancient(f"{RUN}/average.safetensors"),
        data=ancient(prepared("data.safetensors")),
        partition=partition_of,
    output:
        landscape=f"{ANALYSIS}/landscape.csv",
    log:
        "results/logs/landscape/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}.log",
    benchmark:
        "results/benchmarks/landscape/{study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}.jsonl"
    conda:
        "../../envs/fedgloss.yaml"
    threads: 1
    resources:
        gpu=needs("landscape", "gpu"),
        runtime=needs("landscape", "minutes"),
        mem_mb=needs("landscape", "memory"),
    params:
        points=STUDY.config.get("landscape", {}).get("points", 21),
        extent=STUDY.config.get("landscape", {}).get("extent", 1.0),
        code=analysis_code("landscape"),
        run=subpath(input.manifest, parent=True),
        data=subpath(input.data, parent=True),
    shell:
        "fedgloss landscape"
        " --run {params.run:q}"
        " --data {params.data:q}"
        " --partition {input.partition:q}"
        " --out {output.landscape:q}"
        " --points {params.points:q}"
        " --extent {params.extent:q}"
        " --threads {threads}"
        " 2> {log:q}"
