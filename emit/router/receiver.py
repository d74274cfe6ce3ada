"""
Handles a queue's deliveries in a worker: runs the node, sends its results, and decides about
failures.

The order is: count the delivery if it was delivered before, run the handler, send all results,
and only then return. The queue may forget the message when this returns. Whatever happens
earlier, the queue still has it, and a repeat sends its results with the same ids.

The queue gets a failure only as :class:`Ended`, once the dead letter is kept. After any other
fault, above all one of the Redis of counts and letters, the message waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from emit import context
from emit.context import Context, Trace
from emit.errors import EncodeError, LedgerError, Reject, Undelivered, Unreadable
from emit.exact import Inexact, to_text
from emit.letter import Cause, DeadLetter
from emit.message import Message, NoResult
from emit.node import Node
from emit.observe.logs import get_logger, marks
from emit.router.carrier import Routing, Runner, number_of
from emit.router.delivery import Decision, Plan, asks_again, judge
from emit.router.envelope import Packed, Parcel, Past, pack, read
from emit.router.sender import Outbox, Sender
from emit.router.watch import Watch, Watched
from emit.text import one_line

#: (number, results or an exception) of the messages of a batch, as they become ready.
Outcomes = Generator[tuple[int, Any], None, None]

#: Seconds between two warnings that messages of one node wait.
_QUIET = 60.0

#: The only field of an unreadable message's dead letter: the message's text. The same key of its
#: route says whether the text is whole, so that it can be sent again.
RAW = "raw"

#: Characters kept, in its dead letter, of a message that could be neither read nor kept exactly.
_SHOWN = 65536

_log = get_logger("emit")


@dataclass
class Delivery:
    """
    A queue's delivery to a worker.

    Attributes:
        id: The queue's own id of it; also the id of the message, if it is a single one.
        header: The data beside the arguments, which mark a text as Emit's.
        args, kwargs: The arguments, as they came.
        repeat: A name of this delivery, if the queue has delivered the message before without
            learning its end; otherwise empty.
        trace: The sender's W3C trace context, or None. Messages of a batch may have their own.
        queue: The name of the queue that it was taken from.
        ready: The time from which it could be delivered, in seconds since the epoch, or None.
        native: The object of the queue's library: a Celery task, an RQ job.
        bound: The handler takes *native* as its first argument.
        eager: The sender runs it at once, as in a test. It fails there.
        past: Its earlier attempts.
        origin: The node that it comes from, once it is read.
        parcel: The messages, once they are read.
        runs: The runs of the messages that observers were told of, by number.
    """

    id: str
    header: Any = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    repeat: str = ""
    trace: Trace | None = None
    queue: str = ""
    ready: float | None = None
    native: Any = None
    bound: bool = False
    eager: bool = False
    origin: str = ""
    parcel: Parcel = field(default_factory=lambda: Parcel([], []))
    runs: dict[int, Watched] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.past = Past.read(self.header)

    def read(self, node: str) -> None:
        """
        Read the messages for *node* from the arguments.

        Raises:
            Unreadable: The arguments hold no messages.
        """
        self.origin, self.parcel = read(node, self.id, self.header, self.args, self.kwargs)

    @property
    def attempt(self) -> int:
        """The number of this attempt; 1 is the first."""
        return self.past.attempts + 1

    @property
    def is_batch(self) -> bool:
        return len(self.parcel.ids) > 1

    def trace_of(self, number: int) -> Trace | None:
        """Return the trace context of one of its messages."""
        traces = self.parcel.traces
        return traces[number] if traces else self.trace

    def run_of(self, number: int) -> int:
        """Return the number of a message's run; 0: observers were told of none."""
        watched = self.runs.get(number)
        return 0 if watched is None else watched.number

    def route_of(self, number: int) -> dict[str, str]:
        """Return what the dead letter of a message needs to be sent again in the same trace."""
        trace, watched = self.trace_of(number), self.runs.get(number)
        route = {} if trace is None else trace.headers
        if self.past.first:
            route["first"] = self.past.first
        elif watched is not None and watched.trace is not None:
            route["first"] = watched.trace.traceparent
        return route


class Ended(Exception):
    """
    A message has failed for good. Its dead letter is kept, or the failure is not Emit's to handle,
    as for a task that its sender runs at once.

    Attributes:
        error: The failure, to be passed to the queue.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class Unsettled(Exception):
    """A message could neither be finished nor put back: the queue must not forget it."""


@dataclass
class Tally:
    """
    The state of a batch: the number of results, the finished messages, and the others' errors. The
    fate of messages in neither is not known, for the reason *broken*.
    """

    results: int = 0
    done: set[int] = field(default_factory=set)
    failed: dict[int, Exception] = field(default_factory=dict)
    broken: Exception | None = None


class Queue(Routing, Protocol):
    """
    The part of a queue's router that the receiver needs.

    Attributes:
        interrupts: The exceptions that cut a task off in mid-run, as for a time limit.
        exceptions: The exceptions of a handler to the queue itself, as ``task.retry()`` raises one.
        clock: Has ``time`` and ``sleep``: the module, or the clock of a test.
    """

    interrupts: tuple[type[Exception], ...] = ()
    exceptions: tuple[type[Exception], ...] = ()
    clock: Any = time

    def send(
        self,
        origin: str,
        destination: str,
        packed: Packed,
        *,
        delay: float = 0.0,
        past: Past = Past(),  # noqa: B008  # it can't be changed
    ) -> Any:
        """
        Give the queue one or several messages, as one message of its own.

        Args:
            origin: The node that they come from.
            destination: The node that they go to.
            packed: The messages.
            delay: Seconds until they are to be delivered.
            past: Their earlier attempts.

        Raises:
            GraphError: There is no node *destination*.
            DispatchError: The queue refused.
        """

    def put_back(
        self, delivery: Delivery, error: Exception, *, delay: float, past: Past, repeat: str
    ) -> NoReturn:
        """
        Make the queue deliver this again.

        Args:
            delivery: The delivery.
            error: The reason.
            delay: Seconds until the next delivery.
            past: Its earlier attempts, this delivery included.
            repeat: The name of this delivery if its end is not known; the next delivery keeps it.

        Raises:
            Exception: One of :attr:`exceptions`, which tells the queue; or the queue refused.
        """

    def bury(self, delivery: Delivery, letter: DeadLetter, *, level: int = logging.ERROR) -> None:
        """
        Keep a dead letter, and log it at *level*.

        Raises:
            LedgerError: It could not be kept.
        """

    def count(self, delivery: Delivery) -> int:
        """
        Count a repeated delivery. Return its number, 2 for the first that is counted.

        Raises:
            LedgerError: It could not be counted.
        """

    def forget(self, delivery: Delivery) -> None:
        """
        Drop the count of a delivery whose end is known. If the message ever comes again, the count
        starts anew.

        Raises:
            LedgerError: The count stays.
        """

    def wants_retry(self, delivery: Delivery, error: Exception) -> bool:
        """Return True if the task's own options ask for another attempt after *error*."""
        return False

    @contextmanager
    def as_single(self, delivery: Delivery, number: int) -> Iterator[None]:
        """
        Show one message of a batch, as its fields, to a handler that takes the queue's own task.
        """
        yield

    def tell_failed(
        self, delivery: Delivery, number: int, error: Exception, *, level: int = logging.ERROR
    ) -> None:
        """Report to the queue's monitors, and to the log, that it gave up a batch's message."""


class Receiver:
    """
    Args:
        queue: The queue, and the routes of a message's results.
        runner: Runs the nodes.
        sender: Keeps a message's results until its handling has ended.
        plans: The queue options of each node.
        around: The functions that a subclass's ``wrap_node`` has put around nodes. Each takes one
            message, and its call of the node sends the results.
        watch: Tells observers.
    """

    def __init__(
        self,
        queue: Queue,
        runner: Runner,
        sender: Sender,
        plans: Mapping[str, Plan],
        around: Mapping[str, Callable[..., Any]],
        watch: Watch,
    ) -> None:
        self._queue = queue
        self._watch = watch
        self._observers = watch.observers
        self._runner = runner
        self._sender = sender
        self._plans = plans
        self._around = around
        self._warned: dict[tuple[str, str], float] = {}  # when, by node and kind

    def call(self, node: Node, message: Message, native: Any = None) -> Any:
        """Handle a call in this process: run the node here, and give its results to the queue."""
        if native is not None:
            node = node.bound(native)
        around = self._around.get(node.name)
        if around is not None:
            return self._runner.call_inside(around, node, message)
        return self._runner.call(node, message)

    def deliver(self, node: Node, delivery: Delivery) -> Any:
        """
        Handle a delivery, and send its results.

        Returns:
            The number of results. For a single message of a node with ``return_results``: the value
            that a call would return (None for no result).

        Raises:
            Ended: A single message has failed for good.
            Unsettled: The queue has to keep the message.
            Exception: The router's ``put_back`` raises it to tell the queue.
        """
        if delivery.bound:
            node = node.bound(delivery.native)
        try:
            return self._receive(node, delivery)
        except self._queue.exceptions:
            raise
        except (Ended, Unsettled):
            raise
        except Exception as error:
            if delivery.eager:
                raise Ended(error) from error
            self._wait(node, delivery, error)

    def _receive(self, node: Node, delivery: Delivery) -> Any:
        try:
            delivery.read(node.name)
        except Unreadable as error:
            raw = {name: getattr(delivery, name) for name in ("header", "args", "kwargs")}
            if not delivery.eager and not self._queue.wants_retry(delivery, error):
                self.bury_raw(delivery, error, raw)
            raise Ended(error) from None
        plan = self._plans[node.name]
        if not delivery.repeat:
            return self._deliver(node, delivery)
        if delivery.is_batch and not plan.many:
            return self._split(node, delivery)
        limit = plan.policy.max_deliveries
        if self._queue.count(delivery) > limit:
            outcome = self._give_up(node, delivery, Undelivered(node=node.name, deliveries=limit))
        else:
            try:
                outcome = self._deliver(node, delivery)
            except Exception:  # an end of the message as well; the end of the worker is not
                self._forget(node, delivery)
                raise
        self._forget(node, delivery)
        return outcome

    def _give_up(self, node: Node, delivery: Delivery, error: Undelivered) -> Any:
        if delivery.is_batch:
            return self._split(node, delivery)
        self._bury(node, delivery, 0, error)
        self._forget(node, delivery)
        raise Ended(error)

    def _forget(self, node: Node, delivery: Delivery) -> None:
        """Forget the count of the deliveries. The results do not depend on it."""
        try:
            self._queue.forget(delivery)
        except Exception as error:
            self.say(node, "forget", "%s: %s", delivery.id, error)

    def _wait(self, node: Node, delivery: Delivery, error: Exception) -> NoReturn:
        """Put back a message whose fate could not be decided. No attempt is charged."""
        delay = self._plans[node.name].policy.wait(delivery.past.waits + 1)
        self._tell(node, delivery.id, delay, error)
        self._put_back(node, delivery, error, delay, repeat=delivery.repeat)

    def _put_back(
        self,
        node: Node,
        delivery: Delivery,
        error: Exception,
        delay: float,
        *,
        past: Past | None = None,
        repeat: str = "",
    ) -> NoReturn:
        """
        Make the queue deliver a message again.

        Args:
            past: Its earlier attempts, if this attempt is charged to it.
            repeat: The name of this delivery, if it has to be counted again.

        Raises:
            Unsettled: The queue did not take it.
        """
        is_charged = past is not None
        past = delivery.past.waited() if past is None else past
        try:
            self._queue.put_back(delivery, error, delay=delay, past=past, repeat=repeat)
        except self._queue.exceptions:
            if self._observers.each:
                for number in range(len(delivery.parcel.ids)):
                    self._tell_again(node, delivery, number, error, delay, charged=is_charged)
            raise
        except Exception as second:
            raise Unsettled(f"{error}; and it can't be put back: {second}") from second

    def _tell_again(
        self,
        node: Node,
        delivery: Delivery,
        number: int,
        error: BaseException,
        delay: float,
        *,
        charged: bool,
    ) -> None:
        """Tell observers that a message will be handled again."""
        if self._observers.each:
            about = delivery.parcel.ids[number], delivery.attempt, delivery.run_of(number)
            self._watch.put_back(node.name, *about, error, delay, charged=charged)

    def _deliver(self, node: Node, delivery: Delivery) -> Any:
        token, outer = context.current.set(None), context.run.set(context.run.get())
        try:
            if delivery.is_batch:
                return self._deliver_batch(node, delivery)
            return self._deliver_one(node, delivery)
        finally:
            context.current.reset(token)
            context.run.reset(outer)

    def _begin(self, node: Node, delivery: Delivery, number: int) -> Context:
        """Tell observers that the run of a message begins. Return the message's context."""
        known = _context(node, delivery, number)
        if not self._observers.each:
            return known
        watched = delivery.runs[number] = self._watch.begin(
            *(node.name, delivery.origin, delivery.parcel.messages[number]),
            delivery.trace_of(number),
            id=known.id,
            attempt=known.attempt,
            queue=delivery.queue,
            batch=len(delivery.parcel.ids),
            ready=delivery.ready,
            first=delivery.past.first or None,
        )
        context.run.set(watched)
        trace = watched.trace
        if trace is None:
            return known
        parent, state = trace
        return known._replace(traceparent=parent, tracestate=state or None)

    # -- a single message ------------------------------------------------------------------

    def _deliver_one(self, node: Node, delivery: Delivery) -> Any:
        context.current.set(self._begin(node, delivery, 0))
        watched = delivery.runs.get(0)
        try:
            with self._sender.sending() as outbox:
                outbox.begin(delivery.id)
                with self._shown(delivery, 0):
                    if watched is not None:
                        watched.awaits = node.name
                    outcome = self.call(node, self._message(delivery, 0))
        except BaseException as error:
            if watched is not None:
                watched.failed(error)
            if isinstance(error, self._queue.exceptions) or not isinstance(error, Exception):
                raise
            if not delivery.eager:
                if self._queue.wants_retry(delivery, error):
                    self._tell_again(node, delivery, 0, error, 0.0, charged=True)
                else:
                    self._failed(node, delivery, error)
            raise Ended(error) from error
        if watched is not None:
            watched.finished(number_of(outcome))
        if self._plans[node.name].return_results:
            return None if outcome is NoResult else outcome
        return number_of(outcome)

    def _shown(self, delivery: Delivery, number: int) -> AbstractContextManager[None]:
        return self._queue.as_single(delivery, number) if delivery.bound else nullcontext()

    def _failed(self, node: Node, delivery: Delivery, error: Exception) -> None:
        decision = self._judge(node, delivery, error)
        if decision.fate == "dead":
            self._bury(node, delivery, 0, error)
        elif decision.fate == "retry":
            past = _and_failed(delivery.past, error, delivery.runs.get(0))
            self._put_back(node, delivery, error, decision.delay, past=past)
        else:
            self._tell(node, delivery.id, decision.delay, error)
            self._put_back(node, delivery, error, decision.delay)

    def _judge(self, node: Node, delivery: Delivery, error: Exception) -> Decision:
        return judge(
            error,
            delivery.attempt,
            self._plans[node.name].policy,
            asked=delivery.past.retries,
            waits=delivery.past.waits,
            again=isinstance(error, self._queue.interrupts)
            or self._queue.wants_retry(delivery, error),
        )

    def _bury(self, node: Node, delivery: Delivery, number: int, error: Exception) -> None:
        now = time.time()
        letter = getattr(error, "letter", None)
        causes = letter.causes if letter is not None else (Cause.of(error, now),)
        fields = delivery.parcel.messages[number]
        died = error.deliveries if isinstance(error, Undelivered) else 0
        full = DeadLetter(
            node.name,
            fields,
            (*delivery.past.causes, *causes),
            origin=delivery.origin,
            id=delivery.parcel.ids[number],
            attempts=delivery.past.attempts + (died or len(causes)),
            at=now,
            route=delivery.route_of(number),
        )
        with _handling(_context(node, delivery, number)):
            self._queue.bury(delivery, full, level=_level(error))
        if self._observers.each:
            self._watch.dead(full, delivery.run_of(number), error)

    def bury_raw(self, delivery: Delivery, error: Unreadable, raw: Mapping[str, Any]) -> None:
        """
        Keep an unreadable message as it came.

        Args:
            delivery: The delivery.
            error: What is wrong.
            raw: The data that the router's ``send_raw`` needs to send it again.

        Raises:
            LedgerError: It could not be kept.
        """
        try:
            text, is_whole = to_text({name: _plain(value) for name, value in raw.items()}), True
        except Inexact:  # for example a value that pickle has carried
            text, is_whole = repr(raw)[:_SHOWN], False
        now = time.time()
        letter = DeadLetter(
            error.node,
            {RAW: text},
            (*delivery.past.causes, Cause.of(error, now)),
            id=delivery.id,
            attempts=delivery.attempt,
            at=now,
            route={RAW: is_whole},
        )
        with _handling(Context(delivery.id, error.node, attempt=delivery.attempt)):
            self._queue.bury(delivery, letter)
        if self._observers.each:
            self._watch.dead(letter, 0, error)

    # -- a batch ---------------------------------------------------------------------------

    def _deliver_batch(self, node: Node, delivery: Delivery) -> Any:
        """
        Handle a batch. Each message has its own fate; one whose end is not known runs again alone.
        """
        tally = Tally()
        is_one = self._plans[node.name].many and node.name not in self._around
        run = self._run_together if is_one else self._run_each
        try:
            with self._sender.sending() as outbox:
                run(node, delivery, tally, outbox)
        except self._queue.interrupts as error:
            tally = Tally(broken=error)  # finished messages could not send their results
        except BaseException as error:
            _tell_ends(delivery, set(), {}, error)
            raise
        context.current.set(None)  # what follows is about no single message
        _tell_ends(delivery, tally.done, tally.failed, tally.broken)
        if delivery.eager and tally.failed:
            raise next(iter(tally.failed.values()))
        self._settle(node, delivery, tally)
        return tally.results

    def _run_together(self, node: Node, delivery: Delivery, tally: Tally, outbox: Outbox) -> None:
        """Call a handler once with the whole list. A failure can't be blamed on one message."""
        numbers = range(len(delivery.parcel.ids))
        outbox.begin(delivery.id)
        if self._observers.each:
            for number in reversed(numbers):  # the first message's run sends the results of all
                self._begin(node, delivery, number)
        try:
            results = _results(node.run([self._message(delivery, n) for n in numbers]))
        except Exception as error:
            tally.broken = error
            return self._apart(node, delivery, error)
        try:
            self._queue.send_on(node.name, results)
        except EncodeError as error:  # none of them was sent
            tally.broken = error
            return self._apart(node, delivery, error)
        if delivery.runs:
            delivery.runs[0].results = len(results)
        tally.results = len(results)
        tally.done.update(numbers)

    def _apart(self, node: Node, delivery: Delivery, error: Exception) -> None:
        if delivery.eager:
            raise error
        context.current.set(None)  # it is about no single message
        _log.warning(
            '"%s" failed with %d messages together; each runs again alone: %s',
            node.name,
            len(delivery.parcel.ids),
            type(error).__name__,
        )

    def _run_each(self, node: Node, delivery: Delivery, tally: Tally, outbox: Outbox) -> None:
        is_piped = node.takes_many and node.name not in self._around
        run = self._pipelined if is_piped else self._one_by_one
        before = 0.0
        with closing(run(node, delivery, outbox, tally)) as outcomes:
            for number, outcome in outcomes:
                watched = delivery.runs.get(number)
                if watched is not None:
                    before = watched.stop(before)
                    context.run.set(watched)
                if isinstance(outcome, Exception):
                    tally.failed[number] = outcome
                    continue
                if not isinstance(outcome, int):  # otherwise its results are sent already
                    try:
                        self._queue.send_on(node.name, outcome)
                    except EncodeError as error:  # none of its results was sent
                        tally.failed[number] = error
                        continue
                    outcome = len(outcome)
                if watched is not None:
                    watched.results = outcome
                tally.results += outcome
                tally.done.add(number)

    def _one_by_one(self, node: Node, delivery: Delivery, outbox: Outbox, tally: Tally) -> Outcomes:
        for number, message in enumerate(self._messages(node, delivery)):
            outbox.begin(delivery.parcel.ids[number])
            outcome = self._outcome(node, delivery, number, message)
            yield number, outcome
            if isinstance(outcome, self._queue.interrupts):
                tally.broken = outcome
                return  # there is no second soft limit before the hard limit

    def _outcome(self, node: Node, delivery: Delivery, number: int, message: Message) -> Any:
        """Return the results, the number of results that are sent already, or an exception."""
        try:
            with self._shown(delivery, number):
                if node.name in self._around:
                    if number in delivery.runs:
                        delivery.runs[number].awaits = node.name
                    return number_of(self.call(node, message))
                return _results(node.run(message))
        except self._queue.exceptions:
            return ()  # the handler has told the queue itself what to do
        except Exception as error:
            return error

    def _pipelined(self, node: Node, delivery: Delivery, outbox: Outbox, tally: Tally) -> Outcomes:
        """
        Run a batch on the node's processes. A failure of all is no message's fault: the rest runs
        alone.
        """
        ids = delivery.parcel.ids
        try:
            with closing(node.seam.call_many(self._messages(node, delivery))) as outcomes:
                for number, outcome in enumerate(outcomes):
                    outbox.begin(ids[number])
                    yield number, _fitted(node, outcome, delivery.parcel.messages[number])
        except Exception as error:
            tally.broken = error
            context.current.set(None)
            _log.warning('"%s" was interrupted in a batch: %s', node.name, type(error).__name__)

    def _messages(self, node: Node, delivery: Delivery) -> Iterator[Message]:
        """Yield the messages. Each is the current one from when it is taken."""
        for number in range(len(delivery.parcel.ids)):
            context.current.set(self._begin(node, delivery, number))
            yield self._message(delivery, number)

    def _message(self, delivery: Delivery, number: int) -> Message:
        fields = delivery.parcel.messages[number]
        return self._queue.message_class({**fields, "_origin": delivery.origin})

    # -- the rest of a batch ---------------------------------------------------------------

    def _settle(self, node: Node, delivery: Delivery, tally: Tally) -> None:
        """Send each failed message on its way."""
        ids, messages, _ = delivery.parcel
        traces: list[Trace | None] = []
        later, delay = Packed([], [], traces), 0.0
        waiting: dict[int, Exception] = {}
        for number, error in tally.failed.items():
            decision = self._judge(node, delivery, error)
            if decision.fate == "dead":
                decision, error = self._try_to_bury(node, delivery, number, error)
            if decision.fate == "retry":
                self._send_alone(node, delivery, number, decision.delay, error)
                self._tell_again(node, delivery, number, error, decision.delay, charged=True)
            elif decision.fate == "later":
                later.ids.append(ids[number])
                later.texts.append(pack(node.name, messages[number]))
                traces.append(delivery.trace_of(number))
                waiting[number] = error
                delay, why = max(delay, decision.delay), error
        if later.ids:
            self._tell(node, delivery.id, delay, why)
            if len(later.ids) == len(ids):
                # A second task with this id would end with this one: RQ deletes finished jobs.
                self._put_back(node, delivery, why, delay)
            past = Past(waits=delivery.past.waits + 1)
            self._queue.send(delivery.origin, node.name, later, delay=delay, past=past)
            for number, error in waiting.items():
                self._tell_again(node, delivery, number, error, delay, charged=False)
        settled = tally.done | tally.failed.keys()
        for number in range(len(ids)):
            if number not in settled:
                self._send_alone(node, delivery, number)
                if tally.broken is not None:
                    self._tell_again(node, delivery, number, tally.broken, 0.0, charged=False)

    def _try_to_bury(
        self, node: Node, delivery: Delivery, number: int, error: Exception
    ) -> tuple[Decision, Exception]:
        """Bury a message of a batch. If that fails, this message alone runs again later."""
        try:
            self._bury(node, delivery, number, error)
        except LedgerError as second:
            return self._judge(node, delivery, second), second
        with _handling(_context(node, delivery, number)):
            self._queue.tell_failed(delivery, number, error, level=_level(error))
        return Decision("dead"), error

    def _tell(self, node: Node, id: str, delay: float, error: Exception) -> None:
        """
        Log that a message waits. No attempt is charged, so it may wait for days, and a reader of
        the log has to know. But thousands may wait for the same cause.
        """
        self.say(node, "wait", "%s waits for %.3g s: %s", id, delay, one_line(str(error)))

    def say(self, node: Node, kind: str, text: str, id: str, *values: object) -> None:
        """
        Log a warning about the message *id* once a minute for each node and kind, and otherwise at
        INFO.
        """
        now = time.monotonic()
        is_news = now - self._warned.get((node.name, kind), -_QUIET) >= _QUIET
        if is_news:
            self._warned[node.name, kind] = now
        level, told = logging.WARNING if is_news else logging.INFO, context.current.get()
        about = marks(told or Context(id, node.name), context.run.get())
        _log.log(level, f'"%s": {text}', node.name, id, *values, extra=about)

    def _split(self, node: Node, delivery: Delivery) -> int:
        """
        Run each message again alone: the worker died with the batch, and one may be the reason.
        """
        limit = self._plans[node.name].policy.max_deliveries
        lost = Undelivered(node=node.name, deliveries=limit)
        self._settle(node, delivery, Tally(broken=lost))
        return 0

    def _send_alone(
        self,
        node: Node,
        delivery: Delivery,
        number: int,
        delay: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        ids, messages, _ = delivery.parcel
        parcel = Parcel([ids[number]], [messages[number]], [delivery.trace_of(number)])
        watched = delivery.runs.get(number)
        past = Past() if error is None else _and_failed(Past(), error, watched)
        packed = parcel.packed(node.name)
        self._queue.send(delivery.origin, node.name, packed, delay=delay, past=past)


def _and_failed(past: Past, error: Exception, watched: Watched | None) -> Past:
    trace = None if watched is None else watched.trace
    return past.failed(Cause.of(error, time.time()), asked=asks_again(error), trace=trace)


@contextmanager
def _handling(told: Context) -> Iterator[None]:
    """Make a message the current one, for what is logged about it."""
    token = context.current.set(told)
    try:
        yield
    finally:
        context.current.reset(token)


def _level(error: Exception) -> int:
    """Return the level for a message that was given up. The author may have rejected it."""
    return logging.WARNING if isinstance(error, Reject) else logging.ERROR


def _plain(value: Any) -> Any:
    """Return lists and maps as JSON has them: queues turn tuples into lists as they like."""
    return list(value) if isinstance(value, tuple) else value


def _context(node: Node, delivery: Delivery, number: int) -> Context:
    ids, _, traces = delivery.parcel
    known = ids[number], node.name, delivery.origin, delivery.attempt
    trace, watched = traces[number] if traces else delivery.trace, delivery.runs.get(number)
    if watched is not None and watched.trace is not None:
        trace = watched.trace
    return Context(*known) if trace is None else Context(*known, trace[0], trace[1] or None)


def _tell_ends(
    delivery: Delivery,
    done: Collection[int],
    failed: Mapping[int, Exception],
    otherwise: BaseException | None,
) -> None:
    """Tell observers how the runs of a batch have ended."""
    for number, watched in delivery.runs.items():
        error = failed.get(number, otherwise)
        if number in done or error is None:
            watched.finished(watched.results)
        else:
            watched.failed(error)


def _results(outcome: Any) -> Any:
    """Return the outcome of :meth:`Node.run` as a sequence of results."""
    if type(outcome) is dict:
        return (outcome,)
    if outcome is NoResult:
        return ()
    return outcome if type(outcome) is tuple else tuple(outcome)


def _fitted(node: Node, outcome: Any, message: Mapping[str, Any]) -> Any:
    if isinstance(outcome, Exception):
        return outcome
    fit = node.fit_for(message)
    try:
        return [fit(value) for value in outcome]
    except Exception as error:
        return error
