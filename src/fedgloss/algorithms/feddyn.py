"""FedDyn and FedDyn + SAM: dynamic regularisation, that is, ADMM on w_k = w.

FedDyn: Acar et al. 2021. Its alpha is FedGloSS's 1 / beta. Note that `-h / alpha` does not depend
on alpha for a given trajectory (it is the running sum of the mean client displacements times
n / m), so alpha -> 0 does not give FedAvg.
"""

from typing import Literal, get_args

from fedgloss.algorithms.core import Algorithm, Named, mean, named, sam, total, weights

Form = Literal["weighted", "original", "official_sigma", "acar_adaptive_alpha"]
FORMS = {form: {"form": form} for form in get_args(Form)}


@named(official={"form": "official_sigma"}, **FORMS)
def feddyn(*, form: Form = "weighted") -> Algorithm:
    """Client SGD. `form` names who wrote the server step:

    `original`: plain mean over the participants (the FedDyn paper and its code). `weighted`: N_k
    weights in that mean only; what FedGloSS becomes at rho = 0, hence the FedDyn of the paper's
    ablation. `official_sigma`: `weighted`, and the server's dual step divided once more by n, as in
    FedGloSS's released code. `acar_adaptive_alpha`: `original`, with alpha divided by the client's
    relative size, as in FedDyn's released code.
    """
    return dynamic("feddyn", lambda grad, W, h: grad(W), form)


@named(official={"form": "official_sigma"}, **FORMS)
def feddyn_sam(*, form: Form = "weighted") -> Algorithm:
    """Client SAM; the perturbation follows the raw gradient only. `form` as for `feddyn`."""
    return dynamic(
        "feddyn-sam",
        lambda grad, W, h: sam(grad, W, h.rho_l),
        form,
        hyperparameters={"rho_l": None},
        gradients=2,
    )


def dynamic(name, gradient, form: Form, hyperparameters={}, gradients=1) -> Algorithm:
    """FedDyn's client and server around a local gradient."""
    average = "weighted" if form in ("weighted", "official_sigma") else "unweighted"
    adaptive = form == "acar_adaptive_alpha"

    def direction(grad, W, down, c, h):
        if adaptive:  # corr_k = -lam_k / alpha_k, the sum of the client's own displacements
            return gradient(grad, W, h) + h.alpha / h.share * (c.corr + W - down.w), c
        return gradient(grad, W, h) - c.lam + h.alpha * (W - down.w), c

    def finish(W, down, c, h):
        if adaptive:
            return c.replace(corr=c.corr + W - down.w), Named(w=W)
        return c.replace(lam=c.lam - h.alpha * (W - down.w)), Named(w=W)

    def aggregate(w, down, up, s, h):
        scale = h.m * h.n if form == "official_sigma" else h.m
        dual = s.h - h.alpha / scale * total(up.w - down.w)
        return mean(up.w, weights(average, h)) - dual / h.alpha, s.replace(h=dual)

    return Algorithm(
        name,
        direction,
        aggregate,
        finish=finish,
        global_state=("h",),
        client_state=("corr",) if adaptive else ("lam",),
        hyperparameters={"alpha": None, **hyperparameters},
        reciprocals={"alpha": "beta"},
        gradients=gradients,
    )
