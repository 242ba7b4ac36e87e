"""A run that is stopped goes on from its checkpoint, and ends bit for bit as if never stopped.

Run:    python examples/resume.py
Here the program itself asks for the stop. A killed process goes on in the same way when the same
call is made again: at most the work since the last checkpoint is repeated.
"""

import torch

import fedgloss
from digits import federated_digits, small_network

clients, test = federated_digits()
finished = 0


def count(t: int, row: dict[str, float] | None) -> None:
    """`on_round` is called after every round."""
    global finished
    finished = t


def train(**options):
    """Always the same run; with `resume`, its checkpoints are kept in a folder."""
    return fedgloss.train(
        small_network(), clients, "fedavg", rounds=20, clients_per_round=5, lr=0.1, batch_size=8,
        test=test, on_round=count, **options,
    )  # fmt: skip


try:
    train(resume="checkpoints", should_stop=lambda: finished == 8)
except fedgloss.Interrupted:
    print(f"stopped after round {finished}")

resumed, undisturbed = train(resume="checkpoints"), train()
print(f"bit-equal: {torch.equal(resumed.history, undisturbed.history)}")
print(f"accuracy: {resumed.metrics[-1]['accuracy']:.1f} % after round {finished}")
