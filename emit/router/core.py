"""
The router: declares nodes, and sends results on to the nodes that hear them.

A message's way: ``__call__`` -> ``route`` -> ``send_on`` chooses the destinations, and gives the
carrier (carrier.py) a message for each -> the carrier brings it to the node, and hands the results
to ``send_on`` again.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from emit import context
from emit.errors import GraphError
from emit.graph import ENTRY, Graph, Subscription, subscriptions
from emit.message import Message, check_fields, has_types, make_fit
from emit.node import (
    Declaration,
    Declarations,
    Node,
    awaiting,
    get_name,
    look_like,
    make_awaitable,
    make_handler,
)
from emit.observe.facts import Observer
from emit.observe.logs import get_logger
from emit.observe.observers import Observers
from emit.router.carrier import Carrier, Runner
from emit.router.options import (
    CELERY,
    OPTIONS,
    QUEUED,
    RQ,
    call_as_task,
    check_queued,
    check_switch,
    take_many,
    unknown_options,
)
from emit.router.watch import Watch
from emit.text import nearest

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from emit.typing import Decorator, Fields, NodeOptions, Origins

AnyObserver = TypeVar("AnyObserver", bound=Observer)


class Router:
    """
    Keeps the nodes of a graph and carries messages along their subscriptions, in this process.

    All parameters are optional.

    Args:
        message_class: The class of the nodes' messages: :class:`emit.message.Message` or a
            subclass.
        node_modules: Names of modules that contain nodes. They are imported when the first
            message is routed, so that they may import the router.
        node_package: The package that relative names in *node_modules* start from.
        redact: Names of fields, at any depth of a message, that :mod:`emit.observe.tap` and the
            page of ``emit ui`` hide, whatever their case.

    Attributes:
        routes: ``{origin: {destination, ...}}``, for the current subscriptions.
        names: Every node's name.
        regexes: ``{node: [pattern, ...]}``, each node's subscriptions.
        ignore_regexes: The same for its ignores.
        fields: ``{node: fields}``, each as it was given.
        types: ``{node: declaration}``, for each node whose fields have types.
        functions: ``{node: callable}``.
        resolved_node_modules: The imported modules; empty before the import.
        routing_enabled: False after ``disable_routing()``.

    Example:
        >>> router = Router()
        >>> @router.node(("word",), entry_point=True, name="words")
        ... def words(msg):
        ...     yield from msg.text.split()
        >>> words(text="the rain")
        ({'word': 'the'}, {'word': 'rain'})
    """

    def __init__(
        self,
        message_class: type[Message] | None = None,
        node_modules: Sequence[str] | None = None,
        node_package: str | None = None,
        redact: Iterable[str] = (),
    ) -> None:
        if isinstance(redact, str):
            raise GraphError(f"redact must be a list of names, such as [{redact!r}]")
        if isinstance(node_modules, str):
            raise GraphError(f"node_modules must be a list of names, such as [{node_modules!r}]")
        self.message_class = message_class or Message
        if not issubclass(self.message_class, Message):
            raise GraphError(f"message_class must be a subclass of Message, not {message_class!r}")
        self.node_modules = list(node_modules or [])
        self.node_package = node_package
        self.resolved_node_modules: list[Any] = []
        self.fields: dict[str, Sequence[str]] = {}
        self.types: dict[str, Any] = {}
        self.functions: dict[str, Callable[..., Any]] = {}
        self.routing_enabled = True
        self.logger = get_logger("emit")
        self._graph = Graph()
        self._nodes: dict[str, Node] = {}
        self._declarations = Declarations()
        self._logged: set[tuple[str, str]] = set()
        self._has_warned = False
        self._lock = threading.RLock()  # guards everything that registration writes
        self._observers = Observers(redact)
        self._runner = Runner(self, self._graph, self._nodes, Watch(self._observers, "process"))
        self._carrier: Carrier = self._runner
        self.logger.debug("initialized %s", type(self).__name__)

    # -- calling ---------------------------------------------------------------------------

    def __call__(self, /, **kwargs: Any) -> None:
        """
        Route a message to all nodes marked as entry points.

        Takes keyword arguments only. A node also takes a single dictionary.

        Raises:
            Exception: Whatever a node raised, with a note that names the node. Messages
                not yet delivered are dropped.
        """
        self.logger.info("received a message for the entry points")
        self.route(ENTRY, self.message_class(kwargs))
        routes = self._graph.routes
        if routes is not None and not routes.get(ENTRY) and not self._has_warned:
            self._has_warned = True
            self.logger.warning(
                "this router has no entry point, so the message went nowhere; "
                "mark a node with entry_point=True"
            )

    async def acall(self, /, **kwargs: Any) -> None:
        """
        Route a message, as calling the router does, without blocking the running event loop.

        The call runs in a thread of its own, with the caller's context variables. Asynchronous
        handlers run on the caller's loop. If the caller is cancelled, programs are told, so that
        they end their calls, asynchronous handlers are cancelled, and no other message is
        delivered. A Python function that is at work can't be stopped: the cancellation waits for
        its end.

        Raises:
            Exception: As calling the router.

        Example:
            >>> import asyncio
            >>> router = Router()
            >>> @router.node((), entry_point=True, name="show")
            ... async def show(msg):
            ...     print(msg.text)
            >>> asyncio.run(router.acall(text="the rain"))
            the rain
        """
        await awaiting().call(self, **kwargs)

    def get_message_from_call(self, /, *args: Any, **kwargs: Any) -> Message:
        """
        Make the message of a node's call from a single dictionary (or message), or from keywords.

        Raises:
            TypeError: Called in any other way.
        """
        if len(args) == 1 and not kwargs and isinstance(args[0], (dict, Message)):
            return self.message_class(args[0] if isinstance(args[0], dict) else vars(args[0]))
        if kwargs and not args:
            return self.message_class(kwargs)
        raise TypeError("Pass either keyword arguments or a dictionary argument")

    # -- declaring -------------------------------------------------------------------------

    def node(
        self,
        fields: Fields,
        subscribe_to: Origins | None = None,
        entry_point: bool = False,
        ignore: Origins | None = None,
        **wrapper_options: Unpack[NodeOptions],
    ) -> Decorator:
        """
        Decorate a function, a class or a callable object to make it a node.

        Args:
            fields: The names of its results' fields, in order. Types may stand beside them: a
                dictionary such as ``{"word": str}``, a dataclass, a TypedDict, a Struct of msgspec
                or a model of pydantic.
            subscribe_to: The nodes it hears: a name or regular expression, a compiled pattern, a
                node, or a list, tuple or set of these. A string that is a node's name means
                that node only; any other is searched in every name.
            entry_point: Also hear calls of the router itself.
            ignore: The nodes it does not hear after all; the same forms.
            **wrapper_options: ``name``: a name other than ``module.function``.
                ``stream=True``: send each result on as it comes. Otherwise a handler that fails
                half-way sends nothing. ``pass_through=True``: each result also has the fields of
                the message that it does not name. ``validate=True``: convert each result to the
                types of the fields, and the message to the class that the handler's parameter is
                annotated with, if any. The options of the handler's class (see
                ``ShellNode``) go there, all others to ``wrap_node``.

        Returns:
            The decorator. It returns a function that takes one dictionary, or keyword
            arguments, runs the node, routes its results, and returns them: a
            dictionary, a tuple of them (from a generator), or ``NoResult``. ``await
            function.acall(...)`` does the same as :meth:`acall`. ``async for result in
            function.astream(...)`` takes the results as they come, and a node with ``stream=True``
            makes the next one when it is asked for.

        Raises:
            GraphError: The declaration is wrong. Nothing was registered.

        Example:
            >>> router = Router()
            >>> @router.node(["quotient", "remainder"], name="divide")
            ... def divide(msg):
            ...     return msg.numer // msg.denom, msg.numer % msg.denom
            >>> divide(numer=7, denom=3)
            {'quotient': 2, 'remainder': 1}
        """
        if callable(fields) and not has_types(fields):
            raise GraphError("write @router.node(fields, ...): it has to be told the node's fields")

        def outer(func: Any) -> Any:
            options: dict[str, Any] = {**wrapper_options}
            own = {key: options.pop(key) for key in OPTIONS if key in options}
            wrapped = self.wrap_as_node(func, **own)
            node = wrapped.node  # type: ignore[attr-defined]
            self._declarations.check(node.name, Declaration.of_caller())
            node.configure(options)
            wrapped = self.wrap_node(wrapped, options)
            self.register(node.name, wrapped, fields, subscribe_to, entry_point, ignore)
            self._adopt(node)
            make_awaitable(wrapped, node.name)
            return wrapped

        return outer

    def wrap_as_node(
        self,
        func: Any,
        name: str | None = None,
        stream: bool = False,
        pass_through: bool = False,
        validate: bool = False,
    ) -> Callable[..., Any]:
        """
        Wrap a function, class or callable object as a node, without registering it.

        Returns:
            A function as :meth:`node` describes it, with *func*'s name and documentation.
        """
        handler = make_handler(func)
        name = self.get_name(func) if name is None else name
        check_switch(name, "stream", stream)
        check_switch(name, "pass_through", pass_through)
        check_switch(name, "validate", validate)
        if validate:
            handler = _validation().taking(name, handler)
        node = Node(
            name=name,
            handler=handler,
            fit=partial(self.wrap_result, name),
            stream=stream,
            pass_through=pass_through,
        )
        if validate:
            node.convert = dict  # until the node is registered, and its types are known

        def function(*args: Any, **kwargs: Any) -> Any:
            return self._runner.call(node, self.get_message_from_call(*args, **kwargs))

        look_like(function, func, node.name)
        function.node = node  # type: ignore[attr-defined]
        node.function = function
        return function

    def wrap_node(self, node: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
        """
        Do additional work on a wrapped node, in subclasses.

        Args:
            node: The wrapped function.
            options: The arguments of :meth:`node` that this class does not know.

        Returns:
            The function that replaces the node.

        Raises:
            GraphError: In this class: no router takes the option, or its value is wrong.
        """
        wrapped = getattr(node, "node", None)
        known: tuple[str, ...] = OPTIONS
        if isinstance(wrapped, Node) and options:
            self._do_without_queue(wrapped, options)
            known = (*OPTIONS, *QUEUED, *CELERY, *RQ, *wrapped.seam.options)
        if options:
            raise GraphError(unknown_options(get_name(node), type(self).__name__, options, known))
        return node

    def _do_without_queue(self, node: Node, options: dict[str, Any]) -> None:
        """
        Take the options of a queue's router, so that its nodes can be tried without the queue.

        They do nothing here, except those that change the handler's arguments.
        """
        given = {key: options.pop(key) for key in (*QUEUED, *CELERY, *RQ) if key in options}
        check_queued(node.name, given, foreign=node.foreign)
        if given.get("many"):
            take_many(node)
        if given.get("celery_task") is not None:
            call_as_task(node, given["celery_task"])

    def get_name(self, func: Any) -> str:
        """
        Return the name of a function: its ``name`` if it has one, else ``module.name``.

        Example:
            >>> import json
            >>> Router().get_name(json.dumps)
            'json.dumps'
        """
        return get_name(func)

    def register(
        self,
        name: str,
        func: Callable[..., Any],
        fields: Iterable[str] | Mapping[str, Any] | type,
        subscribe_to: Any,
        entry_point: bool,
        ignore: Any,
    ) -> None:
        """
        Register a named function in the graph. The arguments are those of :meth:`node`.

        Raises:
            GraphError: Another node has that name (the text says where), or an argument is
                wrong. Nothing was registered.
        """
        checked = check_fields(name, fields)
        node = self._node_of(func)
        if isinstance(node, Node) and node.convert and checked and not has_types(fields):
            raise GraphError(
                f'"{name}": validate=True needs the types of its fields, as in '
                f'{{"{checked[0]}": str}}'
            )
        # A generator of names can be read only once, and nothing is written before all is checked.
        subscribe_to, ignore = _kept(subscribe_to), _kept(ignore)
        self._read(subscribe_to, name)
        ignores = self._read(ignore, name)
        place = Declaration.of_caller()
        with self._lock:
            if self._declarations.claim(name, place):
                self._graph.clear(name)
            self.fields[name] = copy(fields) if isinstance(fields, Sequence) else checked
            self.types.pop(name, None)
            if has_types(fields):
                self.types[name] = fields
            self.functions[name] = func
            replaced = self._nodes.pop(name, None)
            if isinstance(node, Node) and node.name == name:
                self._adopt(node)
            self.register_route(subscribe_to, name)
            if ignores:
                self.register_ignore(ignore, name)
            if entry_point:
                self.add_entry_point(name)
        if replaced is not None:
            replaced.seam.close()
        self.logger.debug('registered "%s"', name)

    def _node_of(self, func: Any) -> Any:
        return getattr(func, "node", None)

    def _adopt(self, node: Node) -> None:
        self._nodes[node.name] = node
        node.seam.observe(self._observers)
        node.fields = tuple(self.fields[node.name])
        node.fit = partial(self.wrap_result, node.name)
        types = self.types.get(node.name)
        if type(self).wrap_result is Router.wrap_result:  # quicker than a look-up for each result
            node.fit = make_fit(node.name, node.fields, foreign=node.foreign, of=types)
        if node.convert is not None and types is not None:
            node.convert = _validation().converter(node.name, node.fields, types)
            node.fit = _validation().converted(node.fit, node.convert)

    def register_route(self, origins: Any, destination: str) -> list[Any]:
        """
        Subscribe *destination* to *origins* as well.

        Args:
            origins: As ``subscribe_to`` in :meth:`node`.
            destination: The subscriber's name.

        Returns:
            The patterns, as in ``regexes[destination]``.
        """
        with self._lock:
            wishes = self._graph.subscribe(destination, self._read(origins, destination))
        return [wish.pattern for wish in wishes]

    def register_ignore(self, origins: Any, destination: str) -> list[Any]:
        """Make a node ignore *origins*: the opposite of :meth:`register_route`."""
        with self._lock:
            wishes = self._graph.ignore(destination, self._read(origins, destination))
        return [wish.pattern for wish in wishes]

    def _read(self, wish: Any, node: str) -> list[Subscription]:
        return subscriptions(wish, self.get_name, node=node)

    def add_entry_point(self, destination: str) -> set[str]:
        """Add a node that hears calls of the router. Return all that do."""
        with self._lock:
            self._graph.enter(destination)
            return set(self._graph.entries)

    def regenerate_routes(self) -> None:
        """
        Make the routes from the current subscriptions.

        No caller needs this: it happens by itself before the next message.
        """
        self._resolve_routes()

    @property
    def routes(self) -> dict[str, set[str]]:
        routes = self._graph.routes
        if routes is None:
            routes = self._resolve_routes()
        return {origin: set(heard) for origin, heard in routes.items()}

    @property
    def names(self) -> set[str]:
        return set(self._graph.names)

    @property
    def regexes(self) -> dict[str, list[Any]]:
        return {name: [w.pattern for w in wishes] for name, wishes in self._graph.hears.items()}

    @property
    def ignore_regexes(self) -> dict[str, list[Any]]:
        return {name: [w.pattern for w in wishes] for name, wishes in self._graph.ignores.items()}

    def _resolve_routes(self) -> dict[str, tuple[str, ...]]:
        with self._lock:
            routes = self._graph.resolve()
            if self.logger.isEnabledFor(logging.INFO):
                self._log_routes(routes)
        return routes

    def _log_routes(self, routes: dict[str, tuple[str, ...]]) -> None:
        edges = {(origin, heard) for origin, hearing in routes.items() for heard in hearing}
        for origin, destination in sorted(edges - self._logged):
            self.logger.info('added route "%s" -> "%s"', origin, destination)
        self._logged = edges

    # -- modules and switches --------------------------------------------------------------

    def resolve_node_modules(self) -> list[Any]:
        """
        Import the modules given as *node_modules*, once.

        Raises:
            Exception: An import raised it. All modules then count as not imported, and the next
                message tries again.
        """
        # Not under the lock: a thread that imports one of them holds its import lock, and waits
        # for ours when it gets to a node.
        if not self.resolved_node_modules:
            self.resolved_node_modules = [
                importlib.import_module(module, self.node_package) for module in self.node_modules
            ]
        return self.resolved_node_modules

    def disable_routing(self) -> None:
        """Send nothing on from now on, as in a unit test of one node."""
        self.routing_enabled = False

    def enable_routing(self) -> None:
        """Undo :meth:`disable_routing`."""
        self.routing_enabled = True

    @contextmanager
    def routing_disabled(self) -> Iterator[None]:
        """
        Send nothing on inside a ``with`` block.

        Example:
            >>> router = Router()
            >>> with router.routing_disabled():
            ...     router.routing_enabled
            False
        """
        before, self.routing_enabled = self.routing_enabled, False
        try:
            yield
        finally:
            self.routing_enabled = before

    def close(self) -> None:
        """
        Stop the processes of foreign nodes. A later message starts others.

        ``with router:`` does it at the end of the block, and every program does it at its end.
        """
        for node in self._nodes.values():  # so that all processes stop at the same time
            node.seam.begin_close()
        for node in self._nodes.values():
            node.seam.close()
        self._observers.flush()

    def reload(self, node: str | None = None, *, force: bool = False) -> list[Any]:
        """
        Have the present version of programs take over from processes that were started before an
        edit. No message is lost, and none is handled by two versions.

        For each program one process of the new version is started first. New messages go to it, and
        the old processes finish what they have. A program with the version that runs already is
        left as it is, and so is a node that has had no message.

        Args:
            node: The name of one node. None: all nodes whose programs are long-lived.
            force: Also replace processes that run the present version.

        Returns:
            The outcome for each program; see :class:`emit.host.swap.Swapped`.

        Raises:
            StartError, StartTimeout: The new version can't be started. Its old processes go on, and
                the other programs have been reloaded.
            GraphError: There is no such node.

        Example:
            >>> router.reload("count")  # doctest: +SKIP
            [Swapped(nodes=('count',), before=('91ab2c34de01',), version='6b1f0a7c93de', ...)]
        """
        if node is not None and node not in self._nodes:
            raise GraphError(f'there is no node "{node}"{nearest(node, self._nodes)}')
        chosen = {name: n.seam for name, n in self._nodes.items() if node in (None, name)}
        done: list[Any] = importlib.import_module("emit.reload").reload(chosen, force=force)
        return done

    def __enter__(self) -> Self:
        for node in self._nodes.values():
            node.seam.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Return the graph for IPython and notebooks, as :func:`emit.notebook.bundle`."""
        shown: dict[str, str] = importlib.import_module("emit.notebook").bundle(self)
        return shown

    def observe(self, observer: AnyObserver) -> AnyObserver:
        """
        Have *observer* told every fact about this router's messages, and about the processes of its
        programs: see :mod:`emit.observe`.

        The observer is called at once, in the thread where the fact happens, so it must be quick
        and must not wait. If it raises an exception, the exception is logged and the observer is
        switched off. The message goes on. An observer stays in processes that are forked later, as
        those of a Celery worker.

        Args:
            observer: Called with one fact. To a :class:`emit.observe.Started` or
                :class:`emit.observe.Sent` it may return a mapping with ``traceparent`` and
                ``tracestate``: the W3C trace context for this run or message.

        Returns:
            *observer*, so that this can be a decorator.

        Raises:
            TypeError: *observer* can't be called.

        Example:
            >>> from emit.observe import Finished
            >>> router = Router()
            >>> @router.node(["word"], entry_point=True, name="words")
            ... def words(msg):
            ...     yield from msg.text.split()
            >>> @router.observe
            ... def show(fact):
            ...     if isinstance(fact, Finished):
            ...         print(fact.node, fact.results)
            >>> router(text="the rain")
            words 2
        """
        self._observers.add(observer)
        return observer

    def unobserve(self, observer: Observer) -> None:
        """Undo :meth:`observe`."""
        self._observers.remove(observer)

    @property
    def redact(self) -> frozenset[str]:
        """The names of the fields that are hidden from everybody who looks at messages."""
        return self._observers.redact

    # -- the way of a message --------------------------------------------------------------

    def route(self, origin: str, message: Any) -> None:
        """
        Dispatch a message to all subscribers of *origin*.

        Inside a handler, the deliveries wait until the handler has ended. Otherwise they are made,
        with all their consequences, when this returns.

        Args:
            origin: Name of the node that the message comes from.
            message: A message, or a dictionary of its fields. An ``_origin`` in it is ignored.
        """
        fields = dict(message if isinstance(message, dict) else vars(message))
        fields.pop("_origin", None)
        self._runner.do(self.send_on, origin, (fields,))

    def send_on(self, origin: str, results: Sequence[dict[str, Any]]) -> None:
        """
        Dispatch the results of a node to all its subscribers. For Emit's own use: the results are
        not copied.
        """
        if self._observers.taps:
            self._observers.show_results(context.run.get(), origin, results)
        if self.node_modules and not self.resolved_node_modules:
            self.resolve_node_modules()
        if not self.routing_enabled:
            return
        routes = self._graph.routes
        if routes is None:
            routes = self._resolve_routes()
        # One destination after the other, so that its messages stand together for call_many.
        carry = self._carrier.carry if self._dispatches_itself() else self._dispatch_each
        for destination in routes.get(origin, ()):
            carry(origin, destination, results)

    def dispatch(self, origin: str, destination: str, message: Any) -> Any:
        """
        Deliver a message to one node: by the work list of this thread, or by the queue.

        A subclass can send it elsewhere, typically as ``func(_origin=origin, **message)``. Every
        message then passes through this method.

        Args:
            origin: Name of the node that it comes from.
            destination: Name of the node that it goes to.
            message: The message.

        Raises:
            GraphError: There is no node *destination*.
            EncodeError: The queue can't carry a value of the message unchanged.
            DispatchError: The queue refused the message.
        """
        fields = message if isinstance(message, dict) else dict(vars(message))
        return self._carrier.dispatch(origin, destination, fields)

    @contextmanager
    def dispatching(self, dispatch: Callable[[str, str, Any], Any]) -> Iterator[None]:
        """Call *dispatch* instead of the router's own inside a ``with`` block."""
        mine = vars(self)
        before = mine.get("dispatch", self)
        mine["dispatch"] = dispatch
        try:
            yield
        finally:
            del mine["dispatch"]
            if before is not self:
                mine["dispatch"] = before

    def sends_here(self) -> bool:
        """
        Return True if :meth:`send_on` only looks up the routes: the nodes run in this process, no
        subclass overrides ``dispatch``, and all modules are imported.
        """
        is_resolved = bool(self.resolved_node_modules or not self.node_modules)
        return is_resolved and self._carrier is self._runner and self._dispatches_itself()

    def _dispatches_itself(self) -> bool:
        """Return True if neither a subclass nor this object overrides :meth:`dispatch`."""
        return getattr(self.dispatch, "__func__", None) is Router.dispatch

    def _dispatch_each(self, origin: str, destination: str, results: Any) -> None:
        for result in results:
            self.dispatch(origin, destination, self.message_class(result))

    def wrap_result(self, name: str, result: Any) -> dict[str, Any]:
        """
        Return one result of a node as a dictionary of its fields; see `emit.message.make_fit`.

        Raises:
            ValueError: The name has no associated fields.
            ResultError: The result does not fit them.
        """
        fields = self.fields.get(name)
        if fields is None:
            raise ValueError(f'"{name}" has no associated fields')
        node = self._nodes.get(name)
        foreign = node is not None and node.foreign
        return make_fit(name, tuple(fields), foreign=foreign, of=self.types.get(name))(result)


def _validation() -> Any:
    """
    Return the module that converts values, imported on first use: it needs msgspec.

    Raises:
        GraphError: msgspec is not installed.
    """
    return importlib.import_module("emit.typed.validation")


def _kept(wish: Any) -> Any:
    """Return a subscription that can be read twice."""
    return list(wish) if isinstance(wish, Iterator) else wish
