"""Mail server that accepts and discards every mail, for machines without smtp-sink.

Run it as a program with a port: it listens on loopback and counts like `smtp-sink -c`. It imports
nothing of ours, so it starts at once.
"""

from __future__ import annotations

import asyncio
import sys

REPLIES = {
    b"EHLO": b"250-localhost\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
    b"DATA": b"354 End data with <CR><LF>.<CR><LF>\r\n",
    b"QUIT": b"221 Bye\r\n",
}
OK = b"250 2.0.0 Ok\r\n"
END = b"\r\n.\r\n"
LONGEST = 16 * 1024 * 1024


class Counter:
    messages = 0

    def count(self) -> None:
        self.messages += 1
        sys.stdout.write(f"mesg={self.messages}\r")
        sys.stdout.flush()


async def converse(
    counter: Counter, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(b"220 localhost ESMTP\r\n")
    while line := await reader.readline():
        verb = line[:4].upper().strip()
        writer.write(REPLIES.get(verb, OK))
        if verb == b"DATA":
            await reader.readuntil(END)
            counter.count()
            writer.write(OK)
        if verb == b"QUIT":
            break
    writer.close()


async def serve(port: int) -> None:
    counter = Counter()
    server = await asyncio.start_server(
        lambda reader, writer: converse(counter, reader, writer), "127.0.0.1", port, limit=LONGEST
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
