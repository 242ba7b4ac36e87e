"""`snakemake --profile slurm` as it is written; these tests need no cluster."""

import re

import pytest

from fedgloss.study import resources
from fedgloss.study.study import load_study
from workflow.project import ROOT, build, copy_project

# Snakemake's own messages, a paragraph for each job.
LISTED = ("--dry-run", "--quiet=progress")
PROFILES = [ROOT / "profiles" / name / "config.yaml" for name in ("default", "slurm")]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with the link that makes the profile's name work."""
    folder = copy_project(tmp_path_factory.mktemp("profile") / "project")
    (folder / "slurm").symlink_to((ROOT / "slurm").readlink())
    return folder


def asked(text):
    """{(rule, wildcards' values): resources by name} for each job of a dry run."""
    jobs = {}
    for block in re.split(r"^\[.*\]$", text, flags=re.M):
        rule = re.search(r"^(?:local)?rule (\w+):$", block, flags=re.M)
        values = re.search(r"^    wildcards: (.*)$", block, flags=re.M)
        resources = re.search(r"^    resources: (.*)$", block, flags=re.M)
        if rule and values and resources:
            cell = tuple(part.split("=", 1)[1] for part in values[1].split(", "))
            jobs[rule[1], *cell] = dict(part.split("=", 1) for part in resources[1].split(", "))
    return jobs


def test_the_profile_means_the_paper_and_jobs_ask_for_what_the_table_says(project):
    jobs = asked(build(project, "--profile=slurm", *LISTED))
    study = load_study(ROOT / "config" / "paper.yaml")
    trained = [job for job in jobs if job[0] == "train"]
    assert len(trained) == len(study.cells)
    for cell in study.cells:
        need = resources.training(study, cell)
        given = jobs[
            "train", "paper", cell.dataset, cell.alpha, cell.model, cell.algorithm, str(cell.seed)
        ]
        assert int(given["runtime"]) == need.minutes(1)
        assert int(given["mem_mb"]) == need.mem_mb
        assert int(given["gpu"]) == need.gpu == 1
    first = next(job for job in jobs if job[0] == "hessian_seeds")
    cell = study.cell(f"{first[2]}/seed-0")
    assert int(jobs[first]["runtime"]) == resources.hessian(study, cell).minutes(1)
    first = next(job for job in jobs if job[0] == "landscape")
    cell = study.cell("{}/alpha-{}/{}/{}/seed-0".format(*first[2:6]))
    assert int(jobs[first]["runtime"]) == resources.landscape(study, cell).minutes(1)


def test_the_command_line_names_another_study(project):
    arguments = ["--profile=slurm", "--configfile=config/quickstart.yaml", *LISTED]
    jobs = asked(build(project, *arguments))
    trained = {job: given for job, given in jobs.items() if job[0] == "train_seeds"}
    assert {job[1] for job in trained} == {"quickstart"}
    assert {given["gpu"] for given in trained.values()} == {"0"}
    sharp = [rule for rule, *_ in jobs if rule.startswith("hessian")]
    assert sharp == ["hessian_seeds"] * 14, "a cluster has room for more than a job a setting"


@pytest.mark.parametrize("file", PROFILES, ids=lambda file: file.parent.name)
def test_every_line_of_a_profile_has_its_comment(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    settings = [i for i, line in enumerate(lines) if line and not line.lstrip().startswith("#")]
    assert settings
    for i in settings:
        assert lines[i - 1].lstrip().startswith("#"), f"{file}: {lines[i]}"
