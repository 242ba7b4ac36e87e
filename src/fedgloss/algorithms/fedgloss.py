"""FedGloSS: sharpness-aware minimisation on the server, ADMM between server and clients.

Caldarola et al. 2025, Algorithm 1. The server perturbs the model along the pseudo-gradient of the
previous round, so flatness is sought globally at FedAvg's communication. NaiveFedGloSS (section
5.1.1) pays a second exchange for the pseudo-gradient of the current round.
"""

from typing import Literal

from fedgloss.algorithms.core import Algorithm, Named, Probe, mean, named, sam, total, unit

Scaling = Literal["official_code", "paper"]
ServerSchedule = Literal["official_code", "paper_ramp", "constant"]
ClientSchedule = Literal["ramp", "constant"]
Deviation = Literal["perturbed", "alg1_first_png"]
Consistency = Literal["admm", "none"]

PRINTED = {"sigma_scaling": "paper", "rho_schedule": "paper_ramp"}
RELEASED = {"sigma_scaling": "official_code", "rho_schedule": "official_code"}
WITHOUT_ADMM = {"consistency": "none"}


@named(
    paper={**PRINTED},
    official={**RELEASED},
    official_code={**RELEASED},
    alg1_first_png={**PRINTED, "deviation": "alg1_first_png"},
    without_admm={**WITHOUT_ADMM},
)
def fedgloss(
    *,
    sigma_scaling: Scaling = "official_code",
    rho_schedule: ServerSchedule = "official_code",
    rho_l_schedule: ClientSchedule = "ramp",
    deviation: Deviation = "perturbed",
    consistency: Consistency = "admm",
) -> Algorithm:
    """FedGloSS with SAM on the clients.

    `sigma_scaling` (D1): the server's dual step is 1 / (beta m) (`paper`, l. 22), or that divided
    by the n participants (`official_code`). `rho_schedule` (D2): how rho warms up over T_s rounds;
    `official_code` holds rho_l + (rho - rho0) / T_s in rounds 1 .. T_s, as the released code comes
    to do. `rho_l_schedule` (D3): linear from rho0, or none. `deviation` (D6): l. 22 measures from
    the perturbed model, or, in the first version of Algorithm 1, from w. `consistency`: ADMM ties
    the clients to the server, or nothing does (`none`, for Fig. 5): no dual variables and no pull
    to the model received, so the clients are stateless and `beta` has no effect.
    """
    return server_sharpness(
        "fedgloss",
        lambda grad, W, h: sam(grad, W, h.rho_l),
        sigma_scaling,
        warm_up(rho_schedule, rho_l_schedule),
        deviation,
        consistency,
        hyperparameters={"rho_l": None},
        gradients=2,
    )


@named(
    paper={**PRINTED},
    official={**RELEASED, "client": "official_code"},
    official_code={**RELEASED, "client": "official_code"},
    alg1_first_png={**PRINTED, "deviation": "alg1_first_png"},
    without_admm={**WITHOUT_ADMM},
)
def fedgloss_sgd(
    *,
    sigma_scaling: Scaling = "official_code",
    rho_schedule: ServerSchedule = "paper_ramp",
    client: Literal["sgd", "official_code"] = "sgd",
    deviation: Deviation = "perturbed",
    consistency: Consistency = "admm",
) -> Algorithm:
    """FedGloSS with SGD on the clients; `sigma_scaling`, `deviation` and `consistency` as for
    `fedgloss`.

    `client` (D13): a plain gradient, or, as the released code runs it, SAM with a radius that
    falls linearly from rho0 to 0 over T_s rounds. `rho_schedule` (D2) `official_code` is that of
    `fedgloss` at rho_l = 0: practically no server perturbation for T_s rounds.
    """
    through_sam = client == "official_code"
    return server_sharpness(
        "fedgloss-sgd",
        (lambda grad, W, h: sam(grad, W, h.rho_l)) if through_sam else lambda grad, W, h: grad(W),
        sigma_scaling,
        warm_up(rho_schedule, "ramp" if through_sam else "constant"),
        deviation,
        consistency,
        gradients=2 if through_sam else 1,
    )


@named(
    paper={**PRINTED},
    official={**RELEASED},
    paper_no_dual_in_step1={**PRINTED},
    dual_in_step1={**PRINTED, "first_exchange": "dual"},
    official_sigma_no_dual_in_step1={**RELEASED},
)
def naivefedgloss(
    *,
    client: Literal["sam", "sgd"] = "sam",
    sigma_scaling: Scaling = "official_code",
    rho_schedule: Literal["as_fedgloss", ServerSchedule] = "as_fedgloss",
    rho_l_schedule: ClientSchedule = "ramp",
    first_exchange: Literal["stateless", "dual"] = "stateless",
) -> Algorithm:
    """NaiveFedGloSS: the perturbation follows this round's own pseudo-gradient (section 5.1.1).

    Both exchanges use the same participants, in fresh mini-batch order. `first_exchange`: it uses
    the clients' dual variables without changing them (`stateless`), or updates them (`dual`); the
    paper does not say. The other variants are those of the FedGloSS run it is compared with, and so
    are their defaults: `rho_schedule` `as_fedgloss` is that of `fedgloss` with client SAM
    (`official_code`), and that of `fedgloss_sgd` with client SGD (`paper_ramp`).
    """
    use_sam = client == "sam"
    if rho_schedule == "as_fedgloss":
        rho_schedule = "official_code" if use_sam else "paper_ramp"
    return server_sharpness(
        "naivefedgloss",
        (lambda grad, W, h: sam(grad, W, h.rho_l)) if use_sam else lambda grad, W, h: grad(W),
        sigma_scaling,
        warm_up(rho_schedule, rho_l_schedule),
        hyperparameters={"rho_l": None} if use_sam else {},
        gradients=4 if use_sam else 2,
        probe=Probe("delta", clients_keep=first_exchange == "dual"),  # section 5.1.1, step 1
    )


def server_sharpness(
    name,
    gradient,
    sigma_scaling,
    schedule,
    deviation="perturbed",
    consistency="admm",
    hyperparameters={},
    **facts,
) -> Algorithm:
    """Algorithm 1 around a local gradient; line numbers are those of its second version."""
    admm = consistency == "admm"

    def broadcast(w, s, h):
        return Named(w=w + h.rho * unit(s.delta))  # l. 4-5; delta = 0 in round 0

    def direction(grad, W, down, c, h):
        if not admm:
            return gradient(grad, W, h), c
        return gradient(grad, W, h) - c.sigma_k + (W - down.w) / h.beta, c  # l. 12-15

    def finish(W, down, c, h):
        if not admm:
            return c, Named(w=W)
        return c.replace(sigma_k=c.sigma_k - (W - down.w) / h.beta), Named(w=W)  # l. 19

    def aggregate(w, down, up, s, h):
        delta = mean(down.w - up.w, h.p)  # l. 23: the perturbed model's pseudo-gradient
        if not admm:
            return w - h.eta_s * delta, s.replace(delta=delta)
        moved_from = down.w if deviation == "perturbed" else w
        scale = h.m * h.n if sigma_scaling == "official_code" else h.m
        sigma = s.sigma - total(up.w - moved_from) / (h.beta * scale)  # l. 22
        w = w - h.eta_s * delta - h.beta * sigma  # l. 24
        return w, s.replace(sigma=sigma, delta=delta)

    return Algorithm(
        name,
        direction,
        aggregate,
        broadcast,
        finish,
        global_state=("sigma", "delta") if admm else ("delta",),
        client_state=("sigma_k",) if admm else (),
        hyperparameters={
            "rho": None,
            "beta": None,
            "T_s": 0,
            "rho0": 0.0,
            "eta_s": 1.0,
            **hyperparameters,
        },
        reciprocals={"beta": "alpha"},
        schedule=schedule,
        radius="rho",
        **facts,
    )


def warm_up(server: ServerSchedule, client: ClientSchedule):
    """The radii of round t (0 first): rho on the server, rho_l on the clients (D2, D3)."""

    def schedule(hyper: dict[str, float], t: int) -> dict[str, float]:
        T_s, rho0, rho, rho_l = hyper["T_s"], hyper["rho0"], hyper["rho"], hyper.get("rho_l", 0.0)
        if T_s <= 1 or t > T_s:
            return {**hyper, "rho_l": rho_l}
        radii = {"rho": rho, "rho_l": rho_l}
        if server == "paper_ramp":
            radii["rho"] = rho0 + (rho - rho0) * t / T_s
        elif server == "official_code":
            radii["rho"] = rho0 if t == 0 else rho_l + (rho - rho0) / T_s
        if client == "ramp":
            radii["rho_l"] = rho0 + (rho_l - rho0) * t / T_s
        return {**hyper, **radii}

    return schedule
