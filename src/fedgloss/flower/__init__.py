"""The methods in a real federation: Flower carries the messages, this package says what is in them.

`Deployment` is what the server and all clients agree on. `client_app` makes a ClientApp of it, and
`serve` is called in the main function of a ServerApp. Needs Flower: pip install 'fedgloss[flower]'.
"""

try:
    import flwr  # noqa: F401
except ImportError:
    raise ImportError(
        "fedgloss.flower needs Flower: pip install 'fedgloss[flower]'", name="flwr"
    ) from None

from fedgloss.flower.client import client_app
from fedgloss.flower.deployment import Deployment
from fedgloss.flower.log import Stopped
from fedgloss.flower.server import serve

__all__ = ["Deployment", "Stopped", "client_app", "serve"]
