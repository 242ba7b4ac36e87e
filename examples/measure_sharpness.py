"""How sharp are the models that two methods find? Hessian eigenvalues, and the loss around them.

Run:    python examples/measure_sharpness.py
Leaves: sharpness.png, and the largest eigenvalues on the screen. Lower is flatter.
Needs:  scikit-learn and matplotlib.
"""

import matplotlib.pyplot as plt

import fedgloss
from digits import federated_digits, small_network

clients, test = federated_digits()
_, axes = plt.subplots(1, 2, figsize=(8, 4), sharey=True)
for axis, (name, values) in zip(
    axes, {"fedavg": {}, "fedsam": {"rho_l": 0.1}}.items(), strict=True
):
    result = fedgloss.train(
        small_network(), clients, name, rounds=30, last=10, clients_per_round=5, lr=0.1,
        batch_size=8, hyperparameters=values,
    )  # fmt: skip

    # The training loss over all clients' data, at the final model; then at the average of the last
    # ten rounds' models, which is what the paper reports; then at one client's own model.
    print(name)
    print("  final model  ", fedgloss.eigenvalues(result.model, clients, count=3))
    print("  average      ", fedgloss.eigenvalues(result.model, clients, w=result.average, count=3))
    print(
        "  local model  ", fedgloss.eigenvalues(result.model, clients, w=result.locals[0], count=3)
    )

    surface = fedgloss.landscape(result.model, test, points=9)
    axis.contourf(surface.x, surface.y, surface.loss.T, levels=20)
    axis.set_title(f"{name}: {surface.loss.min():.2f} to {surface.loss.max():.2f}")
plt.savefig("sharpness.png")
