"""What a method declares, checked before anything is run: its functions, names and costs."""

from collections.abc import Callable, Iterable, Mapping

from fedgloss.algorithms.core import Algorithm, Probe
from fedgloss.errors import InputError

FACTS = ("m", "n", "p", "share", "lr", "wd", "steps", "t", "full_gradient")
"""What `h` holds beside a method's hyperparameters."""
OF_RECORDS = ("self", "get", "items", "keys", "replace", "values")
"""What records, such as `s`, `c`, `h` and the messages, have beside their entries."""
STATES = ("global_state", "client_state", "local_state")
FUNCTIONS = ("direction", "aggregate", "broadcast", "finish", "schedule")


def is_ours(function: Callable) -> bool:
    """Whether a function and all those it was made with are this package's."""
    if str(getattr(function, "__module__", "")).partition(".")[0] != "fedgloss":
        return False  # nor is it looked into: a variable of a caller's may have no value yet
    within = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    return all(is_ours(other) for other in within if callable(other))


def is_built_in(algorithm: Algorithm) -> bool:
    """Whether a method is this package's, in all its functions."""
    return all(is_ours(getattr(algorithm, name)) for name in FUNCTIONS)


def check_declared(method: str, algorithm: Algorithm) -> None:
    """Refuse an algorithm that no engine could run; `method` is the name to blame.

    Raises InputError with one line that names the entry of `Algorithm` and what is allowed.
    """
    label = f"method {method!r}"
    name = algorithm.name
    if not isinstance(name, str) or not name.isprintable() or not name.strip():
        raise InputError(f"{label}: name: expected printable text on one line, not {name!r:.60}")
    for function in FUNCTIONS:
        if not callable(getattr(algorithm, function)):
            raise InputError(f"{label}: {function}: expected a function")
    if not isinstance(algorithm.hyperparameters, Mapping):
        raise InputError(f"{label}: hyperparameters: expected defaults by name, or None, in a dict")
    check_names(f"{label}: hyperparameters", algorithm.hyperparameters, (*FACTS, *OF_RECORDS))
    if not isinstance(algorithm.reciprocals, Mapping):
        raise InputError(f"{label}: reciprocals: expected other names by name, in a dict")
    check_names(f"{label}: reciprocals", algorithm.reciprocals.values(), (*FACTS, *OF_RECORDS))
    for one, other in algorithm.reciprocals.items():
        _check_one_of(f"{label}: reciprocals", one, "hyperparameters", algorithm.hyperparameters)
        if other in algorithm.hyperparameters:
            raise InputError(f"{label}: reciprocals: {other!r} is a hyperparameter itself")
    for kind in STATES:
        names = getattr(algorithm, kind)
        if isinstance(names, str) or not isinstance(names, tuple | list):
            raise InputError(f'{label}: {kind}: expected a tuple of names, such as ("v",)')
        check_names(f"{label}: {kind}", names, OF_RECORDS)
    for kinds in (STATES[:2], STATES[1:]):  # a run's results, and clients' state, go by name
        names = [name for kind in kinds for name in getattr(algorithm, kind)]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{label}: {' and '.join(kinds)}: {name!r} is there twice")
    if algorithm.radius is not None:
        _check_one_of(
            f"{label}: radius", algorithm.radius, "hyperparameters", algorithm.hyperparameters
        )
    if algorithm.probe is not None:
        if not isinstance(algorithm.probe, Probe):
            raise InputError(f"{label}: probe: expected None or a Probe")
        _check_one_of(
            f"{label}: probe: into", algorithm.probe.into, "global_state", algorithm.global_state
        )
        if not isinstance(algorithm.probe.clients_keep, bool):
            raise InputError(f"{label}: probe: clients_keep: expected True or False")
    if type(algorithm.gradients) is not int or algorithm.gradients < 0:
        raise InputError(f"{label}: gradients: expected how many direction asks for, an integer")


def _check_one_of(label: str, name: object, kind: str, names: Iterable[str]) -> None:
    """Refuse what is not among the names that are declared as `kind`."""
    if name not in [*names]:
        raise InputError(
            f"{label}: {name!r:.60} is not among the {kind}; allowed: {', '.join(names) or 'none'}"
        )


def check_names(label: str, names: Iterable[object], taken: tuple[str, ...]) -> None:
    """Refuse what cannot be an attribute of a record; `taken`: the names of the engine's own."""
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise InputError(
                f"{label}: {name!r} is not a name: letters, digits and _, beginning with a letter"
            )
        if name in taken:
            raise InputError(
                f"{label}: {name!r} is a name of the engine's own; any but these:"
                f" {', '.join(taken)}"
            )
