"""A network between a worker and its broker that fails on command."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from types import TracebackType

#: The bytes of the method by which a RabbitMQ client sends a message.
PUBLISH = b"\x00\x3c\x00\x28"


class Proxy:
    """
    A proxy for the port of a broker.

    Attributes:
        port: The port for clients, in place of the broker's.
        every: Reset a connection after this many published messages, and lose the data just
            written to it; 0: never.
        is_deaf: True to take the data of clients without passing it on.
        is_mute: True to hold the broker's data back.
        resets: Number of connections that were reset.
    """

    def __init__(self, broker: int) -> None:
        self.every = self.resets = self._published = 0
        self.is_deaf = self.is_mute = False
        self._broker = broker
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._loop = asyncio.new_event_loop()
        server = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = self._loop.run_until_complete(server)
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def drop(self) -> None:
        """Reset all connections."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result()

    async def _drop(self) -> None:
        for pair in list(self._pairs):
            self._reset(pair)

    async def _close(self) -> None:
        self._server.close()
        self.is_mute = False
        await self._drop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            answers, broker = await asyncio.open_connection("127.0.0.1", self._broker)
        except OSError:  # the broker was killed, so the connection ends, too
            client.transport.abort()
            return
        pair = (client, broker)
        self._pairs.add(pair)
        await asyncio.gather(
            self._carry(reader, broker, pair, is_client=True),
            self._carry(answers, client, pair, is_client=False),
        )
        self._pairs.discard(pair)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        *,
        is_client: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if is_client and self._breaks(data):
                    return self._reset(pair)
                while self.is_mute and not is_client:
                    await asyncio.sleep(0.01)  # between two looks
                if not (is_client and self.is_deaf):
                    writer.write(data)
                    await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()

    def _breaks(self, data: bytes) -> bool:
        before, self._published = self._published, self._published + data.count(PUBLISH)
        return self.every > 0 and before // self.every < self._published // self.every

    def _reset(self, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.resets += 1
        for writer in pair:
            end = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # it may be closed already
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
