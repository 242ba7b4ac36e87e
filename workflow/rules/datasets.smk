"""Data sets and partitions as the study defines them: inputs and parameters of rules.

REQUIRES  STUDY, DATA, CUTS, LAYOUT (study.smk), cells_of (cells.smk)
PROVIDES  functions of wildcards: prepared data; options, files and code of data.smk's jobs
"""

from pathlib import Path

from fedgloss import fingerprint
from fedgloss.data.partition import splits
from fedgloss.files import sha256
from fedgloss.study import inputs


def dataset_of(wildcards):
    """The name of the data set that a job's partition, or cell, is about."""
    if "cut" in wildcards.keys():
        return CUTS[wildcards.cut, wildcards.alpha]
    return cells_of(wildcards)[0].dataset


def prepared(name):
    """A rule's input: a file of the data set that its job is about."""

    def file(wildcards):
        return LAYOUT.data(STUDY.data_folder(dataset_of(wildcards))) / name

    return file


def prepare_options(wildcards):
    """The command line for a data set's definition."""
    return inputs.prepare_options(STUDY.datasets[DATA[wildcards.data]])


def data_code(wildcards):
    """The fingerprint of the code that prepares this data set."""
    return fingerprint.of_data(STUDY.datasets[DATA[wildcards.data]].source)


def partition_arguments(wildcards):
    """What a partition's definition says."""
    return STUDY.partition(CUTS[wildcards.cut, wildcards.alpha], wildcards.alpha)


def partition_options(wildcards):
    """The command line for it."""
    return inputs.partition_options(partition_arguments(wildcards))


def split_files(wildcards):
    """The files of an imported split."""
    arguments = partition_arguments(wildcards)
    if arguments["scheme"] != "file":
        return []
    return [str(file) for file in splits.files(Path(arguments["file"]), wildcards.alpha)]


def split_content(wildcards):
    """What is in them: a change is noticed, a touch is not."""
    return [sha256(file) for file in split_files(wildcards) if Path(file).is_file()]


def partition_code(wildcards):
    """The fingerprint of the code that makes this partition."""
    return fingerprint.of_partitions(partition_arguments(wildcards)["scheme"])
