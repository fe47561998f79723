# SPDX-License-Identifier: MIT
"""The command line, `valkka-async`: the entry point. The commands and their options are in commands.py."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that the arguments name, and exit."""
    try:
        from valkka_async.cli.commands import main as run

        run()  # typer imports some of what it needs only now
    except ModuleNotFoundError as e:
        from valkka_async.extras import advice

        if not (said := advice(e.name, "the command")):
            raise
        sys.exit(f"valkka-async: {said}")
