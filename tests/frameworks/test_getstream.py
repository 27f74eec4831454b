"""Calls of Stream's Python SDK, the real getstream 4, through a server that takes the place of Stream's."""

import pytest
from frameworks.stream_members import KEYS, WRONG, encryption, member, pictures, tone, use
from frameworks.stream_server import StreamServer

from support.calls import plays, shows, until


@pytest.fixture
def server(monkeypatch):
    with StreamServer() as made:
        use(made, monkeypatch)
        yield made


def assert_sealed(published, key: bytes, at_least: int = 20, key_id: int = 0) -> None:
    """Check every frame of a track that the SFU has seen."""
    opened, unopened = published.read(key, key_id)
    assert unopened == []
    assert opened >= at_least


async def test_each_participant_is_heard_and_seen_under_a_key_of_their_own(server):
    async with (
        member(server, "alice", encryption(KEYS)) as alice,
        member(server, "bob", encryption(KEYS)) as bob,
        member(server, "eve", encryption({"eve": KEYS["alice"], "alice": WRONG, "bob": WRONG})) as eve,
    ):
        await alice.publish(tone(440), pictures("red"))
        await bob.publish(tone(880), pictures("blue"))
        await until(lambda: alice.sink("bob", "audio") and plays(alice.sink("bob", "audio"), 880))
        await until(lambda: bob.sink("alice", "audio") and plays(bob.sink("alice", "audio"), 440))
        await until(lambda: shows(alice.sink("bob", "video"), "blue") and shows(bob.sink("alice", "video"), "red"))
        assert len(eve.sinks) == 4
        assert not eve.heard
        for user_id in ("alice", "bob"):
            for kind in ("audio", "video"):
                assert_sealed(server.of(user_id, kind), KEYS[user_id])
        assert {body.get("e2ee") for body in server.joins} == {True}
