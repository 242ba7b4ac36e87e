"""Who owns a folder: the process that took it up last."""

import contextlib
import os
import platform
import secrets
import time
from pathlib import Path


class Owner:
    """This process as the owner of a folder, from `take` to `release`.

    The owner's name stands in a file beside the folder, so that an earlier one finds out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder.with_name(f"{folder.name}.owner")
        self.me = f"{os.getpid()} on {platform.node()} ({secrets.token_hex(4)})"
        self.owns = False
        self.made: list[Path] = []  # the folders above that were not there before, innermost first
        self.last_look = time.monotonic()

    def take(self) -> None:
        """Become the owner."""
        self.made = [above for above in self.folder.absolute().parents if not above.exists()]
        with contextlib.suppress(OSError):  # a protection less, but no reason not to train
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(self.me, encoding="utf-8")
            self.owns = True

    def replaced(self) -> bool:
        """Whether another process has owned the folder since, or even finished the run."""
        self.last_look = time.monotonic()
        try:
            return self.owns and self.file.read_text(encoding="utf-8") != self.me
        except FileNotFoundError:
            return True
        except (OSError, ValueError):
            return False

    def release(self) -> None:
        """Give up the folder, unless another process owns it now."""
        if self.owns and not self.replaced():
            self.file.unlink(missing_ok=True)
        self.owns = False
