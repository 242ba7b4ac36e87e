"""Data sets and partitions as the study defines them: inputs and parameters of rules.

REQUIRES  STUDY, DATA, CUTS, LAYOUT (study.smk), cells_of (cells.smk); planned (messages.smk), by the
          time jobs start
PROVIDES  functions of wildcards: prepared data; options, files and code of data.smk's jobs;
          refuse_missing_splits, refuse_unusable_inputs, refuse_training_again, called before jobs start
"""

from pathlib import Path

from fedgloss import fingerprint
from fedgloss.errors import InputError
from fedgloss.data.partition import splits
from fedgloss.study import inputs, invocation
from fedgloss.study.costs import has_gpu
from fedgloss.study.messages import splits_to_come, trained_again, unusable


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
    """The files of an imported split.

    Where they are needed and not there, the build is refused in our words (refuse_missing_splits).
    """
    arguments = partition_arguments(wildcards)
    if arguments["scheme"] != "file":
        return []
    files = splits.files(Path(arguments["file"]), wildcards.alpha)
    is_made = LAYOUT.partition(wildcards.cut, wildcards.alpha).is_file()
    return [str(file) for file in files if is_made or file.is_file()]


def refuse_missing_splits():
    """Refuse a build that would import a split that is not there: no job is started."""
    jobs = map(planned, workflow.dag.needrun_jobs())
    for line in splits_to_come(STUDY, jobs):
        invocation.refuse(InputError(f"{STUDY.file}: {line}"))


def may_have_gpu():
    """Whether there is a GPU where jobs run, or may be one."""
    return has_gpu() or workflow.non_local_exec


def refuse_unusable_inputs():
    """Refuse a build whose training jobs would all fail for want of a GPU, or on a partition."""
    for line in unusable(STUDY, map(planned, workflow.dag.needrun_jobs()), may_have_gpu()):
        if not workflow.touch:
            invocation.refuse(InputError(line))


def refuse_training_again():
    """Refuse a build that would train finished runs again since it makes their images."""
    for line in trained_again(STUDY, map(planned, workflow.dag.needrun_jobs())):
        if not workflow.touch:  # which trains nothing
            invocation.refuse(InputError(line))


def split_content(wildcards):
    """What is in them: a change is noticed, a touch is not."""
    split = STUDY.splits.get((CUTS[wildcards.cut, wildcards.alpha], wildcards.alpha))
    return [*split.sha256] if split else []


def partition_code(wildcards):
    """The fingerprint of the code that makes this partition."""
    return fingerprint.of_partitions(partition_arguments(wildcards)["scheme"])
