"""The wire between the world and a machine's sshd: it can be cut, hang or be closed, and counts."""

import contextlib
import math
import socket
import struct
import threading
import time

TRICKLE = 8192  # bytes per real second


def free_port(address: str = "127.0.0.1") -> socket.socket:
    """A bound socket that does not listen: the port is kept from others but not from sshd."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((address, 0))
    return holder


class Wire:
    """One public port, relayed to `target` while it is open.

    `sent` and `received` count bytes as the machine sees them. A closed wire refuses; a hanging one
    accepts and keeps connections but moves no byte, as when a host drops off the network. One that
    trickles slows down one connection and no other.
    """

    def __init__(self, address: str, target: tuple[str, int]):
        self.target = target
        self._holder = free_port(address)
        self.address, self.port = self._holder.getsockname()
        self.sent = self.received = 0
        self._slow_from = math.inf  # bytes sent
        self.slowed = 0  # connections that have trickled
        self._lock = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()
        self._listener: socket.socket | None = None
        self._links: set[socket.socket] = set()

    def open(self) -> None:
        with self._lock:
            self._flows.set()
            if self._listener is not None:
                return
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.address, self.port))
            listener.listen(64)
            self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def hang(self) -> None:
        self._flows.clear()

    def trickle(self, after: int) -> None:
        """The connection that sends the `after`-th byte from now on only trickles from there on."""
        self._slow_from = self.sent + after

    def cut(self) -> None:
        """Reset what is connected; new connections are still taken if the wire is open."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                link.shutdown(socket.SHUT_RDWR)
            link.close()
        self._flows.set()  # nothing may be left waiting

    def close(self) -> None:
        """Refuse new connections and reset the old ones."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
            listener.close()
        self.cut()

    def release(self) -> None:
        self.close()
        self._holder.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with self._lock:
            if self._listener is None:
                client.close()
                return
            self._links.add(client)
        self._flows.wait()
        try:
            server = socket.create_connection(self.target)
        except OSError:
            with self._lock:
                self._links.discard(client)
            client.close()
            return
        with self._lock:
            known = client in self._links
            if known:
                self._links.add(server)
        if not known:  # cut while it was being made
            server.close()
            return
        back = threading.Thread(target=self._pump, args=(server, client, "sent"), daemon=True)
        back.start()
        self._pump(client, server, "received")
        back.join()
        with self._lock:
            self._links -= {client, server}
        client.close()
        server.close()

    def _pump(self, source: socket.socket, sink: socket.socket, counter: str) -> None:
        slow = False
        with contextlib.suppress(OSError):
            while data := source.recv(TRICKLE if slow else 1 << 18):
                self._flows.wait()
                sink.sendall(data)
                with self._lock:
                    setattr(self, counter, getattr(self, counter) + len(data))
                    if counter == "sent" and self.sent >= self._slow_from:
                        slow, self._slow_from, self.slowed = True, math.inf, self.slowed + 1
                if slow:
                    time.sleep(1.0)
        self._flows.wait()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
