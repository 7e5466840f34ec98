"""Streams of texts from an OpenAI server on loopback, each piece with the time at which it came. Standard
library only; one thread, which keeps what comes and looks at it when all is over, so that the client takes
little of the cores that are measured."""

import dataclasses
import json
import re
import selectors
import socket
import time

LIMIT = 600


@dataclasses.dataclass
class Text:
    """A text that was made: seconds on the clock of the wall, and what it says."""

    sent: float
    times: list
    tokens: int
    text: str = ""
    cached: int = 0
    # What it is after one token, after two, and so on, where that is known.
    grown: list = None

    @property
    def wait(self):
        """Until its first token."""
        return self.times[0] - self.sent

    @property
    def gaps(self):
        return [after - before for before, after in zip(self.times, self.times[1:])]


def rate(texts):
    """Tokens a second while all of the texts are being made: from the last one's first token to the
    first one's last. A piece of text may be of two tokens, where one alone is no character."""
    began, ended = max(text.times[0] for text in texts), min(text.times[-1] for text in texts)
    pieces = sum(began < moment <= ended for text in texts for moment in text.times)
    tokens_of_piece = sum(text.tokens for text in texts) / sum(len(text.times) for text in texts)
    return tokens_of_piece * pieces / (ended - began) if pieces else 0.0


def percentile(values, share):
    """The nearest of the values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def request(port, body):
    text = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode() + text


class Stream:
    """An answer on its way."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), LIMIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.content, self.arrivals = b"", []

    def send(self, content):
        self.sent = time.time()
        self.socket.sendall(content)

    def receive(self):
        """False once all came."""
        piece = self.socket.recv(1 << 16)
        self.content += piece
        self.arrivals.append((len(self.content), time.time()))
        return bool(piece)

    def text(self):
        if not self.content.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"bench-serve: the server answered {self.content[:2000]!r}")
        made, arrivals = Text(self.sent, [], 0), iter(self.arrivals)
        length, moment = next(arrivals)
        for event in re.finditer(rb"data: (\{.*\})\n", self.content):
            while length < event.end():
                length, moment = next(arrivals)
            said = json.loads(event[1])
            if "error" in said:
                raise SystemExit(f"bench-serve: the server answered {said['error']}")
            if said.get("usage"):
                made.tokens = said["usage"]["completion_tokens"]
                made.cached = said["usage"]["prompt_tokens_details"]["cached_tokens"]
            for choice in said["choices"]:
                if choice["text"]:
                    made.times.append(moment)
                    made.text += choice["text"]
        if not made.tokens or not made.times:
            raise SystemExit(f"bench-serve: a stream ended early: {self.content[-500:]!r}")
        return made


def together(port, model, prompts, tokens):
    """Prompts (lists of tokens) that are continued at once, greedily, each by so many tokens."""
    streams = [Stream(port) for _ in prompts]
    how = {"model": model, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    usage = {"stream_options": {"include_usage": True}}
    bodies = [request(port, how | usage | {"prompt": prompt}) for prompt in prompts]
    with selectors.DefaultSelector() as waiting:
        for stream, body in zip(streams, bodies):
            stream.send(body)
            waiting.register(stream.socket, selectors.EVENT_READ, stream)
        while waiting.get_map():
            ready = waiting.select(LIMIT)
            if not ready:
                raise SystemExit(f"bench-serve: nothing came for {LIMIT} s")
            for key, _ in ready:
                if not key.data.receive():
                    waiting.unregister(key.fileobj)
                    key.fileobj.close()
    return [stream.text() for stream in streams]
