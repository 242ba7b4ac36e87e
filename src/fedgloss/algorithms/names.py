"""The methods that come with the package: where each name's function is."""

METHODS = {
    "fedavg": "fedgloss.algorithms.averaging:fedavg",
    "fedprox": "fedgloss.algorithms.averaging:fedprox",
    "feddyn": "fedgloss.algorithms.feddyn:feddyn",
    "scaffold": "fedgloss.algorithms.scaffold:scaffold",
    "fedgloss-sgd": "fedgloss.algorithms.fedgloss:fedgloss_sgd",
    "fedsam": "fedgloss.algorithms.averaging:fedsam",
    "feddyn-sam": "fedgloss.algorithms.feddyn:feddyn_sam",
    "fedspeed": "fedgloss.algorithms.fedspeed:fedspeed",
    "fedgamma": "fedgloss.algorithms.scaffold:fedgamma",
    "fedsmoo": "fedgloss.algorithms.fedsmoo:fedsmoo",
    "fedgloss": "fedgloss.algorithms.fedgloss:fedgloss",
    "naivefedgloss": "fedgloss.algorithms.fedgloss:naivefedgloss",
    "centralized-sgd": "fedgloss.algorithms.centralized:centralized_sgd",
    "centralized-sam": "fedgloss.algorithms.centralized:centralized_sam",
    "centralized-sam-previous": "fedgloss.algorithms.centralized:centralized_sam_previous",
    "fedopt": "fedgloss.algorithms.fedopt:fedopt",
}
