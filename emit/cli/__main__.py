"""``python -m emit.cli``: the command line, where the program ``emit`` is not on the path."""

import sys

from emit.cli import main

sys.exit(main())
