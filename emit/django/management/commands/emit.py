"""``manage.py emit COMMAND ...``: the commands of Emit, with the project's settings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from emit.cli import main


class Command(BaseCommand):
    """Hands the command line to Emit, which has its own help and exit codes."""

    help = "Run a command of Emit, such as: manage.py emit graph mysite.celery.router"
    requires_system_checks: Sequence[str] = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Take all words as they are."""
        parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND ...")

    def run_from_argv(self, argv: Sequence[str]) -> None:
        """Run the command, and exit with its code."""
        sys.exit(main(argv[2:]))

    def handle(self, *_: Any, **options: Any) -> None:
        """Run the command for ``call_command("emit", ...)``."""
        code = main(options["words"])
        if code:
            raise CommandError(f"emit ended with exit code {code}", returncode=code)
