"""What Snakemake notes of the files that it makes: parameters, inputs, and that a job has begun.

REQUIRES  LAYOUT, STUDY (study.smk)
PROVIDES  noted, forget; is_unnoted: runs of which it knows nothing, so that no change is seen
"""

from base64 import urlsafe_b64encode

from fedgloss.study.layout import MANIFEST, RUN_FILES

LONGEST = 254
"""Characters of a file's name; Snakemake puts what is longer into folders."""


def noted(kind, file):
    """Where Snakemake notes something of a file; kind: incomplete or metadata."""
    name = urlsafe_b64encode(str(file).encode()).decode()
    *folders, last = [name[i : i + LONGEST] for i in range(0, len(name), LONGEST)]
    return Path(".snakemake", kind, *(f"@{folder}" for folder in folders), last)


def forget(files):
    """Forget what is noted of files, as by --cleanup-metadata: like imported ones they are there."""
    for kind in ("metadata", "incomplete"):  # once unmarked, nothing more is forgotten
        for file in files:
            noted(kind, file).unlink(missing_ok=True)


def files_of_run(cell):
    """The files that a cell's training leaves, its manifest first."""
    return [LAYOUT.run(STUDY.name, cell) / name for name in (MANIFEST, *RUN_FILES)]


def is_unnoted(cell):
    """Whether a cell's run is there and was not made by Snakemake, or by one that was killed.

    A job of several cells whose files are not all noted is deaf to every change.
    """
    files = files_of_run(cell)
    return files[0].is_file() and not all(noted("metadata", file).is_file() for file in files)
