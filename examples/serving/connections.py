"""Limits on connections, and on the time that the server takes to end."""

import contextlib
import os
import threading

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = 128  # connections that wait to be accepted
FREE_FILES = 2 * BACKLOG  # file descriptors for other things than connections
LAST_SECONDS = 2  # from the end of the grace to the end of the process


class Protocol(H11Protocol):
    """uvicorn's protocol, with limits on the number of connections and on their patience.

    A connection on which no complete request arrives within `patience`, or whose answers are not read,
    is closed. When there are more than `most`, the one that has waited longest for its client is
    closed, so that clients who only hold connections cannot keep out the others.
    """

    patience, most = 30, 500

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
    """uvicorn's server, but its process ends within a bound after a signal, whatever still runs."""

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
