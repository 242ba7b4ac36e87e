"""Sweeps: what a study's search has chosen. Its trials are cells as any others (train.smk).

REQUIRES  the runs of the study's trials
PROVIDES  LAYOUT.chosen: the chosen settings as YAML, for another study
"""

import json

from fedgloss import fingerprint


def chosen_files(wildcards):
    """A rule's input: what a study's sweep has chosen, if it is one."""
    return [LAYOUT.chosen(STUDY.name)] if STUDY.trials else []


rule choose:
    """Write the settings that the sweep has chosen."""
    input:
        [LAYOUT.run(STUDY.name, cell) / "manifest.json" for cell in STUDY.cells],
    output:
        LAYOUT.chosen("{study}"),
    log:
        LAYOUT.log("choose", "{study}"),
    benchmark:
        LAYOUT.benchmark("choose", "{study}")
    conda:
        "../../envs/fedgloss.yaml"
    params:
        study=study_argument,
        asked=lambda wildcards: json.dumps(config),
        code=fingerprint.of_sweeps(),
    shell:
        "fedgloss choose {params.study:q} 2> {log:q}"
