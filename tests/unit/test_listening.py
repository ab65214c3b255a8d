"""Where servers of ours listen."""

import socket

import pytest

from llm_twin.errors import BusyError, ConfigError
from llm_twin.listening import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_an_answer_is_sent_at_once(host):
    with listen(host, 0, "") as listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken():
    with listen("127.0.0.1", 0, "") as listener:
        port = listener.getsockname()[1]
        with pytest.raises(BusyError, match=rf"port is taken: 127.0.0.1:{port}. Set --port"):
            listen("127.0.0.1", port, "Set --port")


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no host", 0), ("127.0.0.1", 70000)])
def test_an_address_that_is_none(host, port):
    with pytest.raises(
        ConfigError, match=rf"cannot listen there \(.+\): {host}:{port}. Set --host"
    ):
        listen(host, port, "Set --host")
