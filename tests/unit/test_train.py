"""`fedgloss.train`: what it promises beyond the methods' formulas."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import fedgloss
from fedgloss.algorithms import METHODS, build_algorithm
from fedgloss.algorithms.core import Algorithm, Named, Probe, mean
from fedgloss.engine.clients import ClientData, Pipeline
from fedgloss.engine.flat import flatten
from refusal import refused

VALUES = {
    "mu": 0.1,
    "alpha": 0.1,
    "beta": 10.0,
    "rho": 0.05,
    "rho_l": 0.1,
    "lambda": 10.0,
    "eta_s": 1.0,
}
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}
QUICK = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def network(seed=0, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12, 5),
            nn.ReLU(),
            nn.Linear(5, 3),
        ).to(dtype)


def federation(sizes=(7, 4, 9, 5), seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(n, 1, 4, 4, generator=generator, dtype=dtype),
            torch.randint(3, (n,), generator=generator),
        )
        for n in sizes
    ]


def needed(method, variants="recommended"):
    names = build_algorithm(method, variants).hyperparameters
    return {name: value for name, value in VALUES.items() if name in names}


def run(method="fedgloss", clients=None, model=None, **options):
    options = {
        "schedule": [[0, 1, 2], [1, 3], [2, 0]],
        "lr": 0.1,
        "batch_size": 3,
        "weight_decay": 0.01,
        **options,
    }
    if "hyperparameters" not in options:
        options["hyperparameters"] = needed(method)
    return fedgloss.train(
        model or network(), federation() if clients is None else clients, method, **options
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_cohort_trained_together_equals_one_client_after_another(method):
    """Unequal clients, odd last batches, weight decay: stacked against the plain reference loop."""
    together, one_by_one = run(method, backend="stacked"), run(method, backend="autograd")
    assert torch.allclose(together.history, one_by_one.history, **TOLERANCE)
    for name, value in one_by_one.state.items():
        assert torch.allclose(together.state[name], value, **TOLERANCE), name


@QUICK
@given(st.sampled_from([m for m in METHODS if "centralized" not in m]), st.randoms())
def test_the_order_of_a_rounds_clients_changes_nothing_beyond_rounding(method, random):
    schedule = [[0, 1, 2], [1, 3, 2], [3, 0, 2, 1]]
    shuffled = [random.sample(ids, len(ids)) for ids in schedule]
    ours, theirs = run(method, schedule=schedule), run(method, schedule=shuffled)
    assert torch.allclose(ours.history, theirs.history, **TOLERANCE)


@QUICK
@given(
    st.sampled_from(
        [
            ("fedsam", "fedavg"),
            ("feddyn-sam", "feddyn"),
            ("fedgamma", "scaffold"),
            ("fedgloss", "fedgloss-sgd"),
            ("centralized-sam", "centralized-sgd"),
        ]
    ),
    st.integers(0, 10**6),
)
def test_without_a_radius_the_sam_methods_are_their_sgd_twins(pair, seed):
    sam, sgd = pair
    values = {**needed(sam), ("rho" if sam == "centralized-sam" else "rho_l"): 0.0}
    clients = federation(seed=seed)
    ours = run(sam, clients, hyperparameters=values, seed=seed)
    theirs = run(sgd, clients, seed=seed)
    assert torch.allclose(ours.history, theirs.history, **TOLERANCE)


@pytest.mark.parametrize("method", ["fedgloss", "naivefedgloss", "scaffold", "fedavg"])
def test_recording_changes_no_number(method):
    plain = run(method)
    recorded = run(method, record=("norms", "communication", "delta_epsilon", "consistency"))
    assert torch.equal(plain.history, recorded.history)
    for name, value in plain.state.items():
        assert torch.equal(value, recorded.state[name]), name


def test_records_are_what_they_say():
    rows = run(
        "fedgloss", record=("norms", "communication", "delta_epsilon", "consistency")
    ).metrics
    history = run("fedgloss").history
    P, bytes_each = history.shape[1], 8
    participants = [3, 5, 7]  # so far
    for row, w, count in zip(rows, history, participants, strict=True):
        assert row["w_norm"] == pytest.approx(w.norm().item())
        assert row["bytes_down"] == row["bytes_up"] == count * P * bytes_each
        assert 0 <= row["delta_epsilon"] <= 2 * VALUES["rho"]


def test_delta_epsilon_is_equation_6():
    """Its two pseudo-gradients, computed here from separate runs of the library."""
    schedule = [[0, 1], [1, 2]]
    options = {"batch_size": None, "weight_decay": 0.0}  # no batch order: both exchanges agree
    measured = run("fedgloss", schedule=schedule, record=("delta_epsilon",), **options)
    first = run("fedgloss", schedule=schedule[:1], **options)
    previous = first.state["delta"]
    # The same clients from the unperturbed model: FedGloSS with rho = 0 in the second round.
    values = {**needed("fedgloss"), "rho": 0.0}
    unperturbed = run("fedgloss", schedule=schedule, hyperparameters=values, **options)
    exact = unperturbed.state["delta"]
    gap = (previous / previous.norm() - exact / exact.norm()).norm()
    assert measured.metrics[1]["delta_epsilon"] == pytest.approx(VALUES["rho"] * gap.item())


def test_the_users_model_stays_as_it_was():
    model = network()
    before = copy.deepcopy(model.state_dict())
    result = run(model=model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(flatten(result.model), result.w)


def test_runs_repeat_bit_for_bit_and_seeds_differ():
    options = {"schedule": None, "rounds": 4, "clients_per_round": 2}
    assert torch.equal(run(seed=3, **options).history, run(seed=3, **options).history)
    assert not torch.equal(run(seed=3, **options).history, run(seed=4, **options).history)


def test_all_methods_of_a_seed_meet_the_same_clients():
    options = {"schedule": None, "rounds": 5, "clients_per_round": 2, "seed": 9}
    assert run("fedavg", **options).participants == run("fedgloss", **options).participants


def test_each_round_draws_its_clients_anew():
    options = {"schedule": None, "clients_per_round": 2, "seed": 9}
    last = [tuple(run("fedavg", rounds=rounds, **options).participants) for rounds in (1, 2, 3, 4)]
    assert len({*last}) > 1


def test_any_module_and_loss_will_do():
    """A network that cannot be stacked, a loss of one's own, in float32."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.gate = nn.Linear(16, 3), nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.body(x.flatten(1)) * torch.sigmoid(self.gate)

    clients = federation(dtype=torch.float32)
    result = run(
        clients=clients,
        model=Gated(),
        loss=lambda z, y: nn.functional.multi_margin_loss(z, y),
        test=clients[0],
    )
    assert result.backend == "autograd"
    assert result.metrics[-1]["loss"] < result.metrics[0]["loss"]
    assert result.w.dtype == torch.float32


def test_a_loss_of_ones_own_is_stacked_too():
    def loss(z, y):
        return nn.functional.multi_margin_loss(z, y)

    assert torch.allclose(
        run(loss=loss, backend="stacked").history,
        run(loss=loss, backend="autograd").history,
        **TOLERANCE,
    )


def test_the_average_is_over_the_last_rounds():
    result = run(last=2)
    assert torch.allclose(result.average, result.history[-2:].mean(0), **TOLERANCE)


@pytest.mark.parametrize(("last", "summed"), [(10, 5), (6, 1), (2, 0)])
def test_the_average_of_a_run_that_diverges_is_over_the_rounds_it_came_to(last, summed):
    """Of its ten it has five: all are among the last ones, or one is, or none."""

    def aggregate(w, down, up, s, h):
        far = 1e9 * torch.where(h.t >= 4, torch.cos(torch.arange(w.shape[-1]) * w), 0)
        return mean(up.w, h.p) + far, s

    mine = Algorithm("mine", lambda grad, W, down, c, h: (grad(W), c), aggregate)
    options = {"schedule": [[0, 1]] * 10, "test": federation()[0], "hyperparameters": {}}
    result = run(mine, **options, last=last)
    assert result.diverged_in == 5 and torch.isfinite(result.w).all()
    expected = result.history[5 - summed :].mean(0) if summed else result.w
    assert torch.allclose(result.average, expected, **TOLERANCE)


def test_the_average_of_no_rounds_is_the_model():
    assert torch.equal(run(rounds=0).average, flatten(network()))


def test_models_are_kept_after_the_rounds_that_are_named():
    result = run(rounds=3, keep=[3, 1], keep_history=True)
    assert [*result.kept] == [1, 3]
    assert all(torch.equal(w, result.history[t - 1]) for t, w in result.kept.items())
    assert torch.equal(result.w, run(rounds=3).w) and run(rounds=3).kept == {}


def test_local_steps_cycle_over_epochs():
    steps = run("fedavg", local_steps=7, batch_size=4, schedule=[[0, 1, 2, 3]])
    epochs = run("fedavg", epochs=1, batch_size=4, schedule=[[0, 1, 2, 3]])
    assert not torch.equal(steps.w, epochs.w)
    whole = run("fedavg", local_steps=1, batch_size=None, schedule=[[0, 1]])
    assert torch.equal(whole.w, run("fedavg", batch_size=None, schedule=[[0, 1]]).w)


@pytest.mark.parametrize("backend", ["autograd", "stacked"])
@pytest.mark.parametrize("method", ["fedavg", "fedgloss", "scaffold", "fedsmoo"])
def test_a_diverging_run_ends_as_a_result(method, backend):
    clients = federation()
    result = run(
        method,
        clients,
        lr=1e12,
        schedule=[[0, 1, 2]] * 400,
        test=clients[0],
        backend=backend,
        keep=range(1, 401),
    )
    assert result.status == "diverged"
    assert 1 <= result.diverged_in < 400
    before = [*range(1, result.diverged_in)]
    assert [row["round"] for row in result.metrics] == [*result.kept] == before
    assert all(value == value for row in result.metrics for value in row.values())


class WithBatchNorm(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        self.double()


def with_nan():
    clients = federation()
    clients[2][0][1, 0, 0, 0] = float("nan")
    return clients


def with_empty():
    clients = federation()
    return [*clients[:1], (clients[1][0][:0], clients[1][1][:0]), *clients[2:]]


def with_other_shape():
    clients = federation()
    return [*clients[:3], (clients[3][0][:, :, :3], clients[3][1])]


def stored():
    return [(torch.zeros(3, 1, 4, 4).byte(), torch.zeros(3).long())] * 4


def indexed(*indices):
    """Eight samples, and seven targets if there are two clients."""
    y = torch.zeros(9 - max(len(indices), 1)).long()
    return ClientData(torch.zeros(8, 1, 4, 4).double(), y, indices)


BAD = [
    ({"method": "fedglos"}, "algorithm: unknown method 'fedglos' (did you mean 'fedgloss'?)"),
    ({"method": "no.such:thing"}, "algorithm: 'no.such:thing' cannot be imported"),
    ({"method": 7, "hyperparameters": {}}, "algorithm: expected a method's name"),
    ({"variants": "printed"}, "variants: fedgloss has no variant named 'printed'"),
    ({"variants": {"sigma": "paper"}}, "variants: fedgloss has no variant 'sigma'"),
    ({"variants": {"sigma_scaling": "both"}}, "variants.sigma_scaling: 'both' is not known"),
    ({"hyperparameters": {"rho": 0.1}}, "hyperparameters: fedgloss needs beta, rho_l"),
    (
        {"hyperparameters": {**needed("fedgloss"), "rh": 1}},
        "hyperparameters: fedgloss has no hyperparameter 'rh' (did you mean 'rho'?)",
    ),
    (
        {"hyperparameters": {**needed("fedgloss"), "beta": 0}},
        "hyperparameters.beta: 0 must be greater than 0",
    ),
    (
        {"hyperparameters": {**needed("fedgloss"), "rho": float("nan")}},
        "hyperparameters.rho: nan is not a finite number",
    ),
    ({"clients": []}, "clients: expected a non-empty list"),
    ({"clients": [torch.zeros(3)]}, "clients[0]: expected a pair of tensors"),
    ({"clients": with_empty()}, "clients[1]: has no samples"),
    ({"clients": with_nan()}, "clients[2]: inputs contain NaN"),
    ({"clients": with_other_shape()}, "clients[3]: inputs are float64 [N, 1, 3, 4]"),
    (
        {"clients": [(torch.zeros(3, 1, 4, 4), torch.zeros(2))]},
        "clients[0]: inputs [3, 1, 4, 4] and targets [2] do not have one row",
    ),
    (
        {"clients": [(torch.zeros(3, 5), torch.zeros(3).long())] * 4},
        "clients: inputs [5] and targets [] do not pass through the model",
    ),
    ({"schedule": [[0, 4]]}, "schedule[0]: client 4 does not exist (0 to 3)"),
    ({"schedule": [[0], [-1]]}, "schedule[1]: client -1 does not exist"),
    ({"schedule": [[0], []]}, "schedule[1]: names no client"),
    ({"schedule": [[0, 0]]}, "schedule[0]: names a client twice"),
    ({"rounds": 9}, "rounds: 9, but the schedule has 3"),
    ({"schedule": None}, "rounds: must be given"),
    ({"schedule": None, "rounds": -1}, "rounds: -1 is not an integer of at least 0"),
    ({"schedule": None, "rounds": 2, "clients_per_round": 5}, "clients_per_round: 5 of only 4"),
    ({"lr": -1}, "lr: -1 is not a finite number"),
    ({"weight_decay": float("inf")}, "weight_decay: inf is not a finite number"),
    ({"batch_size": 0}, "batch_size: 0 is not an integer of at least 1"),
    ({"epochs": 1.5}, "epochs: 1.5 is not an integer"),
    ({"local_steps": 0}, "local_steps: 0 is not an integer"),
    ({"seed": -1}, "seed: -1 is not an integer"),
    ({"sizes": [1, 2, 3]}, "sizes: expected 4 positive numbers"),
    ({"sizes": [1, 2, 3, 0]}, "sizes: expected 4 positive numbers"),
    ({"record": ["norm"]}, "record: 'norm' is unknown (did you mean 'norms'?)"),
    ({"backend": "fast"}, "backend: 'fast' is unknown"),
    ({"test": (torch.zeros(2, 1, 3, 3), torch.zeros(2))}, "test: inputs have shape"),
    ({"model": nn.Flatten()}, "model: has no parameters"),
    ({"model": "cnn"}, "model: expected a torch.nn.Module"),
    ({"model": WithBatchNorm()}, "model: layer '2' (BatchNorm1d) keeps running statistics"),
    ({"hyperparameters": None}, "hyperparameters: expected values by name, not None"),
    ({"hyperparameters": [0.1]}, "hyperparameters: expected values by name, not [0.1]"),
    ({"variants": None}, "variants: expected values by name, not None"),
    ({"variants": ["paper"]}, "variants: expected values by name"),
    ({"record": "norms"}, "record: expected a list of names, not 'norms'"),
    ({"record": ["sharpness"]}, "record: 'sharpness' is measured on the test set; give test, too"),
    ({"record": None}, "record: expected a list of names, not None"),
    ({"keep": [1, 4]}, "keep: 4 is no round (allowed: 1 to 3)"),
    ({"keep": [-1]}, "keep: -1 is no round (allowed: 1 to 3)"),
    ({"keep": [1.0]}, "keep: 1.0 is no round (allowed: 1 to 3)"),
    ({"keep": 2}, "keep: expected a list of rounds, not 2"),
    ({"last": 4}, "last: 4 of only 3 rounds"),
    ({"last": 0}, "last: 0 is not an integer of at least 1"),
    ({"schedule": [0, 1]}, "schedule[0]: expected a list of clients, not 0"),
    ({"schedule": 3}, "schedule: expected a list of clients, not 3"),
    ({"schedule": "01"}, "schedule: expected a list of clients, not '01'"),
    ({"schedule": ["01"]}, "schedule[0]: expected a list of clients, not '01'"),
    ({"schedule": [[0.5]]}, "schedule[0]: client 0.5 does not exist"),
    ({"schedule": [[1.0]]}, "schedule[0]: client 1.0 does not exist"),
    ({"schedule": [[True]]}, "schedule[0]: client True does not exist"),
    ({"schedule": [["a"]]}, "schedule[0]: client 'a' does not exist"),
    ({"schedule": [[None]]}, "schedule[0]: client None does not exist"),
    ({"sizes": ["a", "b", "c", "d"]}, "sizes: expected 4 positive numbers"),
    ({"sizes": "abcd"}, "sizes: expected 4 positive numbers"),
    ({"sizes": 4}, "sizes: expected 4 positive numbers"),
    ({"sizes": [[1, 2], [3, 4]]}, "sizes: expected 4 positive numbers"),
    ({"sizes": [1, 2, 3, float("nan")]}, "sizes: expected 4 positive numbers"),
    ({"sizes": {0: 1}}, "sizes: expected 4 positive numbers"),
    ({"device": "mps"}, "device: 'mps' is not supported; allowed: auto, cpu, cuda, cuda:N"),
    ({"device": "gpu"}, "device: 'gpu' is unknown; allowed: auto, cpu, cuda, cuda:N"),
    ({"device": 1.5}, "device: 1.5 is unknown"),
    ({"lr": "0.1"}, "lr: '0.1' is not a finite number"),
    ({"lr": None}, "lr: None is not a finite number"),
    ({"clients": {}}, "clients: expected a non-empty list"),
    ({"clients": [(torch.zeros(2, 1, 4, 4), None)]}, "clients[0]: expected a pair of tensors"),
    ({"clients": [(np.zeros((2, 16)), np.zeros(2))]}, "clients[0]: expected a pair of tensors"),
    ({"test": torch.zeros(2)}, "test: expected a pair of tensors"),
    ({"test": (torch.zeros(2), 3)}, "test: expected a pair of tensors"),
    ({"test": (np.zeros(2), np.zeros(2))}, "test: expected a pair of tensors"),
    ({"test": (torch.zeros(2, 1, 4, 4), torch.zeros(3))}, "test: 2 inputs and 3 targets"),
    ({"test": (torch.zeros(0, 1, 4, 4), torch.zeros(0))}, "test: has no samples"),
    (
        {"test": (torch.zeros(2, 1, 4, 4).double(), torch.zeros(2))},
        "test: targets are torch.float32, the clients' torch.int64",
    ),
    (
        {"test": (torch.full((2, 1, 4, 4), float("nan")), torch.zeros(2).long())},
        "test: inputs contain NaN or infinity",
    ),
    (
        {"test": (torch.zeros(2, 1, 4, 4), torch.tensor([0, 3]))},
        "test: a target is class 3, the model has 3 outputs (allowed: 0 to 2, and -100 for none)",
    ),
    (
        {"test": (torch.zeros(2, 1, 4, 4), torch.tensor([0, -1]))},
        "test: a target is class -1, the model has 3 outputs",
    ),
    (
        {"test": (torch.zeros(2, 1, 4, 4), torch.tensor([-100, -100]))},
        "test: every target is -100, which the loss leaves out",
    ),
    ({"pipeline": 3}, "pipeline: expected a fedgloss.Pipeline, not 3"),
    ({"pipeline": Pipeline(0.5, 0.5)}, "pipeline: mean: 0.5 is not a tuple of finite numbers"),
    ({"pipeline": Pipeline((0.5,), (0.0,))}, "pipeline: std: (0.0,) is not a tuple of finite"),
    ({"pipeline": Pipeline((0.5,), (0.5, 0.5))}, "pipeline: mean and std are not of equally"),
    ({"pipeline": Pipeline((0.5,), (0.5,), "crop")}, "pipeline: augmentation: 'crop' is unknown"),
    ({"pipeline": Pipeline((0.5,), (0.5,), padding=-1)}, "pipeline: padding: -1 is not an integer"),
    (
        {"pipeline": Pipeline((0.5,), (0.25,))},
        "pipeline: is for images, uint8 [N, C, H, W], and the inputs are torch.float64",
    ),
    (
        {"pipeline": Pipeline((0.5,) * 3, (0.25,) * 3), "clients": stored()},
        "pipeline: has 3 channels, the inputs have 1",
    ),
    (
        {"clients": indexed(torch.arange(3), torch.arange(2)), "schedule": [[0]]},
        "clients: 8 inputs, 7 targets and 2",
    ),
    (
        {"clients": indexed(torch.arange(9)), "schedule": [[0]]},
        "clients[0]: indices are not all from 0 to 7",
    ),
    (
        {"clients": indexed(torch.tensor([-1])), "schedule": [[0]]},
        "clients[0]: indices are not all from 0 to 7",
    ),
    (
        {"clients": indexed([0, 1]), "schedule": [[0]]},
        "clients[0]: indices must be int64 [N_k], not list",
    ),
    (
        {"clients": indexed(torch.ones(8) > 0), "schedule": [[0]]},
        "clients[0]: indices must be int64 [N_k], not torch",
    ),
    (
        {"clients": indexed(), "schedule": []},
        "clients: 8 inputs, 8 targets and 0 clients",
    ),
    ({"on_round": None}, "on_round: expected a function, not None"),
    ({"should_stop": True}, "should_stop: expected a function, not True"),
    ({"rounds": "1"}, "rounds: '1' is not an integer of at least 0"),
    ({"sizes": [10**400] * 4}, "sizes: expected 4 positive numbers"),
    (
        {"clients": [(torch.zeros(2, 16).to_sparse(), torch.zeros(2).long())]},
        "clients[0]: inputs are not dense tensors with values",
    ),
    (
        {"clients": [(torch.zeros(2, 16, device="meta"), torch.zeros(2).long())]},
        "clients[0]: inputs are not dense tensors with values",
    ),
    (
        {
            "clients": [
                (torch.full((4, 1, 4, 4), 1e300, dtype=torch.float64), torch.zeros(4).long())
            ]
            * 4,
            "model": network(dtype=torch.float32),
        },
        "clients[0]: inputs contain NaN or infinity (as torch.float32)",
    ),
    ({"backend": "graph"}, "backend: 'graph' is for CUDA devices; allowed here"),
    ({"backend": None}, "backend: None is unknown"),
]


def test_images_as_they_are_stored_need_a_pipeline():
    with refused("do not pass", "in a batch of 3", "uint8: give floats, or a pipeline"):
        run(clients=stored())


def entropy_of_any(outputs, y):
    return nn.functional.cross_entropy(outputs, y.long())


class Tokens(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(5, 6), nn.Flatten(), nn.Linear(12, 3))

    def forward(self, x):
        return super().forward(x.long())


@pytest.mark.parametrize("kind", [torch.uint16, torch.uint32, torch.uint64])
def test_types_of_which_torch_has_no_maximum_are_refused_in_one_line(kind):
    """As tokens, and as classes but those of a cross entropy, which are any integers."""
    images, classes = torch.zeros(3, 1, 4, 4), torch.tensor([0, 2, 1])
    tokens = torch.tensor([[0, 1], [4, 2], [3, 3]])
    name = str(kind).removeprefix("torch.")
    with refused(f"clients: targets are {name}", "allowed: uint8, signed integers"):
        run(clients=[(images, classes.to(kind))] * 4, loss=entropy_of_any)
    with refused(f"clients: inputs are {name}", "allowed: uint8, signed integers"):
        run(clients=[(tokens.to(kind), classes)] * 4, model=Tokens())
    with refused(f"test: inputs are {name}"):
        run(clients=[(tokens, classes)] * 4, model=Tokens(), test=(tokens.to(kind), classes))
    run(clients=[(images, classes.to(kind))] * 4)


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:48] for _, message in BAD])
def test_bad_input_is_named_in_one_line(change, message):
    with pytest.raises(fedgloss.InputError) as caught:
        run(**change)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_stacking_is_refused_where_it_cannot_be_exact():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Tanh()).double()
    with pytest.raises(fedgloss.InputError, match="backend: 'stacked' takes"):
        run(model=model, backend="stacked")
    assert run(model=model).backend == "autograd"


def test_numbers_of_numpy_are_numbers():
    values = {name: np.float32(value) for name, value in needed("fedgloss").items()}
    result = run(
        schedule=None,
        rounds=np.int64(2),
        clients_per_round=np.int32(2),
        seed=np.int64(3),
        lr=np.float64(0.1),
        hyperparameters=values,
    )
    assert len(result.history) == 2


def test_samples_to_ignore_are_ignored_on_every_backend():
    clients = federation()
    clients[0][1][:3] = -100  # cross-entropy's own mark
    together, one_by_one = (run(clients=clients, backend=name) for name in ("stacked", "autograd"))
    assert torch.allclose(together.history, one_by_one.history, **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_client_of_samples_to_ignore_has_no_full_gradient(dtype):
    x = torch.randn(8, 1, 4, 4, dtype=dtype)
    clients = [(x[:4], torch.full((4,), -100)), (x[4:], torch.arange(4) % 3)]
    result = run(
        "scaffold", clients, model=network(dtype=dtype), variants={"control": "option1"},
        schedule=[[0, 1]] * 3,
    )  # fmt: skip
    assert result.status == "completed" and not result.state["c_k"][0].any()


def test_a_schedule_may_be_anything_that_lists_clients():
    expected = run("fedavg").history
    for schedule in (
        ((0, 1, 2), (1, 3), (2, 0)),
        (ids for ids in [[0, 1, 2], [1, 3], [2, 0]]),
        [np.array([0, 1, 2]), torch.tensor([1, 3]), range(2, -1, -2)],
        [iter([0, 1, 2]), {1: None, 3: None}.keys(), (k for k in (2, 0))],
    ):
        assert torch.equal(run("fedavg", schedule=schedule).history, expected)


def test_only_the_ratios_of_sizes_count():
    expected = run("fedavg", sizes=[1, 2, 3, 4])
    others = [[1e307, 2e307, 3e307, 4e307], [1e-300, 2e-300, 3e-300, 4e-300], np.arange(1, 5)]
    for sizes in others:
        found = run("fedavg", sizes=sizes)
        assert torch.allclose(found.history, expected.history, **TOLERANCE)


def test_what_on_round_does_to_its_row_is_its_own():
    rows = []
    result = run(test=federation()[0], on_round=lambda t, row: rows.append(row) or row.clear())
    assert rows == [{}, {}, {}]
    assert [row["round"] for row in result.metrics] == [1, 2, 3]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_round_after_which_the_caller_fails_is_kept(error, tmp_path):
    """Though the next checkpoint was not due for minutes."""

    def failing(t, row):
        if t == 2:
            raise error

    expected, seen = run(), []
    with pytest.raises(error):
        run(resume=tmp_path / "kept", on_round=failing)
    found = run(resume=tmp_path / "kept", on_round=lambda t, row: seen.append(t))
    assert seen == [3]
    assert torch.equal(found.history, expected.history)


def test_a_network_may_end_in_images():
    """A class for each pixel: the outputs are [N, classes, rows, columns]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).double()
    generator = torch.Generator().manual_seed(0)
    clients = [(x, torch.randint(3, (len(x), 4, 4), generator=generator)) for x, _ in federation()]
    together, one_by_one = (
        run(clients=clients, model=model, backend=name) for name in ("stacked", "autograd")
    )
    assert torch.allclose(together.history, one_by_one.history, **TOLERANCE)


def test_only_a_cross_entropy_has_a_hopeless_value():
    """A large loss of another kind is no divergence: here a sum of squares in other units."""
    clients = federation()
    result = run(
        clients=clients,
        loss=lambda z, y: 1e6 + nn.functional.cross_entropy(z, y),
        test=clients[0],
    )
    assert result.status == "completed"


def test_a_loss_that_is_no_number_is_divergence():
    def loss(z, y):
        return nn.functional.cross_entropy(z, y) * (float("nan") if bool((y == 2).all()) else 1)

    x, y = federation()[0]
    result = run("fedavg", loss=loss, test=(x, torch.full_like(y, 2)), backend="autograd")
    assert (result.diverged_in, result.metrics) == (1, [])


def test_a_class_that_the_model_lacks_is_named():
    clients = federation()
    clients[2][1][0] = 7
    with pytest.raises(fedgloss.InputError, match="a target is class 7, the model has 3 outputs"):
        run(clients=clients)


# The engine knows no method


def under_other_names(method):
    """The method with every state, hyperparameter and itself named otherwise."""
    states = method.global_state + method.client_state + method.local_state
    other = {name: f"my_{name}" for name in (*states, *method.hyperparameters)}

    def renamed(record, names=other):
        return Named(**{names.get(name, name): value for name, value in record.items()})

    def ours(record):
        return renamed(record, {theirs: name for name, theirs in other.items()})

    def direction(grad, W, down, c, h):
        found, c = method.direction(grad, W, down, ours(c), ours(h))
        return found, renamed(c)

    def finish(W, down, c, h):
        c, up = method.finish(W, down, ours(c), ours(h))
        return renamed(c), up

    def aggregate(w, down, up, s, h):
        w, s = method.aggregate(w, down, up, ours(s), ours(h))
        return w, renamed(s)

    def schedule(hyper, t):
        found = method.schedule({name: hyper[other[name]] for name in method.hyperparameters}, t)
        return {other.get(name, f"my_{name}"): value for name, value in found.items()}

    def names(kind):
        return tuple(other[name] for name in kind)

    probe = method.probe
    return Algorithm(
        "of one's own",
        direction,
        aggregate,
        lambda w, s, h: method.broadcast(w, ours(s), ours(h)),
        finish,
        names(method.global_state),
        names(method.client_state),
        names(method.local_state),
        {other[name]: default for name, default in method.hyperparameters.items()},
        schedule,
        probe and Probe(other[probe.into], probe.clients_keep),
        method.radius and other[method.radius],
        method.pooled,
        method.gradients,
    )


@pytest.mark.parametrize("name", METHODS)
def test_no_name_that_a_method_gives_means_anything_to_the_engine(name):
    options = {"record": ("norms", "communication", "delta_epsilon", "consistency"), "seed": 3}
    theirs = run(name, **options)
    method = under_other_names(build_algorithm(name))
    values = {f"my_{key}": value for key, value in needed(name).items()}
    ours = run(method, hyperparameters=values, **options)
    assert torch.equal(ours.history, theirs.history)
    assert ours.metrics == theirs.metrics
