"""Sharpness of trained cells: Hessian eigenvalues, loss surfaces, and lines between models.

REQUIRES  a cell's run, its data and its partition
PROVIDES  LAYOUT.hessian, the eigenvalues as JSON; LAYOUT.locals, those of the last round's local
          models; LAYOUT.view, a surface or a line as CSV, with what it is of as JSON beside it
"""

from fedgloss.study.layout import CELL, SEED


ruleorder: hessian_methods > hessian_seeds > hessian


rule hessian:
    """The largest Hessian eigenvalues of a cell, at the models that its study names."""
    input:
        manifests=run_files("manifest.json"),
        # A model changes with its run, and a run leaves a new manifest.
        averages=ancient(run_files("average.safetensors")),
        finals=ancient(run_files("final.safetensors")),
        data=ancient(prepared("data.safetensors")),
        partition=partition_of,
    output:
        LAYOUT.hessian("{study}", CELL),
    log:
        LAYOUT.log("hessian", f"{{study}}/{CELL}"),
    benchmark:
        LAYOUT.benchmark("hessian", f"{{study}}/{CELL}")
    conda:
        "../../envs/fedgloss.yaml"
    threads: 1
    resources:
        gpu=needs("hessian", "gpu"),
        runtime=needs("hessian", "minutes"),
        mem_mb=needs("hessian", "memory"),
    params:
        asked=asked(
            *("hessian", "choices", "count", "models", "method", "images", "trace", "density")
        ),
        code=analysis_code("hessian"),
        jobs=job_files("hessian"),
    shell:
        "fedgloss hessian {params.jobs:q} --threads {threads} 2> {log:q}"


use rule hessian as hessian_seeds with:
    output:
        expand(LAYOUT.hessian("{study}", f"{{condition}}/{SEED}"), seed=SEEDS, allow_missing=True),
    log:
        LAYOUT.log("hessian", "{study}/{condition}/seed-all"),
    benchmark:
        LAYOUT.benchmark("hessian", "{study}/{condition}/seed-all")
    wildcard_constraints:
        condition=packed("hessian", is_measured),


use rule hessian as hessian_methods with:
    output:
        expand(
            LAYOUT.hessian("{study}", f"{{setting}}/{{label}}/{SEED}"),
            label=METHODS,
            seed=SEEDS,
            allow_missing=True,
        ),
    log:
        LAYOUT.log("hessian", "{study}/{setting}/all"),
    benchmark:
        LAYOUT.benchmark("hessian", "{study}/{setting}/all")
    wildcard_constraints:
        setting=measured_together(),


rule locals:
    """The largest Hessian eigenvalue of the local models of a cell's last round."""
    input:
        manifest=run_files("manifest.json"),
        # A model changes with its run, and a run leaves a new manifest.
        locals=ancient(run_files("locals.safetensors")),
        data=ancient(prepared("data.safetensors")),
        partition=partition_of,
    output:
        LAYOUT.locals("{study}", CELL),
    log:
        LAYOUT.log("locals", f"{{study}}/{CELL}"),
    benchmark:
        LAYOUT.benchmark("locals", f"{{study}}/{CELL}")
    conda:
        "../../envs/fedgloss.yaml"
    threads: 1
    resources:
        gpu=needs("locals", "gpu"),
        runtime=needs("locals", "minutes"),
        mem_mb=needs("locals", "memory"),
    params:
        asked=asked("locals", "method", "images"),
        code=analysis_code("locals"),
        jobs=job_files("locals"),
    shell:
        "fedgloss locals {params.jobs:q} --threads {threads} 2> {log:q}"


rule landscape:
    """The loss surface around a model of a cell: averaged, or local of the last round."""
    input:
        manifest=viewed_files("landscape", "manifest.json"),
        # A model changes with its run, and a run leaves a new manifest.
        average=ancient(viewed_files("landscape", "average.safetensors")),
        local=ancient(viewed_files("landscape", "locals.safetensors")),
        data=ancient(prepared("data.safetensors")),
        partition=partition_of,
    output:
        surface=LAYOUT.view("{study}", CELL, "landscape", "{view}"),
        facts=LAYOUT.view("{study}", CELL, "landscape", "{view}").with_suffix(".json"),
    log:
        LAYOUT.log("landscape", f"{{study}}/{CELL}/{{view}}"),
    benchmark:
        LAYOUT.benchmark("landscape", f"{{study}}/{CELL}/{{view}}")
    priority: 1  # before eigenvalues: of the two, the longer job must not come last
    conda:
        "../../envs/fedgloss.yaml"
    threads: 1
    resources:
        gpu=needs("landscape", "gpu"),
        runtime=needs("landscape", "minutes"),
        mem_mb=needs("landscape", "memory"),
    params:
        asked=asked("landscape", "points", "images", "seed"),
        code=analysis_code("landscape"),
        jobs=job_files("landscape"),
    shell:
        "fedgloss landscape {params.jobs:q} --threads {threads} 2> {log:q}"


rule line:
    """The loss on the straight line from a model of a cell, averaged or kept, to another."""
    input:
        manifest=viewed_files("line", "manifest.json"),
        average=ancient(viewed_files("line", "average.safetensors")),
        final=ancient(viewed_files("line", "final.safetensors")),
        data=ancient(prepared("data.safetensors")),
        partition=partition_of,
    output:
        line=LAYOUT.view("{study}", CELL, "line", "{view}"),
        facts=LAYOUT.view("{study}", CELL, "line", "{view}").with_suffix(".json"),
    log:
        LAYOUT.log("line", f"{{study}}/{CELL}/{{view}}"),
    benchmark:
        LAYOUT.benchmark("line", f"{{study}}/{CELL}/{{view}}")
    conda:
        "../../envs/fedgloss.yaml"
    threads: 1
    resources:
        gpu=needs("line", "gpu"),
        runtime=needs("line", "minutes"),
        mem_mb=needs("line", "memory"),
    params:
        asked=asked("line", "points", "images", "seed"),
        code=analysis_code("landscape"),
        jobs=job_files("line"),
    shell:
        "fedgloss line {params.jobs:q} --threads {threads} 2> {log:q}"
