"""The command line: ``python -m ppl_gen demo``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ppl_gen import demo


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command in `argv`; None means the process's own arguments."""
    parser = argparse.ArgumentParser(prog="python -m ppl_gen", description="Deep generative models as programs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    about = "train two models of small digits, ask them questions, draw the answers"
    options = commands.add_parser("demo", help=about, description=about)
    options.add_argument("--backend", choices=("torch", "jax"), help="default: torch where it is installed")
    options.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture (default: out)")
    options.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    options.add_argument("--quick", action="store_true", help="a few steps only, to see that all runs")
    given = parser.parse_args(argv)
    settings = demo.QUICK if given.quick else demo.FULL
    demo.run(backend=given.backend, out=given.out, seed=given.seed, settings=settings)


if __name__ == "__main__":
    # Before torch is imported: for networks as small as the demo's its threads cost more than they give.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
