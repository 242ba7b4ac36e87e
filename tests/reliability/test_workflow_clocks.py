"""Clocks that jump, and copies that lose their times: nothing is made again that is there."""

import os
import random
import subprocess

import pytest

from reliability.snakes import numbers, strays
from workflow.project import SMOKE, build, copy_project, planned, snakemake

pytestmark = pytest.mark.slow

DECADE = 10 * 365 * 86400


def shift(folder, pattern, seconds):
    """Move the times of files into the future or the past."""
    found = [path for path in folder.rglob(pattern) if path.is_file()]
    assert found
    for path in found:
        moment = path.stat().st_mtime + (seconds() if callable(seconds) else seconds)
        os.utime(path, (moment, moment))


JUMPS = {
    "data in the future": ("data/**/*", DECADE),
    "partitions in the future": ("partitions/**/*", DECADE),
    "runs in the future": ("runs/**/*", DECADE),
    "runs in the past": ("runs/**/*", -DECADE),
    "tables in the past": ("tables/**/*", -DECADE),
}


def test_times_from_the_future_or_the_past_make_nothing_again(finished):
    """One part of the results after the other, then every file at random."""
    results, anywhere = finished / "results", random.Random(0)
    for pattern, seconds in JUMPS.values():
        shift(results, pattern, seconds)
    assert planned(finished, SMOKE) == []
    for _ in range(2):
        shift(results, "*", lambda: anywhere.uniform(-DECADE, DECADE))
        assert planned(finished, SMOKE) == []


def test_work_on_files_from_the_future_is_refused_by_name_until_their_times_are_mended(
    finished, built
):
    """Made by a clock that ran ahead; what follows from them is missing."""
    results = finished / "results"
    shift(results, "runs/**/*", DECADE)
    (results / "tables/smoke/accuracy.md").unlink()
    shown = snakemake(finished, SMOKE)
    assert shown.returncode != 0
    assert "clock skew" in shown.stdout + shown.stderr
    assert not [*(results / "tables").rglob("*.md")], "nothing that looks finished"
    shift(results, "runs/**/*", -DECADE)
    build(finished, SMOKE)
    assert numbers(finished) == numbers(built)
    assert planned(finished, SMOKE) == []


def copy_without_times(source, target):
    subprocess.run(["cp", "-r", source, target], check=True)


def test_results_copied_without_their_times_to_a_fresh_clone_are_kept(built, source, tmp_path):
    """With Snakemake's records beside them."""
    clone = copy_project(tmp_path / "clone", source)
    for folder in ("results", ".snakemake"):
        copy_without_times(built / folder, clone / folder)
    for path in clone.rglob("*"):
        if "results" not in path.parts and ".snakemake" not in path.parts:
            os.utime(path)
    assert planned(clone, SMOKE) == []


def test_results_alone_are_kept_after_a_touch(built, source, tmp_path):
    """Without Snakemake's records only times are left to it, and those a copy does not keep."""
    clone = copy_project(tmp_path / "clone", source)
    copy_without_times(built / "results", clone / "results")
    build(clone, SMOKE, "--touch")
    assert planned(clone, SMOKE) == []
    assert numbers(clone) == numbers(built)


def test_what_others_left_half_written_is_made_again_or_left_alone(finished, built):
    """Killed writers leave temporary names, never half a file under its own."""
    results = finished / "results"
    run = next((results / "runs").rglob("fedgloss/seed-1"))
    for name in ("metrics.csv", "final.safetensors", "manifest.json"):
        (run / f".{name}.4711.tmp").write_bytes(b"half")
    table = results / "tables" / "smoke"
    (table / ".accuracy.md.4711.tmp").write_bytes(b"half")
    assert planned(finished, SMOKE) == [], "nobody takes them for results"
    (run / "manifest.json").unlink()
    (table / "accuracy.md").unlink()
    build(finished, SMOKE)
    assert numbers(finished) == numbers(built)
    assert not strays(finished), "who writes the file removes them"
