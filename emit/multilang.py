"""
Nodes in other languages: the door between the graph and the host.

To the graph, a :class:`ShellNode` is a handler like any other: a message in, results out.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from inspect import signature
from itertools import takewhile
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

from emit.errors import GraphError
from emit.forks import at_fork
from emit.host.lines import logger_of
from emit.host.settings import Codec, Mode, Settings, check
from emit.host.system.command import resolve
from emit.host.system.program import DEFAULT, Limits, Program, environment
from emit.node import Handler
from emit.text import misspelt

if TYPE_CHECKING:
    from logging import Logger

    from emit.host.calls import Calls
    from emit.host.host import AnyHost
    from emit.host.language.runtime import Source
    from emit.host.process import Process
    from emit.letter import DeadLetter
    from emit.observe.observers import Observers

__all__ = ["Limits", "ShellNode"]

#: The settings that go to the host unchanged.
_SETTINGS = tuple(field.name for field in fields_of(Settings))

#: The other options of a ShellNode that ``router.node`` takes.
_OWN = ("command", "file", "cwd", "env", "pass_env", "config", "program_node", "dead_letter")

#: Bytes of a config in JSON. Linux takes 128 KiB for a variable of the environment.
_MAX_CONFIG = 65_536

#: The methods that a subclass may override.
_OVERRIDDEN = ("get_command", "get_cwd", "deserialize")


class ShellNode(Handler):
    """
    A node whose handler is a program in any language.

    Subclass it, give it a ``file`` or a ``command``, and decorate it as a class or as an
    instance. Every attribute below can also be given to ``router.node(...)``, and so can every
    setting of :class:`emit.host.settings.Settings`. docs/knobs.md describes those with a default.

    Attributes:
        command: The program and its arguments: a list, or a string that is split as a shell
            would split it. No shell ever sees it.
        file: A file to run instead of a command, in any language that docs/runtimes.md lists. One
            of its functions is the node: ``"nodes/words.rb"``, or ``"nodes/words.rb:split"`` to
            name the function. The path is relative to ``cwd``. The program is long-lived, unless
            ``mode`` is "oneshot".
        cwd: The directory to start the program in; None: the current one.
        env: Environment variables to add.
        pass_env: Names, or patterns such as ``LC_*``, of variables to pass on from this process's
            environment. No other variable is passed on, so that no secret leaks by chance.
        config: Values that the program's code may read, such as an address or a password: a map,
            as in a message. A program with an SDK reads it as the ``config`` of its context; any
            other one finds it, in JSON, in the variable ``EMIT_CONFIG``. Emit shows it nowhere.
        program_node: The node's name in the program, if the program has several nodes. All nodes
            of one program with the same ``env`` and ``config`` share its processes.
        dead_letter: Called with a :class:`emit.letter.DeadLetter` when the last attempt
            at a message has failed; the message then has no results. None: the failure is
            raised, with the letter as its attribute ``letter``.

    Raises:
        GraphError: By declaring it: a setting can't work.
        NodeError: By calling it: the program's author is at fault; see :mod:`emit.errors`.
        HostError: By calling it: the program, its pipe or its pool failed.

    Example:
        >>> from emit import Router
        >>> router = Router()
        >>> @router.node(("n",), name="count")
        ... class Count(ShellNode):
        ...     command = ["jq", "-c", "range(.count)"]
        >>> Count(count=2)
        ({'n': 0}, {'n': 1})
    """

    #: Gives messages to the program: see :mod:`emit.foreign`.
    _handler: Handler | None = None
    _observers: Observers | None = None

    #: A program returns a tuple as a list; both mean the same.
    foreign = True

    #: The options that ``router.node`` takes for it.
    options = (*_OWN, *_SETTINGS)

    command: str | Sequence[str] = ()
    file: str | os.PathLike[str] | None = None
    cwd: str | os.PathLike[str] | None = None
    env: Mapping[str, str] = {}  # read only; subclasses replace it
    pass_env: Sequence[str] = DEFAULT
    config: Mapping[str, Any] = {}  # read only; subclasses replace it
    program_node: str | None = None
    dead_letter: Callable[[DeadLetter], Any] | None = None

    mode: Mode = Settings.mode
    codec: Codec = Settings.codec
    timeout: float = Settings.timeout
    start_timeout: float = Settings.start_timeout
    acquire_timeout: float | None = Settings.acquire_timeout
    size: int = Settings.size
    min_idle: int = Settings.min_idle
    window: int = Settings.window
    max_attempts: int = Settings.max_attempts
    max_retries: int | None = Settings.max_retries
    max_calls: int | None = Settings.max_calls
    max_age: float | None = Settings.max_age
    max_rss: int | None = Settings.max_rss
    idle_timeout: float | None = Settings.idle_timeout
    jitter: float = Settings.jitter
    max_frame: int = Settings.max_frame
    max_results: int = Settings.max_results
    max_result_bytes: int = Settings.max_result_bytes
    cancel_grace: float = Settings.cancel_grace
    stop_grace: float = Settings.stop_grace
    term_grace: float = Settings.term_grace
    backoff: float = Settings.backoff
    backoff_max: float = Settings.backoff_max
    breaker_failures: int = Settings.breaker_failures
    breaker_window: float = Settings.breaker_window
    breaker_open: float = Settings.breaker_open
    limits: Limits = Settings.limits

    if TYPE_CHECKING:
        # The decorated class is a node, which is called with a message. mypy takes it for the class
        # all the same. A queue's node has more methods.
        acall: ClassVar[Callable[..., Any]]
        astream: ClassVar[Callable[..., Any]]
        delay: ClassVar[Callable[..., Any]]
        enqueue: ClassVar[Callable[..., Any]]
        apply_async: ClassVar[Callable[..., Any]]

        def __new__(cls, *args: Any, **fields: Any) -> Any: ...

        name: str
        __name__: str
        stream: bool
        logger: Logger
        _settings: Settings | None
        _source: Source | None  # what its file is, set on first use

    else:  # mypy would take it for the way to call the node

        def __init__(self):
            self.name = f"{type(self).__module__}.{type(self).__name__}"
            self.__name__ = type(self).__name__  # functools.wraps needs it
            self.stream = False
            self.logger = logger_of(self.name)
            self._settings = self._source = None

    # -- to override -----------------------------------------------------------------------

    def get_command(self) -> list[str]:
        """Return the command as a list; for a file, the command of its language's launcher."""
        if self.file is not None:
            return list(self._launched().argv)
        return shlex.split(self.command) if isinstance(self.command, str) else list(self.command)

    def get_cwd(self) -> str | os.PathLike[str] | None:
        """Return the directory to start the program in; None means the current one."""
        return self.cwd

    def deserialize(self, msg: str | bytes) -> Any:
        """
        Read one line of a one-shot program's output. Override it for programs that write
        something other than JSON, such as bare text.

        Raises:
            ValueError: The line is not JSON.
        """
        from emit.host.wire.values import from_json

        return from_json(msg.encode() if isinstance(msg, str) else msg)

    def __call__(self, msg: Any) -> Iterator[Any]:
        """Give the program one message. Yield its results."""
        results: Iterator[Any] = (self._handler or self._make_handler())(msg)
        return results

    @property
    def takes_many(self) -> bool:
        """True unless a subclass overrides ``__call__``."""
        return type(self).__call__ is ShellNode.__call__

    # -- for the command line --------------------------------------------------------------

    @property
    def language(self) -> str:
        """The language of its program, such as ``ruby``, or the program's name, such as ``jq``."""
        from emit.host.language.runtime import language_of

        if self.file is not None:
            return self._located().runtime.name
        return language_of(self.get_command())

    @property
    def declared_size(self) -> int | None:
        """The ``size`` that its author set, or None. The default depends on the machine."""
        mine = takewhile(lambda cls: cls is not ShellNode, type(self).__mro__)
        declared = "size" in vars(self) or any("size" in vars(cls) for cls in mine)
        return self.size if declared and self.mode != "oneshot" else None

    def find(self) -> Program:
        """
        Return the program to start, with the full path of its command.

        Raises:
            StartError: There is no such command.
        """
        return resolve(self._program())

    def start(self) -> Process:
        """
        Start one process outside of its pool, to inspect it. The caller has to end it.

        Raises:
            StartError, StartTimeout: The process can't be started, or it speaks no protocol.
        """
        from emit.host.process import Process

        return Process.start(self._program(), self._settings or self._make_settings())

    def calls_on(self, host: AnyHost, **changes: Any) -> Calls:
        """Return the node's calls on processes of *host*, with *changes* to its settings."""
        return host.calls(
            self.name,
            self._program,
            replace(self._settings or self._make_settings(), **changes),
            program_node=self._program_node(),
            shared=self.program_node is not None,
            dead_letter=self.dead_letter,
            observers=() if self._observers is None else (self._observers,),
        )

    # -- for the router --------------------------------------------------------------------

    def call_many(self, messages: Iterable[Any]) -> Generator[Any, None, None]:
        """
        Give the program many messages. A long-lived program gets them pipelined.

        Yields:
            For each message, in order, a list of its results or the exception that stands
            for them.
        """
        return (self._handler or self._make_handler()).call_many(messages)

    def configure(self, name: str, options: dict[str, Any], *, stream: bool) -> None:
        """Take the node's name and the settings among *options*, and check them all."""
        if self._settings is not None and name != self.name:
            raise GraphError(f'"{name}": this object is "{self.name}" already; make another')
        self.name = name
        self.stream = stream
        self.logger = logger_of(name)
        for option in set(options).intersection(self.options):
            setattr(self, option, options.pop(option))
        self._check_program(options)
        self._settings = self._make_settings()
        self._config_text()
        self.close()
        vars(self).pop("_handler", None)  # a handler made by an earlier call has other settings

    def open(self) -> None:
        """
        Begin to start its ``min_idle`` processes, if any, before its first message.

        Raises:
            StartError: Its file can't be served.
        """
        if self.min_idle:
            (self._handler or self._make_handler()).open()

    def running(self) -> Any:
        """Return its host and its calls on it, if it has had a message and can be reloaded."""
        return None if self._handler is None else self._handler.running()

    def observe(self, observers: Observers) -> None:
        """Tell *observers* about its processes from now on."""
        self._observers = observers

    def begin_close(self) -> None:
        """Begin to stop its processes, at the same time as those of the node that closes next."""
        if self._handler is not None:
            self._handler.begin_close()

    def close(self) -> None:
        """Stop its processes. A later message starts others."""
        if self._handler is not None:
            self._handler.close()

    def _make_handler(self) -> Handler:
        """Make the handler that gives messages to the program, on the first message."""
        from emit.foreign import Declared, make_handler

        is_json = type(self).deserialize is ShellNode.deserialize
        handler = make_handler(
            Declared(
                self.name,
                self._settings or self._make_settings(),
                self.stream,
                is_file=self.file is not None,
                logger=self.logger,
                program=self._program_of_one,
                calls=self.calls_on,
                deserialize=None if is_json else self.deserialize,
                observers=() if self._observers is None else (self._observers,),
            )
        )
        # In one step, so that two threads with a first message each get the same handler.
        made: Handler = vars(self).setdefault("_handler", handler)
        return made

    # -- its program -----------------------------------------------------------------------

    def _program_of_one(self) -> Program:
        """Return the program that is started for one message."""
        program = self._program()
        chosen = self._program_node()
        # The name that hello would send: the node's own, unless its author has set another.
        named = {"EMIT_NODE": self.name, **program.env} | ({"EMIT_NODE": chosen} if chosen else {})
        return _by_env(replace(program, env=named, limits=None))

    def _program(self) -> Program:
        program = self._launched() if self.file is not None else self._bare()
        if self.file is None or type(self).get_command is not ShellNode.get_command:
            program = replace(program, argv=self._words())
        program = replace(program, limits=self.limits, config=self._config_text())
        return _by_env(program) if self.mode == "lines" else program

    def _config_text(self) -> str:
        """
        Return its config in JSON; empty if there is none.

        Raises:
            GraphError: It can't be sent. The text names the place, and never a value.
        """
        if not isinstance(self.config, Mapping):
            kind = type(self.config).__name__
            raise GraphError(f'"{self.name}": config must be a map of names to values, not {kind}')
        if not self.config:
            return ""
        from emit.host.wire.values import Encoder, Unfit

        try:
            data = Encoder().json(dict(self.config))
        except Unfit as error:
            path = f".{error.path}" if error.path else ""
            reason = error.reason.partition("; codec")[0]  # hello is in JSON, whatever the codec
            raise GraphError(f'"{self.name}": config{path}: {reason}') from None
        limit = min(_MAX_CONFIG, self.max_frame // 2)
        if len(data) > limit:
            raise GraphError(
                f'"{self.name}": config takes {len(data)} bytes in JSON, and at most {limit} are '
                f"allowed (65,536, and half of max_frame); give the name of a file in it"
            )
        return data.decode()

    def _words(self) -> tuple[str, ...]:
        command = self.get_command()
        if isinstance(command, str) or not all(isinstance(word, str) for word in command):
            raise GraphError(
                f'"{self.name}": get_command() must return a list of strings, not {command!r}'
            )
        return tuple(command)

    def _bare(self) -> Program:
        env = environment(self.env, self.pass_env)
        return Program(node=self.name, argv=(), env=env, cwd=self._cwd())

    def _cwd(self) -> str | None:
        cwd = self.get_cwd()
        return None if cwd is None else os.fspath(cwd)

    def _launched(self) -> Program:
        """
        Return the launcher that serves its file.

        Raises:
            StartError: Its language is not installed, or it can't be built: see `launch.prepare`.
        """
        from emit.host.language import launch

        return launch.prepare(self._bare(), self._located(), self.env, self.max_attempts)

    def _located(self) -> Source:
        from emit.host.language import runtime

        if self._source is None:
            assert self.file is not None
            self._source = runtime.locate(self.name, self.file, self._cwd())
        return self._source

    def _program_node(self) -> str | None:
        """Return the node's name in its program, if the node or its file names one."""
        if self.program_node is None and self.file is not None:
            return self._located().function or None
        return self.program_node

    def _make_settings(self) -> Settings:
        settings = Settings(**{name: getattr(self, name) for name in _SETTINGS})
        check(self.name, settings)
        return settings

    def _check_program(self, others: Iterable[str]) -> None:
        """
        Check the options that are not settings of the host.

        Args:
            others: The router's options for other parts; one may be a misspelt setting.

        Raises:
            GraphError: Something can't work.
        """
        if self.file is not None:
            self._check_file()
        elif type(self).get_command is ShellNode.get_command:
            self._check_command({**self._misspelt(), **misspelt(others, self.options)})
        if not isinstance(self.cwd, (str, os.PathLike, type(None))):
            raise GraphError(f'"{self.name}": cwd must be a path, not {self.cwd!r}')
        try:
            environment(self.env, self.pass_env)
        except (TypeError, ValueError) as error:
            raise GraphError(f'"{self.name}": {error}') from error
        if self.dead_letter is not None and not _takes_one(self.dead_letter):
            raise GraphError(
                f'"{self.name}": dead_letter must be a function of one argument, the letter (a '
                f"function in a class also gets self; staticmethod(function) does not)"
            )

    def _check_file(self) -> None:
        about = f'"{self.name}": file = {self.file!r}'
        if self.command:
            raise GraphError(f"{about} and command = {self.command!r}: give one of them")
        if not isinstance(self.file, (str, os.PathLike)):
            raise GraphError(f"{about}: must be a path, such as 'nodes/words.rb'")
        if self.mode == "lines":
            raise GraphError(f'{about} has no mode = "lines": its launcher speaks frames')
        self._source = None
        if type(self).get_cwd is ShellNode.get_cwd:  # else not known yet
            self._located()

    def _check_command(self, wrong: Mapping[str, str]) -> None:
        if self.command == ():
            meant = "".join(f"; is {name} meant to be {near}?" for name, near in wrong.items())
            raise GraphError(
                f'"{self.name}": neither a command nor a file is given, such as '
                f"file = 'nodes/words.rb'{meant}"
            )
        try:
            words = self.get_command()
        except (ValueError, TypeError) as error:
            raise GraphError(f'"{self.name}": command = {self.command!r}: {error}') from error
        if not words or not all(isinstance(word, str) for word in words):
            raise GraphError(
                f'"{self.name}": command must be a string or a list of strings, such as '
                f"'ruby words.rb', not {self.command!r}; or give a file, such as 'words.rb'"
            )

    def _misspelt(self) -> dict[str, str]:
        """
        Return the attributes that the author has added to the node and that look like a misspelt
        setting. An attribute that the author's own methods read is intended.
        """
        kinds = [cls for cls in type(self).__mro__ if issubclass(cls, ShellNode)]
        kinds.remove(ShellNode)
        methods = [x for cls in kinds for x in vars(cls).values() if isinstance(x, FunctionType)]
        read = {name for method in methods for name in method.__code__.co_names}
        added = set(vars(self)).union(*map(vars, kinds)) - read - set(dir(ShellNode))
        public = (name for name in added if not name.startswith("_"))
        return misspelt(public, (*self.options, *_OVERRIDDEN))


def _by_env(program: Program) -> Program:
    """Return a program that gets its config in the environment, since nobody says hello to it."""
    told = {"EMIT_CONFIG": program.config} if program.config else {}
    return replace(program, env={**program.env, **told})


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # some builtins have no signature
        return True
    return True


def _load() -> None:
    """
    Import, before a fork, the modules that each child would import again, in some workers for every
    job. Also wait for imports of other threads: in the child nobody would finish them.
    """
    import emit.foreign
    import emit.host.language.launch  # noqa: F401


at_fork("modules", before=_load)
