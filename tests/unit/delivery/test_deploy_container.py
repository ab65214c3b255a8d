"""What an engine says when it does not start a container."""

from __future__ import annotations

import pytest
from docker.errors import APIError

from llm_twin.delivery.deploy.container import plain_errors
from llm_twin.errors import RemoteError

FLUSHED = f"""driver failed programming external connectivity on endpoint twin ({"a1" * 32}): \
(iptables failed: iptables --wait -t nat -A DOCKER -p tcp -d 127.0.0.1 --dport 34951 -j DNAT: \
iptables: No chain/target/match by that name.
 (exit status 1))"""


@pytest.mark.parametrize(
    ("said", "reason", "hint"),
    [
        (FLUSHED, "No chain/target/match by that name. (exit status 1))", "restart docker"),
        ("mkdir /nope: read-only file system", "mkdir /nope: read-only", "docker info"),
    ],
)
def test_the_reason_and_what_to_do_are_said(said, reason, hint):
    with pytest.raises(RemoteError) as raised, plain_errors("twin"):
        raise APIError("500 Server Error", explanation=said)
    assert reason in str(raised.value)
    assert str(raised.value).endswith(hint)
