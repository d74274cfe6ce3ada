"""What ends a command: a line on stderr and an exit code."""

from __future__ import annotations

from emit.errors import EmitError

USAGE = 64  #: The exit code of a wrong command line, EX_USAGE of sysexits.h.
INTERRUPTED = 130  #: Ended by Ctrl-C: 128 and SIGINT, as a shell has it.
UNHEARD = 141  #: Nobody reads the output any more: 128 and SIGPIPE.


class CommandError(EmitError):
    """A command can't do what it was asked for. Its text is all that the user sees of it."""

    code = 2


class TargetError(CommandError):
    """What the command line names is not there."""


class UsageError(CommandError):
    """The command line is wrong, in a way that its parser can't see."""

    code = USAGE
