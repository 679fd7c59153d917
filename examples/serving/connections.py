"""Limits on connections, and on the time that the server takes to end."""

import contextlib
import itertools
import os
import threading

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = 128  # connections that wait to be accepted
FREE_FILES = 2 * BACKLOG  # file descriptors for other things than connections
LAST_SECONDS = 2  # from the end of the grace to the end of the process
MAX_HEADER = 1 << 16  # bytes
SMALL_CHUNKS = 100  # that a body may have besides one for each CHUNK bytes
CHUNK = 1000  # clients usually send 8 kB or more in each


class Connection(h11.Connection):
    """h11's parser, with limits on the length of a header and on the chunks of a body, because other
    clients wait while they are parsed."""

    def __init__(self):
        super().__init__(h11.SERVER, MAX_HEADER)  # holds for headers that arrive in pieces
        self.chunks = self.length = 0  # of a body

    def next_event(self):
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.chunks = self.length = 0
            if len(event.target) + sum(map(len, itertools.chain(*event.headers))) > MAX_HEADER:
                raise h11.RemoteProtocolError(f"more than {MAX_HEADER:,} bytes of header")
        elif isinstance(event, h11.Data):
            self.chunks += event.chunk_start
            self.length += len(event.data)
            if self.chunks > SMALL_CHUNKS + self.length / CHUNK:
                raise h11.RemoteProtocolError("too many small chunks")
        return event


class Protocol(H11Protocol):
    """uvicorn's protocol, with limits on the number of connections and on how long it waits for them.

    A connection on which no complete request arrives within `patience`, or whose answers are not read,
    is closed. When there are more than `most`, the one that has waited longest for its client is
    closed, so that clients that only hold connections cannot keep out the others.
    """

    patience, most = 30, 500

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conn = Connection()

    def connection_made(self, transport):
        super().connection_made(transport)
        self.since = self.loop.time()  # the connection, or the last answer
        self.evicted = False
        self.check = self.loop.call_later(self.patience, self.close_if_stalled)
        if len(self.connections) > self.most:
            held = [each for each in self.connections if each.waits_for_client() and not each.evicted]
            if held:
                oldest = min(held, key=lambda each: each.since)
                oldest.evicted = True
                oldest.transport.abort()

    def connection_lost(self, exc):
        self.check.cancel()
        super().connection_lost(exc)

    def on_response_complete(self):
        self.since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, message):
        if self.answering():  # the body is invalid: nobody waits for the answer to its request
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(message)
        except h11.LocalProtocolError:  # an answer was sent before
            self.transport.close()

    def answering(self):
        return self.cycle is not None and not self.cycle.response_complete

    def unread(self):
        return self.transport.get_write_buffer_size() > 0

    def waits_for_client(self):
        return not self.answering() or self.cycle.more_body or self.unread()

    def close_if_stalled(self):
        left = self.since + self.patience - self.loop.time()
        if self.answering() and not self.unread():  # `read_body` has its own limit
            left = self.patience
        if left > 0:
            self.check = self.loop.call_later(left, self.close_if_stalled)
        else:
            self.transport.abort()


class Server(uvicorn.Server):
    """uvicorn's server, but its process ends soon after a signal, whatever still runs."""

    def handle_exit(self, sig, frame):
        last = threading.Timer(self.config.timeout_graceful_shutdown + LAST_SECONDS, os._exit, (1,))
        last.daemon = True
        last.start()
        super().handle_exit(sig, frame)


def allow(count):
    """Raises the limit on open files where it is too low; returns the connections it allows."""
    with contextlib.suppress(ImportError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < count + FREE_FILES:
            soft = count + FREE_FILES
            soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            return max(1, min(count, soft - FREE_FILES))
    return count
