"""The table of ratios in docs/benchmarks.md: `make bench`, on a quiet machine, from the root of the project.

    python -m benchmarks [lab|speed|portable|mapped|beyond_memory|parallel|stages|resume_points ...]

Each row is a ratio measured in one run with its sides in turn: the median of at least 3 rounds, and their least and most.
"""

import importlib
import platform
import sys

import torch

from samebits.runtime import environment

MODULES = ("lab", "speed", "portable", "mapped", "beyond_memory", "parallel", "stages", "resume_points")


def main() -> None:
    """Measure and print the chosen parts, or all."""
    if unknown := set(sys.argv[1:]) - set(MODULES):
        sys.exit(f"no bench is called {', '.join(sorted(unknown))}: there are {', '.join(MODULES)}")
    machine = environment(torch.device("cpu"), torch.get_num_threads())
    print(f"{machine['processor']['model']}, {machine['onednn_isa']}, {torch.get_num_threads()} cores, ", end="")
    print(f"Python {platform.python_version()}, torch {torch.__version__}\n")
    print("| | measured | against | ratio | least to most |\n|---|---|---|---|---|", flush=True)
    for name in sys.argv[1:] or MODULES:
        for row in importlib.import_module(f"benchmarks.{name}").rows():
            print(row, flush=True)


if __name__ == "__main__":
    main()
