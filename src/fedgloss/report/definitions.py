"""What the numbers mean, in words, with the settings that the runs' own manifests name."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgloss.report import names, results
from fedgloss.report.results import Absence, Results
from fedgloss.study.views import Line, View

if TYPE_CHECKING:
    from fedgloss.study.study import Cell, Study

HESSIAN_DATA = {
    "paper": "all training images without augmentation (`data: paper`)",
    "official_code": "the test images as the authors' code normalises them (`data: official_code`)",
}

QUICKSTART = "--configfile=config/quickstart.yaml"
"""What Snakemake takes where nothing is said."""


def accuracy(manifests: Iterable[Mapping[str, Any]]) -> str:
    """The reported accuracy."""
    manifests = list(manifests)
    last, rounds = training_values(manifests, "last"), training_values(manifests, "rounds")
    return f"mean test accuracy of the evaluated rounds among the last {last} of {rounds}"


def accuracy_at_half(manifests: Iterable[Mapping[str, Any]]) -> str:
    """The accuracy at 50 % of the training."""
    manifests = list(manifests)
    rounds = [_at_half(manifest["settings"]["training"]) for manifest in manifests]
    if rounds and all(len(evaluated) == 1 for evaluated in rounds):
        listed = " or ".join(f"{t:,}" for t in sorted({t for (t,) in rounds}))
        return f"test accuracy of the evaluation in round {listed}"
    last = training_values(manifests, "last")
    return f"mean test accuracy of the evaluations in the last {last} rounds before half of them"


def _at_half(training: Mapping[str, Any]) -> list[int]:
    """The evaluated rounds among the last `last` ones before half of the training."""
    rounds, last, every = (training[key] for key in ("rounds", "last", "evaluate_every"))
    half = range(max(rounds // 2 - last, 0) + 1, rounds // 2 + 1)
    return [t for t in half if t % every == 0 or t > rounds - last]


def lambda1(found: Results, cells: Iterable["Cell"]) -> str:
    """The largest eigenvalue of the Hessian; see there."""
    cells = list(cells)
    measured = [h for h in map(found.hessian, cells) if h and h["lambda1"] is not None]
    unconverged = sum(not h.get("converged", True) for h in measured)
    unlike = results.measured_unlike(found, cells)
    return (
        f"largest eigenvalue of {hessian(found, cells)}"
        + by_method(measured)
        + (f"; not converged in {unconverged} of {len(measured)} runs" if unconverged else "")
        + (f"; {unlike}" if unlike else "")
    )


def hessian(found: Results, cells: Iterable["Cell"]) -> str:
    """Which Hessian, of which model, on which data: as the analysis files say."""
    cells = list(cells)
    last = training_values([m for m in map(found.manifest, cells) if m], "last")
    data = dict.fromkeys(h["data"] for h in map(found.hessian, cells) if h)
    measured = [h for h in map(found.hessian, cells) if h and h["lambda1"] is not None]
    models = dict.fromkeys(h.get("model", "average") for h in measured)
    average = f"the average of the last {last} rounds' global models"
    of = {"average": average, "final": "the global model after the last round"}
    at = " or ".join(of.get(name, name) for name in models or found.study.hessian.models[:1])
    over = " or ".join(
        of_images(measured) if name == "paper" else HESSIAN_DATA.get(name, name) for name in data
    )
    return f"the Hessian of the mean loss at {at}" + (f", over {over}" if over else "")


def trace(found: Results, cells: Iterable["Cell"]) -> str:
    """The sum of all eigenvalues, and how far off the estimates may be."""
    traces = [h["trace"] for h in map(found.hessian, cells) if h and h.get("trace")]
    products = " or ".join(f"{count:,}" for count in sorted({t["products"] for t in traces}))
    errors = [t["standard_error"] / abs(t["trace"]) for t in traces if t["trace"]]
    return (
        f"sum of all eigenvalues of the same Hessian, estimated from {products or 'some'} products"
        " with random vectors"
        + (
            f"; the standard error of an estimate is at most {100 * max(errors):.2g} % of it"
            if errors
            else ""
        )
    )


def of_images(measured: Iterable[Mapping[str, Any]]) -> str:
    """Which training images the Hessians of these results are of, and what their choice may do."""
    cut = [found for found in measured if found.get("samples", 0) < found.get("population", 0)]
    if not cut:
        return HESSIAN_DATA["paper"]
    sizes = {(found["samples"], found["population"]) for found in cut}
    of = " or ".join(f"{count:,} of {whole:,}" for count, whole in sorted(sizes))
    shares = [share for found in cut for share in _sampling_errors(found)]
    ends = [f"{100 * share:.2g}" for share in (min(shares), max(shares))] if shares else []
    error = f", sampling error {' to '.join(dict.fromkeys(ends))} % of λ₁" if ends else ""
    error += _bias(cut)
    return (
        f"{of} training images without augmentation (`data: paper`), a class-balanced subset{error}"
    )


def _bias(cut: Iterable[Mapping[str, Any]]) -> str:
    """How far above that over all images these eigenvalues may be, at most; "" if unknown."""
    gaps = [
        1 - found["elsewhere"]["curvature"] / found["lambda1"]
        for found in cut
        if found.get("lambda1", 0) > 0 and "elsewhere" in found
    ]
    if not gaps:
        return ""
    return (
        f"; over all images λ₁ is up to {100 * max(*gaps, 0):.2g} % lower (so much lower is the"
        " curvature of the same directions over as many other images)"
    )


def _sampling_errors(found: Mapping[str, Any]) -> Iterator[float]:
    """The relative standard errors of the largest eigenvalues in a result."""
    for row in [found, *(local["global"] for local in found.get("locals", []))]:
        if row.get("lambda1") and row.get("sampling_error") is not None:
            yield row["sampling_error"] / abs(row["lambda1"])


def by_method(measured: Iterable[Mapping[str, Any]]) -> str:
    """By what the eigenvalues were computed, where it is not Lanczos."""
    others = dict.fromkeys(found.get("method", "lanczos") for found in measured)
    named = [name for name in others if name != "lanczos"]
    return f" (`method: {', '.join(named)}`)" if named else ""


def images(facts: Iterable[Mapping[str, Any]]) -> str:
    """Over which images losses were computed, as a sentence; "" if none were."""
    counts = dict.fromkeys((f["images"], f["of"]) for f in facts if f["status"] == "completed")
    said = [
        f"all {of:,} training images"
        if some == of
        else f"{some:,} of the {of:,} training images, a seeded draw of as many of each class"
        for some, of in counts
    ]
    return f"Over {' or '.join(said)}, without augmentation." if said else ""


def not_drawn(found: Results, views: Iterable[tuple["Cell", View]]) -> str:
    """A sentence on the surfaces or lines that there are not; "" if there are all.

    A line is called by the method that it goes to: those between methods start from one.
    """
    whys = [
        (view.other if isinstance(view, Line) else cell, found.why_absent(cell, view))
        for cell, view in views
    ]
    return left_out(found.study, whys)


def left_out(study: "Study", shown: Iterable[tuple["Cell", Absence | None]]) -> str:
    """A sentence on cells that are not drawn, each with the reason; "" if there are none.

    shown: all cells, None for those that are drawn.
    """
    shown = list(shown)
    several = len({(cell.dataset, cell.model) for cell, _ in shown}) > 1
    heads = names.every_head(study) if several else {}
    absent = [
        f"{names.algorithm(study, cell.algorithm)} at"
        f" {heads[cell.column] if several else names.alpha(cell.alpha)} ({why})"
        for cell, why in shown
        if why
    ]
    return f" Left out: {names.listed([*dict.fromkeys(absent)])}." if absent else ""


def training_values(manifests: Iterable[Mapping[str, Any]], key: str) -> str:
    """The values that a training setting has in these runs, e.g. "100" or "100 or 20"."""
    values = sorted({m["settings"]["training"][key] for m in manifests})
    return " or ".join(f"{value:,}" for value in values) or f"`{key}`"


def snakemake(study: "Study", *targets: Path) -> str:
    """The command that makes targets again, or what is out of date if none."""
    config = "" if study.arguments == QUICKSTART else f" {study.arguments}"
    if not targets:
        return f"snakemake --cores all{config}"
    files = " ".join(map(str, targets))
    return f"snakemake --cores 1{config} --force {files}"
