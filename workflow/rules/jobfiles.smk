"""What jobs are told, in files below results/jobs: see fedgloss.study.jobfile.

REQUIRES  STUDY, STUDY_TEXT, LAYOUT (study.smk), cells_of (cells.smk), view_of (views.smk)
PROVIDES  the parameters job_files, study_argument and given_arguments; tell_jobs, called before jobs start
"""

from pathlib import Path

from fedgloss.files import write_text
from fedgloss.study.jobfile import file_for, job_of, to_json

# What jobs are told, by file: see study/jobfile.py.
TOLD = {}
STARTED = []
"""Has an entry once jobs are started: a sweep asks for more of them on the way."""


def tell(folder, content):
    """The file that tells a job this. It is there when the job starts; a dry run writes nothing."""
    file = file_for(folder, content)
    TOLD[file] = content
    # A job of a cluster reads the workflow again, for itself.
    if STARTED or not workflow.is_main_process:
        write_told()
    return str(file)


def write_told():
    """Write what jobs are told, where it is not there, and whole, from an earlier run."""
    for file, content in TOLD.items():
        if not file.is_file() or file.read_bytes() != content.encode():
            write_text(file, content)


def tell_jobs():
    """Write the files of all jobs that are about to be started, and remove their earlier ones.

    Those of other settings would pile up. Nobody reads them: Snakemake's lock keeps every other
    build from making the same cells meanwhile.
    """
    STARTED.append(True)
    folders = set()
    for job in workflow.dag.needrun_jobs():
        files = [job.params.get(name, []) for name in ("jobs", "study")]
        files = [[file] if isinstance(file, str) else file for file in files]
        folders |= {Path(file).parent for some in files for file in some}
    write_told()
    if workflow.execution_settings.lock:
        for file in [file for folder in folders for file in folder.glob("*.json")]:
            if file not in TOLD:
                file.unlink(missing_ok=True)


def job_files(kind):
    """A rule's parameter: the job file of each of its cells.

    It asks for the outputs, although it needs none: Snakemake then leaves it out when it looks for
    changed parameters. What decides the numbers is in parameters of its own.
    """

    def files(wildcards, output):
        view = view_of(kind, wildcards)
        return [
            tell(
                LAYOUT.jobs(kind, STUDY.name, cell),
                to_json(job_of(kind, STUDY, cell, LAYOUT, view)),
            )
            for cell in cells_of(wildcards)
        ]

    return files


def study_argument(wildcards, output):
    """A rule's parameter: the file that says what the study says, with what --config has changed.

    It asks for the outputs for the same reason.
    """
    return tell(LAYOUT.told(STUDY.name), STUDY_TEXT)


def given_arguments(wildcards):
    """A rule's parameter: the arguments with which the commands that it shows name the study."""
    return STUDY.arguments
