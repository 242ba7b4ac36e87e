#!/usr/bin/env bash
# Run by Snakemake in the new conda environment, from the folder it works in: this repository.
set -euo pipefail
[ -f constraints.txt ] || { echo "run Snakemake in the repository's folder: no constraints.txt here" >&2; exit 2; }
python -m pip install --constraint constraints.txt --editable '.[workflow]'
