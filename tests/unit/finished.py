"""A small study whose runs are finished, for tests of what is done with runs."""

STUDY = """\
study: shared
seeds: [0]
training: {rounds: 2, evaluate_every: 1, last: 1, clients_per_round: 2, keep: [1]}
algorithms: {fedgloss: {hyperparameters: {rho: 0.05}}}
grid:
  - {dataset: digits, alphas: ["0"], model: smallcnn, algorithms: [fedavg, fedgloss]}
"""
RUN = "runs/shared/digits/alpha-0/smallcnn/fedgloss/seed-0"
PARTITION = "partitions/digits/alpha-0/partition.json"


def flipped(file):
    """Change the last bit of a file."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
