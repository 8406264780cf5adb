"""A mail server that logs every message it accepts; it runs in a process that is never killed.

python -m tests.chaos.sink LEDGER    prints its port; a line "recipient message-id" for each 250

Each line is written to the file before the 250 is sent, so the ledger is complete even if the
sender is killed. The server rejects `gone...` with 550 at RCPT, and `never...` with 554 after the
dot.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from asyncio import StreamReader, StreamWriter
from contextlib import suppress

SLOWEST = 0.006  # seconds before and after a message is logged: a window for killing senders


class Sink:
    def __init__(self, ledger: str) -> None:
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def talk(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(b"220 sink.test ESMTP\r\n")
            await self._obey_all(reader, writer)
        writer.close()

    async def _obey_all(self, reader: StreamReader, writer: StreamWriter) -> None:
        recipient = ""
        while line := await reader.readline():
            words = line.decode().strip()
            verb = words[:4].upper()
            if verb == "EHLO":
                writer.write(b"250-sink.test\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES\r\n")
            elif verb == "RCPT":
                recipient = words[words.index("<") + 1 : -1]
                gone = recipient.startswith("gone")
                writer.write(b"550 5.1.1 No such user\r\n" if gone else b"250 2.1.5 Ok\r\n")
                recipient = "" if gone else recipient
            elif verb == "DATA" and recipient:
                writer.write(b"354 Go on\r\n")
                await self._take(reader, writer, recipient)
            elif verb == "DATA":
                writer.write(b"503 5.5.1 No recipient\r\n")
            elif verb == "QUIT":
                writer.write(b"221 2.0.0 Bye\r\n")
                return
            else:
                writer.write(b"250 2.0.0 Ok\r\n")

    async def _take(self, reader: StreamReader, writer: StreamWriter, recipient: str) -> None:
        body = await reader.readuntil(b"\r\n.\r\n")
        await asyncio.sleep(random.uniform(0, SLOWEST))
        if recipient.startswith("never"):
            writer.write(b"554 5.6.0 Not this\r\n")
            return
        start = body.index(b"Message-ID: ") + len(b"Message-ID: ")
        message_id = body[start : body.index(b"\r\n", start)].decode()
        os.write(self._ledger, f"{recipient} {message_id}\n".encode())
        await asyncio.sleep(random.uniform(0, SLOWEST))
        writer.write(b"250 2.0.0 Ok\r\n")


async def main(ledger: str) -> None:
    server = await asyncio.start_server(Sink(ledger).talk, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
