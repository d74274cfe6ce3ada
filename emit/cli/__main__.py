"""``python -m emit.cli``: the command line, for a machine without ``emit`` on its path."""

import sys

from emit.cli import main

sys.exit(main())
