"""The server: the rounds, the test set, and what is left at the end."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from digits_app.task import deployment, digits, for_testing
from fedgloss.flower import serve

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and say how well the model does on the images that no client has."""
    config = context.run_config
    images, targets = digits()
    kept = for_testing(targets)
    result = serve(
        grid,
        deployment(context),
        rounds=config["rounds"],
        clients_per_round=config["clients-per-round"],
        test=(images[kept], targets[kept]),
    )
    accuracy, sent = result.metrics[-1]["accuracy"], result.bytes_down + result.bytes_up
    print(f"{config['method']}: {accuracy:.1f} %, {sent / 1e6:.2f} MB sent", flush=True)
