"""What is refused: settings that differ, arguments, and answers that are of another form."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra flower")

from flwr.app import Array

from fedgloss.engine.clients import Pipeline
from fedgloss.errors import InputError
from fedgloss.flower import Deployment, Stopped, client_app, serve
from fedgloss.flower.deployment import differences, settle
from local_grid import CLIENTS, LocalGrid, on_grid, on_images, small_cnn


def run(grid, deployment, **options):
    return serve(grid, deployment, **{"rounds": 3, **options})


# What both sides must agree on


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"lr": 0.2}, "lr: 0.05 on the server, 0.2 here"),
        ({"seed": 4}, "seed: 3 on the server, 4 here"),
        (
            {"hyperparameters": {"rho": 0.1, "rho_l": 0.05, "beta": 10.0}},
            "hyperparameters.rho: 0.05 on the server, 0.1 here",
        ),
        ({"variants": "paper"}, "variants.rho_schedule: official_code on the server"),
        ({"wire": "bfloat16"}, "wire: exact on the server, bfloat16 here"),
        ({"loss": torch.nn.functional.nll_loss}, "loss: torch.nn.functional.cross_entropy on the"),
        ({"loss": torch.nn.CrossEntropyLoss(label_smoothing=0.1)}, "CrossEntropyLoss ("),
        (
            {"pipeline": Pipeline((0.5,), (0.2,), "batch_aug")},
            "pipeline: is for images, uint8 [N, C, H, W], and the inputs are torch.float32",
        ),
        ({"model": torch.nn.Linear(4, 2)}, "model: 410 parameters of float32 in 4 tensors"),
    ],
)
def test_a_client_with_other_settings_takes_no_part(other, line, said):
    deployment, clients, _ = on_images("fedgloss")
    app = client_app(
        lambda c: (
            replace(deployment, **other) if c.node_config["partition-id"] == 1 else deployment
        ),
        lambda c: clients[c.node_config["partition-id"]],
    )
    result = run(LocalGrid(app, CLIENTS), deployment, rounds=1)
    assert result.participants == [0, 2, 3]
    [refusal] = [entry for entry in said().splitlines() if "takes no part" in entry]
    assert line in refusal


def smoothed(share):
    return lambda outputs, y: torch.nn.functional.cross_entropy(outputs, y, label_smoothing=share)


def averaged(function, shift=None):
    """Of a function that it was given, and a variable that has no value."""
    if shift is not None:
        shifted = shift

    def loss(outputs, y):
        return function(outputs - y[:, None]).mean() + (shifted if shift is not None else 0)

    return loss


def test_losses_and_pipelines_are_the_same_if_they_were_made_alike():
    """The two sides' own objects; what they were made with decides."""

    def terms(**changes):
        deployment = on_images("fedavg")[0]
        return settle(replace(deployment, **changes)).terms

    def apart(name, *choices):
        ours, again, other = (terms(**{name: make()}) for make in (*choices[:1], *choices))
        assert differences(ours, again) == ""
        return differences(ours, other)

    smoothing = torch.nn.CrossEntropyLoss
    weights = torch.ones(10)
    assert "loss" in apart("loss", lambda: smoothing(label_smoothing=0.1), smoothing)
    assert "loss" in apart("loss", lambda: smoothing(weights), lambda: smoothing(2 * weights))
    assert "loss" in apart("loss", lambda: smoothed(0.1), lambda: smoothed(0.2))
    assert "loss" in apart(
        "loss",
        *(lambda b=b: partial(torch.nn.functional.smooth_l1_loss, beta=b) for b in (1.0, 2.0)),
    )
    assert "loss" in apart("loss", lambda: averaged(abs), lambda: averaged(torch.square))
    pipelines = (lambda pad=pad: Pipeline((0.5,), (0.2,), "batch_aug", pad) for pad in (4, 2))
    assert apart("pipeline", *pipelines) == "pipeline.padding: 2 on the server, 4 here"


def test_where_every_client_is_refused_the_run_stops_and_says_why():
    deployment, clients, _ = on_images("fedgloss")
    app = client_app(replace(deployment, lr=0.2), lambda c: clients[c.node_config["partition-id"]])
    with pytest.raises(Stopped) as error:
        run(LocalGrid(app, CLIENTS), deployment)
    said = "; ".join(
        f"node {node} takes no part: lr: 0.05 on the server, 0.2 here" for node in range(1000, 1003)
    )
    assert str(error.value) == f"before round 1: {said}; and 1 more"


def test_a_client_without_data_takes_no_part(said):
    deployment, clients, _ = on_images("fedgloss")
    clients[2] = (clients[2][0][:0], clients[2][1][:0])
    app = client_app(deployment, lambda c: clients[c.node_config["partition-id"]])
    result = run(LocalGrid(app, CLIENTS), deployment, rounds=1)
    assert result.participants == [0, 1, 3]
    assert "takes no part: clients[2]: has no samples" in said()
    with pytest.raises(
        Stopped, match=r"^before round 1: node \d+ takes no part: clients\[2\]: has"
    ):
        run(LocalGrid(app, CLIENTS), deployment, failures="stop")


def test_a_client_whose_data_are_gone_later_is_missed_from_then_on(said):
    deployment, clients, _ = on_images("fedgloss")
    app = client_app(deployment, lambda c: clients[c.node_config["partition-id"]])

    def lose(t, row):
        clients[2] = (clients[2][0][:0], clients[2][1][:0])

    result = run(LocalGrid(app, CLIENTS), deployment, on_round=lose)
    assert result.participants == [0, 1, 3]
    assert "client 2: clients[2]: has no samples" in said()


@pytest.mark.parametrize("number", [None, "1", -1, 4, True])
def test_a_node_must_say_which_client_it_is(number, said):
    grid, deployment, *_ = on_grid("fedavg")
    grid.contexts[grid.node_of(3)].node_config["partition-id"] = number
    result = run(grid, deployment, rounds=1)
    assert result.participants == [0, 1, 2]
    assert (
        f"node-config: partition-id is {number!r}; allowed: the client's number, 0 to 3" in said()
    )


def test_two_nodes_cannot_be_one_client():
    grid, deployment, *_ = on_grid("fedavg")
    grid.join(2)
    with pytest.raises(InputError, match=r"^node-config: nodes \d+ and \d+ are both client 2"):
        run(grid, deployment)


# What the server is asked


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sampling": "fair"}, "sampling: 'fair' is unknown"),
        ({"failures": "ignore"}, "failures: 'ignore' is unknown"),
        ({"timeout": 0}, "timeout: 0 is not a number of seconds"),
        ({"connect_timeout": "soon"}, "connect_timeout: 'soon' is not a number of seconds"),
        ({"min_available": 5}, "min_available: 5 of only 4 clients"),
        ({"min_available": True}, "min_available: True is not an integer of at least 1"),
        ({"record": ["delta_epsilon"]}, "record: 'delta_epsilon' is unknown"),
        ({"record": ["sharpness"]}, "record: 'sharpness' is measured on the test set"),
        (
            {"rounds": None, "schedule": [[0]], "sampling": "flower"},
            "sampling: 'flower' draws participants; not used together with schedule",
        ),
        ({"clients_per_round": 5}, "clients_per_round: 5 of only 4 clients"),
        ({"test": (torch.zeros(3, 1, 8, 8), torch.zeros(2))}, "test: 3 inputs and 2 targets"),
        ({"test": 3}, "test: expected a pair of tensors"),
        ({"test": (torch.zeros(3, 1, 8, 8),) * 3}, "test: expected a pair of tensors"),
        (
            {"test": (torch.zeros(2, 1, 8, 8), torch.tensor([0, 77]))},
            "test: a target is class 77, the model has",
        ),
        (
            {"test": (torch.zeros(2, 1, 3, 3), torch.tensor([0, 1]))},
            "test: inputs [1, 3, 3] and targets [] do not pass through",
        ),
        (
            {
                "test": (torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])),
                "metrics": {"mine": lambda outputs, y: 1 / 0},
            },
            "metrics: 'mine': ",
        ),
    ],
)
def test_arguments_that_are_wrong_are_named(options, line):
    grid, deployment, *_ = on_grid("fedavg")
    with pytest.raises(InputError) as error:
        run(grid, deployment, **options)
    assert str(error.value).startswith(line)
    assert not grid.sent  # before anyone has trained


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"algorithm": "centralized-sgd"}, "algorithm: centralized-sgd pools all samples"),
        ({"pipeline": 3}, "pipeline: expected a fedgloss.Pipeline, not 3"),
        ({"clients": 0}, "clients: 0 is not an integer of at least 1"),
        ({"wire": "int8"}, "wire: 'int8' is unknown"),
        ({"lr": -1}, "lr: -1 is not a finite number"),
        ({"algorithm": "fedsam"}, "hyperparameters: fedsam needs rho_l"),
    ],
)
def test_deployments_that_are_wrong_are_named(change, line):
    right = Deployment(model=small_cnn(), clients=CLIENTS, algorithm="fedavg")
    with pytest.raises(InputError) as error:
        serve(LocalGrid(None, CLIENTS), replace(right, **change), rounds=1)
    assert str(error.value).startswith(line)


def test_a_deployment_is_one():
    with pytest.raises(InputError, match=r"^deployment: expected a Deployment, not <function"):
        serve(LocalGrid(None, CLIENTS), lambda context: None, rounds=1)


# A client that goes by its own rules


def meddling(meddle, only="message"):
    """The ClientApp of the images, whose client 1 changes what it answers."""
    deployment, clients, _ = on_images("fedavg")
    right = client_app(deployment, lambda c: clients[c.node_config["partition-id"]])

    def app(message, context):
        reply = right(message, context)
        if context.node_config["partition-id"] == 1 and only in reply.content:
            meddle(reply.content)
        return reply

    return LocalGrid(app, CLIENTS), deployment


def short(content):
    content["message"]["w"] = Array(content["message"]["w"].numpy()[:7])


def of_another_type(content):
    content["message"]["w"] = Array(content["message"]["w"].numpy().astype("float64"))


def of_words(content):
    content["message"]["w"] = Array(np.array(["a", "b"]))


def of_noise(content):
    content["message"]["w"].data = b"no array"


def of_another_shape_than_it_says(content):
    content["message"]["w"].shape = (7,)


def of_another_type_than_it_says(content):
    content["message"]["w"].dtype = "float64"


def of_a_type_that_is_none(content):
    content["message"]["w"].dtype = "load"


def of_another_name(content):
    content["message"]["v"] = content["message"].pop("w")


def without_message(content):
    del content["message"]


def without_facts(content):
    del content["fedgloss"]


def of_no_samples(content):
    content["fedgloss"]["samples"] = 0


def of_endless_samples(content):
    content["fedgloss"]["samples"] = float("inf")


def without_samples(content):
    del content["fedgloss"]["samples"]


@pytest.mark.parametrize(
    ("meddle", "line"),
    [
        (short, "'w' of its message is [7], expected [410]"),
        (of_another_type, "'w' of its message is torch.float64, expected torch.float32"),
        (of_words, "'w' of its message cannot be read"),
        (of_noise, "'w' of its message cannot be read"),
        (of_another_shape_than_it_says, "'w' of its message cannot be read (it is not what"),
        (of_another_type_than_it_says, "'w' of its message cannot be read (it is not what"),
        (of_a_type_that_is_none, "'w' of its message cannot be read"),
        (of_another_name, "its message has ['v'], expected ['w']"),
        (without_message, "its answer has no message"),
        (without_facts, "its answer is not one of fedgloss.flower's"),
        (of_no_samples, "it says that it has 0 samples"),
        (of_endless_samples, "beside its message is inf in place of a number"),
        (without_samples, "beside its message is None in place of a number"),
    ],
)
def test_an_answer_of_another_form_is_refused_and_the_round_goes_on(meddle, line, said):
    result = run(*meddling(meddle), rounds=1)
    assert result.participants == [0, 2, 3]
    assert f"client 1: {line}" in said()


@pytest.mark.parametrize("number", [-1, 4, 1e9])
def test_a_node_that_says_it_is_nobody_takes_no_part(number, said):
    def meddle(content):
        content["fedgloss"]["client"] = number

    result = run(*meddling(meddle, only="fedgloss"), rounds=1)
    assert result.participants == [0, 2, 3]
    assert "takes no part: it says that it is client" in said()
