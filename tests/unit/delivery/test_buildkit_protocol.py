"""What a build says, from BuildKit's bytes or a plain builder's text to lines on a screen."""

import base64
import contextlib
import http.server
import io
import json
import threading

import pytest
from rich.console import Console

from llm_twin.delivery import wire
from llm_twin.delivery.buildkit import Built, Recipe, build
from llm_twin.delivery.engine import Address, Engine
from llm_twin.delivery.events import Listener, LogLine, Masks, Step, TextReader, TraceReader
from llm_twin.delivery.failure import BuildFailed
from llm_twin.delivery.progress import LiveView, PlainView, build_view
from llm_twin.errors import ConfigError, RemoteError

ID = "sha256:" + "4" * 64
SECRET = b"hunter22-correct-horse"


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def integer(number, value):
    return varint(number << 3) + varint(value)


def moment(number, seconds):
    return wire.field(number, integer(1, int(seconds)) + integer(2, int(seconds % 1 * 1e9)))


def vertex(key, name="RUN x", started=None, completed=None, cached=False, error=""):
    body = wire.field(1, key.encode()) + wire.field(3, name.encode())
    body += integer(4, 1) if cached else b""
    body += moment(5, started) if started else b""
    body += moment(6, completed) if completed else b""
    return wire.field(1, body + (wire.field(7, error.encode()) if error else b""))


def log(key, data, stream=1):
    return wire.field(3, wire.field(1, key.encode()) + integer(3, stream) + wire.field(4, data))


def heard(*messages, secrets=()):
    events = []
    reader = TraceReader(Listener(events.append, Masks(secrets)))
    for message in messages:
        reader.feed(message)
    return events


def test_every_kind_of_field_is_read():
    data = integer(1, 300) + wire.field(2, b"a") + wire.field(2, "ü".encode())
    data += bytes([3 << 3 | 1, *range(8)]) + bytes([4 << 3 | 5, *range(4)])
    message = wire.read(data)

    assert wire.number(message, 1) == 300
    assert message[2] == [b"a", "ü".encode()]
    assert wire.text(message, 2) == "ü"
    assert (message[3], message[4]) == ([bytes(range(8))], [bytes(range(4))])
    assert (wire.text(message, 9), wire.number(message, 9), wire.seconds(message, 9)) == (
        "",
        0,
        None,
    )
    assert wire.field(40, b"x" * 300) == varint(40 << 3 | 2) + varint(300) + b"x" * 300


@pytest.mark.parametrize("data", [b"\x08", b"\x08\xff", b"\x12\x05ab", b"\x0b"])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(ValueError, match=r"cut off|wire type"):
        wire.read(data)


def test_a_step_starts_once_and_ends_once_however_often_it_is_reported():
    events = heard(
        vertex("a"),
        vertex("a", started=10),
        vertex("a", started=10),
        vertex("a", started=10, completed=12.5),
        vertex("a", started=11),
        vertex("a", started=10, completed=12.5),
        vertex("b", "COPY y", cached=True),
    )

    assert events == [
        Step("a", "RUN x"),
        Step("a", "RUN x", seconds=2.5),
        Step("b", "COPY y", cached=True, seconds=0),
    ]


def test_lines_are_whole_wherever_the_pieces_were_cut():
    umlaut = "ü\n".encode()
    events = heard(
        log("a", b"one\ntw"),
        log("b", b"other"),
        log("a", b"err\n", stream=2),
        log("a", b"o\r\n10%\r20%\r\n\n" + umlaut[:1]),
        log("a", umlaut[1:] + b"rest"),
        vertex("a", started=1, completed=2),
    )

    lines = [(event.step, event.text) for event in events if isinstance(event, LogLine)]
    assert lines == [("a", text) for text in ("one", "err", "two", "10%", "20%", "ü", "rest")]
    assert isinstance(events[-1], Step)


def test_no_event_holds_a_secret_even_in_pieces():
    secret = SECRET + b"\n" + b"second-line-of-it\n"
    events = heard(
        log("a", b"\x1b[31mtoken=" + SECRET[:9]),
        log("a", SECRET[9:] + b" and second-line-of-it!\n"),
        vertex("a", f"RUN x {SECRET.decode()}", 1, 2, error=f"failed: {SECRET.decode()}"),
        secrets=[secret, b"abc"],
    )

    assert events[0].text == "token=*** and ***!"
    assert (events[1].name, events[1].error) == ("RUN x ***", "failed: ***")


def test_the_step_that_failed_first_counts_and_not_those_it_stopped():
    listener = Listener(lambda event: None)
    reader = TraceReader(listener)
    for number in range(40):
        reader.feed(log("bad", f"line {number}\n".encode()))
    reader.feed(vertex("other", started=1, completed=2, error="x: context canceled"))
    reader.feed(vertex("bad", started=1, completed=2, error="exit code: 3"))

    assert listener.failed.key == "bad"
    assert listener.tail() == tuple(f"line {number}" for number in range(10, 40))


def test_a_plain_builder_is_read_by_its_headings():
    events = []
    reader = TextReader(Listener(events.append), clock=iter([1, 3, 3, 4, 9, 9]).__next__)
    reader.feed("nothing yet\n")
    reader.feed("STEP 1/2: FROM base\n")
    reader.feed("Step 2/2 : RUN make\nhi\n\nthere\n")
    reader.feed(" ---> Using cache\n")
    reader.end()
    reader.end()

    assert events == [
        Step("1/2", "[1/2] FROM base"),
        Step("1/2", "[1/2] FROM base", seconds=2),
        Step("2/2", "[2/2] RUN make"),
        LogLine("2/2", "hi"),
        LogLine("2/2", "there"),
        Step("2/2", "[2/2] RUN make", cached=True, seconds=1),
    ]


STORY = [
    Step("0", "[internal] load build definition", seconds=0.1),
    Step("1", "[1/3] FROM base", cached=True, seconds=0),
    Step("2", "[2/3] RUN [red]make[/]"),
    Step("3", "[3/3] RUN other"),
    LogLine("2", "gcc [bold]main.c"),
    Step("2", "[2/3] RUN [red]make[/]", seconds=1.26),
    LogLine("3", "first"),
    LogLine("3", "last"),
    Step("3", "[3/3] RUN other", seconds=2, error="exit code: 1"),
    Step("4", "[other 1/1] RUN", seconds=2, error="context canceled"),
]
LINES = """\
[1/3] FROM base  CACHED
[2/3] RUN [red]make[/]  1.3 s
[3/3] RUN other  FAILED
    first
    last
[other 1/1] RUN  CANCELLED
"""


def test_a_pipe_gets_a_line_for_each_step_and_the_log_of_the_one_that_failed():
    out = io.StringIO()
    with build_view(out) as view:
        assert type(view) is PlainView
        for event in STORY:
            view(event)

    assert out.getvalue() == LINES


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_what_runs_with_its_last_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    shown = Console(file=io.StringIO(), width=100)
    with build_view(out) as view:
        assert isinstance(view, LiveView)
        for event in STORY[:5]:
            view(event)
        shown.print(view._progress.get_renderable())
        for event in STORY[5:]:
            view(event)
        view(LogLine("unknown", "late"))

    running = shown.file.getvalue().splitlines()
    assert "[2/3] RUN [red]make[/]" in running[0]
    assert running[0].rstrip().endswith("gcc [bold]main.c")
    assert "[3/3] RUN other" in running[1]
    for line in LINES.splitlines():
        assert line in out.getvalue()


@contextlib.contextmanager
def server(session_status, *events, status=200, cut=False):
    """An engine without BuildKit, over TCP; remembers what it was asked to build."""
    asked = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._send(200, b'{"ApiVersion": "1.41"}')

        def do_POST(self):
            asked.setdefault("paths", []).append(self.path)
            asked["headers"] = dict(self.headers)
            if self.path.endswith("/session"):
                self._send(session_status, b"404 page not found")
                return
            asked["body"] = self._body()
            if status != 200:
                self._send(status, events[0])
                return
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in events:
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.write(b"5\r\nab" if cut else b"0\r\n\r\n")
            self.close_connection = True

        def _body(self):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            return body

        def _send(self, status, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield Engine.connect(Address(f"tcp://127.0.0.1:{listening.server_port}")), asked
        finally:
            listening.shutdown()


# What podman 4.3 really says, shortened.
PODMAN = [
    {"stream": "STEP 1/2: FROM llm-twin-base:test\n"},
    {"stream": "STEP 2/2: RUN --mount=type=cache,target=/c echo hi; echo there\n"},
    {"stream": "--> Using cache c9505ab6e9b6c51de814dae35071bf16\n"},
    {"stream": "COMMIT docker.io/library/t:1\n"},
    {"stream": f"{ID[7:]}\n"},
    {"aux": {"ID": ID}},
    {"stream": "Successfully built 421e0488cf0e\n"},
]


def test_an_engine_without_sessions_gets_a_plain_build():
    events = []
    recipe = Recipe(
        tags=["t:1", "t:2"], target="run", build_args={"A": "1"}, labels={"l": "2"},
        platform="linux/amd64", pull=True, no_cache=True, cache_from=["t:0"], network="host",
    )  # fmt: skip
    with server(404, *PODMAN) as (engine, asked):
        built = build(
            engine, iter([b"one", b"two"]), recipe,
            credentials={"r:5000": ("me", "pass")}, on_event=events.append,
        )  # fmt: skip

    assert isinstance(built, Built)
    assert built.image_id == ID
    assert [(step.name[:10], step.cached) for step in built.steps] == [
        ("[1/2] FROM", False), ("[2/2] RUN ", True)
    ]  # fmt: skip
    assert len([event for event in events if isinstance(event, Step)]) == 4
    assert asked["body"] == b"onetwo"
    query = asked["paths"][-1]
    assert "version" not in query
    for part in ("t=t%3A1&t=t%3A2", "target=run", "pull=1", "nocache=1", "networkmode=host",
                 "platform=linux%2Famd64", "BUILDKIT_INLINE_CACHE", "cachefrom="):  # fmt: skip
        assert part in query
    logins = json.loads(base64.urlsafe_b64decode(asked["headers"]["X-Registry-Config"]))
    assert logins == {"r:5000": {"username": "me", "password": "pass"}}  # pragma: allowlist secret


def test_it_takes_no_secrets():
    with server(404, *PODMAN) as (engine, asked), pytest.raises(ConfigError, match="no build secr"):
        build(engine, [b"x"], Recipe(), secrets={"id": SECRET})

    assert "body" not in asked


def test_a_session_refused_for_another_reason_is_an_error():
    with (
        server(500, *PODMAN) as (engine, asked),
        pytest.raises(RemoteError, match=r"refuses a build session: .*/session \(HTTP 500\)"),
    ):
        build(engine, [b"x"], Recipe())

    assert "body" not in asked


def test_an_answer_that_breaks_off_is_an_error():
    with (
        server(404, *PODMAN[:2], cut=True) as (engine, _),
        pytest.raises(RemoteError, match=r"engine went away while it was building .*docker info"),
    ):
        build(engine, [b"x"], Recipe())


def test_an_answer_that_ends_without_an_image_is_an_error():
    with server(404, *PODMAN[:2]) as (engine, _), pytest.raises(BuildFailed, match="named no ima"):
        build(engine, [b"x"], Recipe())


@pytest.mark.parametrize(
    ("body", "words"), [(b'{"message": "invalid reference format"}', "invalid reference format"),
                        (b"oops", "HTTP 500")],
)  # fmt: skip
def test_a_refused_build_says_why(body, words):
    with server(404, body, status=500) as (engine, _), pytest.raises(BuildFailed, match=words):
        build(engine, [b"x"], Recipe())


@pytest.mark.parametrize(
    ("error", "words", "status"),
    [
        ("while running runtime: exit status 3", "exit code 3: .*RUN.*last line was: bye", 3),
        ("The command '/bin/sh -c x' returned a non-zero code: 2", "exit code 2", 2),
        ('copier: stat: "/nope": no such file or directory', "no such file: /nope", None),
        ("write /x: no space left on device", "disk is full.*docker system prune", None),
        ("dockerfile parse error line 2: unknown instruction: RUNN",
         r"wrong \(unknown instruction: RUNN\): deploy/Dockerfile:2\. Correct", None),
        ("something new", "could not be built: .*something new", None),
    ],
)  # fmt: skip
def test_a_plain_build_that_fails_says_why(error, words, status):
    events = [*PODMAN[:2], {"stream": "hi\nbye\n"}, {"error": error}]
    recipe = Recipe(dockerfile="deploy/Dockerfile")
    with server(404, *events) as (engine, _), pytest.raises(BuildFailed, match=words) as caught:
        build(engine, [b"x"], recipe)

    assert caught.value.step.startswith("[2/2] RUN")
    assert caught.value.tail == ("hi", "bye")
    assert caught.value.status == status
    assert "\n" not in str(caught.value)


def test_a_secret_file_that_is_missing_is_named(tmp_path):
    with server(404) as (engine, _), pytest.raises(ConfigError, match=r"secret ca cannot be read"):
        build(engine, [], Recipe(), secrets={"ca": tmp_path / "ca.pem"})
