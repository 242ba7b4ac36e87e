"""Python with some packages alone, as a machine that trains may have it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HOOK = """
import importlib.metadata as metadata, re, sys
from importlib.machinery import PathFinder

def needs(distribution, found):
    # A distribution and all it requires.
    if distribution not in found:
        found.add(distribution)
        try:
            requirements = metadata.requires(distribution) or []
        except metadata.PackageNotFoundError:
            return found
        for line in requirements:
            if "extra ==" not in line:
                needs(re.match(r"[A-Za-z0-9._-]+", line)[0].lower().replace("_", "-"), found)
    return found

allowed = set()
for name in {allowed!r}:
    needs(name, allowed)
refused = [
    module
    for module, owners in metadata.packages_distributions().items()
    if not any(owner.lower().replace("_", "-") in allowed for owner in owners)
    and module not in ("fedgloss", "_distutils_hack", "setuptools", "pkg_resources")
]
assert {{"yaml", "pandas", "matplotlib", "sklearn", "scipy", "pydantic"}} <= {{*refused}}

class Installed:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] not in refused:
            return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
"""


def command_with(allowed: Sequence[str], code: str) -> list[str]:
    """The command that runs this code where these distributions, and what they need, are all."""
    return [sys.executable, "-c", HOOK.format(allowed=allowed) + code]


def without_other_packages(
    code: str, allowed: Sequence[str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    """The code's run there, with what it said."""
    return subprocess.run(command_with(allowed, code), capture_output=True, text=True, cwd=cwd)
