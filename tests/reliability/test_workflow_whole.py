"""The smallest study from nothing to its report, by one command, in every run of the tests."""

from workflow.project import SMOKE, files, planned


def test_the_smoke_study_is_built_and_then_nothing_is_left_to_do(built):
    results = built / "results"
    for name in ("report/smoke.html", "tables/smoke/accuracy.md", "figures/smoke/curves.png"):
        assert (results / name).stat().st_size > 0, name
    assert len(files(results / "runs", "manifest.json")) == 4
    assert planned(built, SMOKE) == []
