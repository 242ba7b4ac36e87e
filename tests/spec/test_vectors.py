"""Every case of the float64 test vectors, through the public library: iterates and final states."""

import json

import pytest
import torch

from problem import Problem, load_vectors

TOLERANCE = 1e-10  # relative, in float64

METHODS = {
    "FedAvg": "fedavg",
    "FedProx": "fedprox",
    "FedSAM": "fedsam",
    "FedDyn": "feddyn",
    "FedDyn+SAM": "feddyn-sam",
    "SCAFFOLD": "scaffold",
    "FedGamma": "fedgamma",
    "FedSpeed": "fedspeed",
    "FedSMOO": "fedsmoo",
    "FedGloSS_SAM": "fedgloss",
    "FedGloSS_SGD": "fedgloss-sgd",
    "NaiveFedGloSS_SAM": "naivefedgloss",
    "Centralized_SGD": "centralized-sgd",
    "Centralized_SAM": "centralized-sam",
    "Centralized_SAM_prev": "centralized-sam-previous",
}
# The vectors' own reading of warm-up with client SGD: SAM on the clients at a radius that falls
# from rho0 to 0, in the `paper` case as well.
SGD_WITH_WARM_UP = {
    "paper": {
        "sigma_scaling": "paper",
        "rho_schedule": "paper_ramp",
        "client": "official_code",
    },
    "official_code": "official_code",
}


def cases():
    vectors = load_vectors()["vectors"]
    return [(s, a, v) for s in vectors for a in vectors[s] for v in vectors[s][a]]


def options_of(vectors, case, variant):
    """The method, its hyperparameters and variants, as a case of the file names them."""
    base, warm_up = case.removesuffix("_Ts2"), case.endswith("_Ts2")
    given = vectors["problem"]
    known = {
        "fedprox": {"mu": given["mu"]},
        "feddyn": {"alpha": 1 / given["beta"]},
        "feddyn-sam": {"alpha": 1 / given["beta"], "rho_l": given["rho_l"]},
        "fedsam": {"rho_l": given["rho_l"]},
        "fedgamma": {"rho_l": given["rho_l"]},
        "fedspeed": {"rho": given["rho"], "lambda": given["beta"]},
        "fedsmoo": {"rho": given["rho"], "beta": given["beta"]},
        "fedgloss": {"rho": given["rho"], "rho_l": given["rho_l"], "beta": given["beta"]},
        "fedgloss-sgd": {"rho": given["rho"], "beta": given["beta"]},
        "naivefedgloss": {"rho": given["rho"], "rho_l": given["rho_l"], "beta": given["beta"]},
        "centralized-sam": {"rho": given["rho"]},
        "centralized-sam-previous": {"rho": given["rho"]},
    }
    method = METHODS[base]
    hyperparameters = dict(known.get(method, {}))
    if variant == "original_mix0.5":
        variant, hyperparameters["a"] = "original", given["alpha_speed"]
    if warm_up:
        hyperparameters |= {"T_s": given["T_s"], "rho0": given["rho0"]}
        if method == "fedgloss":
            # These cases were made at twice the client radius: solving their iterates for the radii
            # of each round gives rho_l = 0.1 exactly, and the published schedules.
            hyperparameters["rho_l"] = 2 * given["rho_l"]
        else:
            variant = SGD_WITH_WARM_UP[variant]
    return method, hyperparameters, variant


def relative(ours, theirs):
    """The largest relative error over the rows (rounds, or clients)."""
    ours, theirs = (
        torch.atleast_2d(ours),
        torch.atleast_2d(torch.tensor(theirs, dtype=torch.float64)),
    )
    return ((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).max().item()


@pytest.mark.parametrize(("scenario", "case", "variant"), cases())
def test_iterates_and_states_equal_the_vectors(scenario, case, variant):
    vectors = load_vectors()
    given, setting = vectors["problem"], vectors["scenarios"][scenario]
    expected = vectors["vectors"][scenario][case][variant]
    problem = Problem(given["A"], given["a"], given["N"], given["w0"])
    method, hyperparameters, variants = options_of(vectors, case, variant)
    result = problem.train(
        method,
        setting["m"],
        setting["schedule"],
        lr=given["lr"],
        local_steps=given["local_steps"],
        weight_decay=setting["wd"],
        hyperparameters=hyperparameters,
        variants=variants,
    )
    errors = {"w": relative(result.history, expected["w"])}
    errors |= {name: relative(result.state[name], v) for name, v in expected["state"].items()}
    assert max(errors.values()) < TOLERANCE, errors


def test_all_cases_are_here():
    assert len(cases()) == 2 * 44


def test_the_file_holds_the_vectors_as_they_were_handed_over(shared):
    handed_over = (shared / "reference" / "vectors.json").read_text(encoding="utf-8")
    assert load_vectors() == json.loads(handed_over)
