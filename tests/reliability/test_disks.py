"""Real disks, full or read-only: one line, a non-zero exit, and nothing lost."""

import os
import shutil
import signal
import subprocess
from base64 import urlsafe_b64encode
from functools import partial
from pathlib import Path

import pytest

from reliability import faults
from reliability.trainer import FINISHED, Cell, wait_until_stopped
from unit.cells import OUTPUTS, cell_settings
from workflow.project import SMOKE, build, copy_project, snakemake


def mount(folder: Path, options: str) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True
    )


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, whose `remount` changes its options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount(folder, "size=64m")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs root, and the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """A cell, its results when nothing happens to it, and the size of a checkpoint."""
    folder = tmp_path_factory.mktemp("whole")
    cell = Cell(folder / "whole", inputs, cell_settings("scaffold"), every=3)
    assert cell.run() == 0, cell.said()
    killed = cell.but(folder / "killed")
    killed.run(partial(faults.kill_after_round, 4))
    (checkpoint,) = killed.checkpoints.iterdir()
    return cell, cell.results(), checkpoint.stat().st_size


def one_line(cell, *words):
    """What the process said last must be the one line about it."""
    (line,) = [text for text in cell.said() if not text.startswith("goes on after round")]
    assert line.startswith("fedgloss: error: ")
    for word in words:
        assert word in line
    return line


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_disk_that_fills_up_while_a_checkpoint_is_written(kept, whole, disk):
    """With room for so many checkpoints and a half."""
    cell, expected, size = whole
    full = cell.but(disk)
    remount(disk, f"size={int((kept + 0.5) * size) // 4096 * 4096}")
    assert full.run() == 2
    path = full.checkpoints / f"round-{3 * kept + 3:07d}.safetensors"
    one_line(full, str(path), "No space left on device")
    assert not full.out.exists()
    assert len([*full.checkpoints.iterdir()]) == kept, "whole checkpoints, and no half one"
    assert full.run() == 2, "still full"
    remount(disk, "size=64m")
    assert full.run() == 0
    assert full.said() == ([f"goes on after round {3 * kept} of 12"] if kept else [])
    assert full.results() == expected
    assert full.everything() == FINISHED


def test_a_disk_that_fills_up_while_the_results_are_written(whole, disk, tmp_path):
    """At each of the files in turn: no manifest without them, the checkpoints stay."""
    cell, expected, _ = whole
    full = cell.but(tmp_path / "cell")
    full.folder.mkdir()
    (full.folder / "out").symlink_to(disk)
    sizes = [(cell.out / name).stat().st_size for name in OUTPUTS]
    assert full.run(partial(faults.kill_after_round, 12)) == -9
    for i, name in enumerate([*OUTPUTS, "manifest.json"]):
        whole_pages = sum(-(-size // 4096) for size in sizes[:i])
        half = 0 if name in ("metrics.csv", "manifest.json") else sizes[i] // 8192
        remount(disk, f"size={(whole_pages + half) * 4096 or 4096}")
        if not whole_pages + half:
            (disk / "other").write_bytes(bytes(4096))
        assert full.run() == 2
        one_line(full, str(full.out / name), "No space left on device")
        assert {path.name for path in disk.iterdir()} - {"other"} == {*OUTPUTS[:i]}
        assert [*full.checkpoints.iterdir()], "so that nothing is trained again"
        remount(disk, "size=64m")
        for path in disk.iterdir():
            path.unlink()
    assert full.run() == 0
    assert full.said() == ["goes on after round 9 of 12"]
    assert full.results() == expected


def test_no_room_for_another_file_name(whole, disk):
    """A file system without free inodes says the same."""
    cell, expected, _ = whole
    full = cell.but(disk)
    remount(disk, "nr_inodes=4")
    assert full.run() == 2
    one_line(full, str(disk), "No space left on device")
    remount(disk, "nr_inodes=1000")
    assert full.run() == 0
    assert full.results() == expected


@pytest.mark.parametrize("which", ["out", "checkpoints"])
def test_a_read_only_disk_is_refused_before_training(which, whole, disk, tmp_path):
    cell, expected, _ = whole
    refused, rounds = cell.but(tmp_path / "cell"), tmp_path / "rounds"
    refused.folder.mkdir()
    (refused.folder / which).symlink_to(disk)
    remount(disk, "ro")
    assert refused.run(partial(faults.log_rounds, rounds)) == 2
    one_line(refused, which, "not writable")
    assert not rounds.read_text()
    remount(disk, "rw")
    assert refused.run() == 0
    assert refused.results() == expected


def test_a_disk_that_becomes_read_only_while_it_trains(whole, disk, tmp_path):
    """As Linux does to a disk with errors."""
    cell, expected, _ = whole
    failing = cell.but(tmp_path / "cell")
    failing.folder.mkdir()
    (failing.folder / "checkpoints").symlink_to(disk)
    process = failing.start(partial(faults.stop_after_round, 7))
    wait_until_stopped(process)
    remount(disk, "ro")
    os.kill(process.pid, signal.SIGCONT)
    process.join()
    assert process.exitcode == 2
    one_line(failing, "round-0000009.safetensors", "Read-only file system")
    remount(disk, "rw")
    assert failing.run() == 0
    assert failing.said() == ["goes on after round 6 of 12"]
    assert failing.results() == expected
    assert not os.listdir(disk)


def test_read_only_results_can_be_looked_at_and_a_build_is_refused_in_one_line(disk, tmp_path):
    project = copy_project(tmp_path / "project")
    (project / "results").symlink_to(disk)
    remount(disk, "ro")
    assert "4 cells to train" in build(project, "--dry-run", SMOKE)
    assert refused_by_the_workflow(project) == "fedgloss: error: results: is not writable"
    assert not os.listdir(disk)


def refused_by_the_workflow(project):
    """The one line of ours with which a build ends."""
    shown = snakemake(project, SMOKE)
    (line,) = [line for line in shown.stderr.splitlines() if line.startswith("fedgloss: error")]
    assert shown.returncode == 2 and "Traceback" not in shown.stderr, shown.stderr
    return line


def test_a_disk_that_is_full_at_the_start_is_one_line_of_the_workflow(disk, tmp_path):
    project = copy_project(tmp_path / "project")
    (project / "results").symlink_to(disk)
    (disk / "full").write_bytes(b"")
    remount(disk, "size=4k,nr_inodes=2")
    line = refused_by_the_workflow(project)
    assert "results/studies" in line and "No space left on device" in line


def test_a_disk_with_no_room_for_notes_of_finished_runs_is_one_line(disk, finished):
    """Snakemake's note of a run is set right before anything is built."""
    notes = finished / ".snakemake" / "metadata"
    shutil.copytree(notes, disk, dirs_exist_ok=True)
    shutil.rmtree(notes)
    notes.symlink_to(disk)
    run = "results/runs/smoke/digits/alpha-0/smallcnn/fedavg/seed-0/metrics.csv"
    note = disk / urlsafe_b64encode(run.encode()).decode()
    note.write_text(note.read_text().replace('"params": [', '"params": ["another", '))
    before = note.read_text()
    assert "another" in before
    remount(disk, f"nr_inodes={len(os.listdir(disk)) + 1}")
    line = refused_by_the_workflow(finished)
    assert note.name in line and "No space left on device" in line
    assert note.read_text() == before
