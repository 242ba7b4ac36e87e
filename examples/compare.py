"""Three methods on the same clients, from the same model, with the same draws; one plot.

Run:    python examples/compare.py
Leaves: compare.png, and the last accuracy of each method on the screen.
Needs:  scikit-learn and matplotlib.
"""

import matplotlib.pyplot as plt

import fedgloss
from digits import federated_digits, small_network

clients, test = federated_digits()
gloss = {"rho": 0.05, "rho_l": 0.05, "beta": 10}
for name, values in {"fedavg": {}, "fedsam": {"rho_l": 0.05}, "fedgloss": gloss}.items():
    result = fedgloss.train(
        small_network(), clients, name, hyperparameters=values, test=test,
        rounds=40, clients_per_round=5, lr=0.1, batch_size=8,
    )  # fmt: skip
    accuracy = [row["accuracy"] for row in result.metrics]
    print(f"{name}: {accuracy[-1]:.1f} %")
    plt.plot(range(1, len(accuracy) + 1), accuracy, label=name)
plt.legend()
plt.savefig("compare.png")
