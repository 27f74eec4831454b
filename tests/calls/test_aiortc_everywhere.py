"""`attach_all` and `require_attached`: connections that a framework makes, in the class, in subclasses and in forks."""

import asyncio
import importlib
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import frameseal.aiortc
from frameseal import Decryptor, E2EEState, FrameError, KeyRing, aiortc, pymediasoup
from frameseal.aiortc import UnsupportedStack, attach, attach_all, require_attached, stop_attaching
from frameseal.aiortc import stack as stack_module
from frameseal.aiortc.rule import process
from frameseal.aiortc.stack import stacks
from support.calls import (
    PASSPHRASE,
    Arrived,
    Peer,
    Tap,
    assert_pictures,
    assert_tone,
    connect,
    hang_up,
    manager,
    part,
    peers,
    picture_track,
    tone_track,
    until,
)

IDS = {"local_id": "alice", "remote_id": "bob"}
MISSING_LINE = "frameseal.aiortc.attach(pc, e2ee, local_id=..., remote_id=...)"


@pytest.fixture(autouse=True)
def unruled(monkeypatch):
    """Begin and end without a rule, which would hold for the calls of later tests too."""
    monkeypatch.setattr(process, "rule", None)
    monkeypatch.setattr(process, "attached_only", False)


@pytest.fixture
def branch(tmp_path, monkeypatch):
    """A fork of aiortc under a name of its own, which nobody has imported yet. Returns its folder."""
    folder = tmp_path / "vendor" / "branch"
    shutil.copytree(Path(part("aiortc").__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    rate = folder / "rate.py"
    if rate.exists():  # the only module that names its package
        rate.write_text(rate.read_text("utf-8").replace("from aiortc.", "from vendor.branch."), "utf-8")
    (tmp_path / "vendor/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    stacks.pop("vendor.branch", None)
    purge("vendor")


def ran(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own. Returns the finished process with what it printed."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def purge(package: str) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


def opens(frames: list[bytes], codec: str, passphrase: str = PASSPHRASE) -> list[bytes]:
    """Open frames from the wire. Raises for a frame that is not sealed, or sealed with another key."""
    ring = KeyRing("livekit")
    ring.set_passphrase(passphrase)
    decryptor = Decryptor(ring, codec=codec)
    return [decryptor.decrypt(frame) for frame in frames]


def attached(pc) -> bool:
    return "_frameseal_attachment" in vars(pc)


async def call(stack: str, seconds: float = 0.6) -> None:
    """Hold a call whose connections nobody attaches explicitly. Checks that it is sealed, seen and heard."""
    async with peers(stack, stack) as (alice, bob):
        video, audio = alice.send(picture_track(stack), "vp8"), alice.send(tone_track(stack), "opus")
        with Tap(stack) as tap:
            await connect(alice, bob)
            await until(lambda: len(bob.sinks) == 2)
            await until(lambda: len(bob.sinks[video.mid].pictures) >= 10 and bob.sinks[audio.mid].seconds >= seconds)
            assert_pictures(bob.sinks[video.mid])
            assert_tone(bob.sinks[audio.mid], seconds=seconds)
        for sender, codec in ((video.sender, "vp8"), (audio.sender, "opus")):
            assert opens(tap.frames(sender, codec), codec)


# --- every connection ------------------------------------------------------------------------------------------------


async def test_a_call_that_nobody_attaches_is_sealed_and_heard(stack):
    attach_all(manager(), **IDS)
    await call(stack)


async def test_a_callable_makes_the_manager_of_each_connection(stack):
    made = []

    def make(pc):
        made.append((pc, manager()))
        return made[-1][1]

    attach_all(make, **IDS)
    async with peers(stack, stack) as (alice, bob):
        alice.send(picture_track(stack), "vp8")
        await connect(alice, bob)
        await until(lambda: all(e2ee.tracks() for _, e2ee in made))
        assert [pc for pc, _ in made] == [alice.pc, bob.pc]
        assert {track.participant_id for track in made[0][1].tracks()} == {"alice"}
        assert {track.participant_id for track in made[1][1].tracks()} == {"bob"}


async def test_a_class_that_makes_managers_is_called(stack):
    class OwnManager(frameseal.E2EEManager):
        def __init__(self, pc):
            provider = frameseal.ExternalE2EEKeyProvider()
            provider.set_shared_key(PASSPHRASE)
            super().__init__(provider, "livekit")

    attach_all(OwnManager, **IDS)
    await call(stack)


async def test_subclasses_are_attached_whatever_they_define(stack):
    base = part(stack).RTCPeerConnection

    class RTCPeerConnection(base):
        """A subclass with the name of its base, without a hash, which adds tracks in its constructor."""

        def __init__(self, *args):
            super().__init__(*args)
            self.name = "own"
            self.addTrack(picture_track(stack))

        __hash__ = None

        def __eq__(self, other):
            return self.name == other.name

        def __bool__(self):
            return False

        def getSenders(self):
            return []

        def __setattr__(self, name, value):
            if name.startswith("_frameseal"):
                raise AttributeError(name)
            super().__setattr__(name, value)

    attach_all(manager(), **IDS)
    async with peers(stack, stack) as (alice, bob):
        await alice.pc.close()
        alice.pc = RTCPeerConnection()
        with Tap(stack) as tap:
            await connect(alice, bob)
            await until(lambda: bob.sinks and len(next(iter(bob.sinks.values())).pictures) >= 5)
        assert opens(tap.frames(base.getSenders(alice.pc)[0], "vp8"), "vp8")
        attachment = attach(alice.pc, manager(), **IDS)
        await until(lambda: attachment.counters[0].frames_out > 0)


async def test_a_subclass_that_makes_its_base_last_is_attached(stack):
    class Late(part(stack).RTCPeerConnection):
        def __init__(self, room):
            self.room = room
            super().__init__()

    seen = []

    def make(pc):
        seen.append(getattr(pc, "room", None))
        return manager()

    attach_all(make, **IDS)
    async with peers(stack, stack) as (alice, bob):
        await alice.pc.close()
        alice.pc = Late("the room")
        video = alice.send(picture_track(stack), "vp8")
        with Tap(stack) as tap:
            await connect(alice, bob)
            await until(lambda: bob.sinks and len(bob.sinks[video.mid].pictures) >= 5)
        assert opens(tap.frames(video.sender, "vp8"), "vp8")
    assert seen[-1] == "the room"


async def test_a_second_call_replaces_the_rule_for_later_connections(stack):
    managers = [manager() for _ in range(3)]
    constructors = set()
    made = []
    for e2ee in managers:
        attach_all(e2ee, **IDS)
        constructors.add(part(stack).RTCPeerConnection.__init__)
        made.append(Peer(stack))
    assert len(constructors) == 1  # wrapped once
    async with peers(stack) as (bob,):
        alice = made[0]
        alice.send(picture_track(stack), "vp8")
        await connect(alice, bob)
        await until(lambda: managers[0].tracks() and managers[2].tracks())
        assert {track.participant_id for track in managers[0].tracks()} == {"alice"}
        assert managers[1].tracks() == []
        await hang_up(*made)


async def test_stop_attaching_leaves_later_connections_and_keeps_earlier_ones(stack):
    stop_attaching()  # without a rule
    e2ee = manager()
    attach_all(e2ee, **IDS)
    async with peers(stack) as (alice,):
        stop_attaching()
        async with peers(stack) as (bob,):
            assert [attached(peer.pc) for peer in (alice, bob)] == [True, False]
            attach(bob.pc, manager(), local_id="bob", remote_id="alice")
            video = alice.send(picture_track(stack), "vp8")
            with Tap(stack) as tap:
                await connect(alice, bob)
                await until(lambda: bob.sinks and len(bob.sinks[video.mid].pictures) >= 10)
            assert opens(tap.frames(video.sender, "vp8"), "vp8")


async def test_connections_of_threads_without_a_loop_are_attached(stack):
    """A server's loop runs the media of a connection that a thread has made."""
    made, failed = [], []

    def work():
        try:
            for _ in range(10):
                attach_all(manager(), **IDS)
                made.append(part(stack).RTCPeerConnection())
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert failed == []
    assert len(made) == 40
    async with peers(stack, stack) as (alice, bob):
        await asyncio.gather(alice.pc.close(), bob.pc.close())
        for peer, pc in zip((alice, bob), (made[0], made[-1]), strict=True):
            peer.pc = pc
            pc.on("track", peer._on_track)
        video = alice.send(picture_track(stack), "vp8")
        with Tap(stack) as tap:
            await connect(alice, bob)
            await until(lambda: bob.sinks and len(bob.sinks[video.mid].pictures) >= 10)
        assert_pictures(bob.sinks[video.mid])
        assert opens(tap.frames(video.sender, "vp8"), "vp8")


async def test_threads_that_call_it_together_hook_a_fork_once(branch, monkeypatch):
    # As before the first call in a process: otherwise the import itself hooks the fork.
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if type(finder).__name__ != "_Watcher"])
    importlib.import_module("vendor.branch")
    hooked, another = [], threading.Event()

    class Counted(stack_module.Stack):
        def __init__(self, package):
            hooked.append(package)
            if len(hooked) > 1:
                another.set()
            another.wait(0.3)  # in which another thread would hook the fork too, if nothing kept it from that
            super().__init__(package)

    monkeypatch.setattr(stack_module, "Stack", Counted)
    threads = [threading.Thread(target=attach_all, args=(manager(),), kwargs=IDS) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert hooked == ["vendor.branch"]
    await call("vendor.branch")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no os.fork")
def test_a_forked_child_keeps_the_rule_and_may_replace_it(stack):
    program = f"""
        import asyncio, os
        from support.calls import manager, part
        from frameseal.aiortc import attach, attach_all, require_attached, stop_attaching

        def attached():
            return "_frameseal_attachment" in vars(part("{stack}").RTCPeerConnection())

        async def child():
            kept = attached()
            stop_attaching()
            left = attached()
            attach_all(manager("another key"), local_id="alice", remote_id="bob")
            print("child", kept, left, attached(), flush=True)

        attach_all(manager(), local_id="alice", remote_id="bob")
        pid = os.fork()
        if pid == 0:
            asyncio.run(child())
            os._exit(0)
        os.waitpid(pid, 0)

        async def parent():
            print("parent", attached(), flush=True)

        asyncio.run(parent())
    """
    finished = ran(program)
    assert finished.stdout.split("\n")[:2] == ["child True False True", "parent True"], finished.stderr


# --- who wins --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before the call", "during the call"])
async def test_an_explicit_attachment_wins(stack, when):
    rule, own, opener = manager("the key of the rule"), manager(), manager()
    attach_all(rule, **IDS)
    async with peers(stack, stack) as (alice, bob):
        video = alice.send(picture_track(stack), "vp8")
        attach(bob.pc, opener, local_id="bob", remote_id="alice")
        with Tap(stack) as tap:
            if when == "during the call":
                await connect(alice, bob)
                await until(lambda: len(tap.packets) >= 20)
                assert opens(tap.frames(video.sender, "vp8"), "vp8", "the key of the rule")
                await until(lambda: {t.state for t in opener.tracks()} == {E2EEState.DecryptionFailed})
                tap.packets.clear()
            attachment = attach(alice.pc, own, local_id="alice", remote_id="bob")
            assert rule.tracks() == []  # it reports nothing of media that it has no longer
            if when == "before the call":
                await connect(alice, bob)
            await until(lambda: bob.sinks and len(bob.sinks[video.mid].pictures) >= 10)
        assert_pictures(bob.sinks[video.mid])
        if when == "before the call":
            assert opens(tap.frames(video.sender, "vp8"), "vp8")
        assert rule.tracks() == []
        assert {track.state for track in own.tracks()} == {E2EEState.EncryptionSuccess}
        with pytest.raises(RuntimeError, match="attached already"):
            attach(alice.pc, rule, **IDS)
        attachment.detach()
        attach(alice.pc, own, **IDS)


async def test_an_adapter_wins(stack):
    attach_all(manager("the key of the rule"), **IDS)
    pc = part(stack).RTCPeerConnection()
    transport = SimpleNamespace(
        produce=None, _consumers={}, _producers={}, handler=SimpleNamespace(pc=pc), observer=SimpleNamespace(on=print)
    )
    transport.observer.on = lambda event, handler: None

    async def produce(**options):
        return None

    transport.produce = produce
    attachment = pymediasoup.attach(transport, manager(), local_id="alice")
    assert not attachment.detached
    with pytest.raises(RuntimeError, match="attached already"):
        aiortc.attach(pc, manager(), **IDS)
    await pc.close()


async def test_a_callable_may_attach_the_connection_itself(stack):
    attachments = []

    def make(pc):
        attachments.append(attach(pc, manager(), **IDS))
        return manager("the key of the rule")

    attach_all(make, **IDS)
    pc = part(stack).RTCPeerConnection()
    with pytest.raises(RuntimeError, match="attached already"):
        attach(pc, manager(), **IDS)
    assert not attachments[0].detached
    await pc.close()


# --- which connections -----------------------------------------------------------------------------------------------


async def test_only_leaves_connections_out(stack):
    class Forwarder(part(stack).RTCPeerConnection):
        pass

    attach_all(manager(), **IDS, only=lambda pc: not isinstance(pc, Forwarder))
    plain = [Forwarder(), Forwarder()]
    async with peers(stack, stack) as (alice, bob):
        assert [attached(pc) for pc in (*plain, alice.pc, bob.pc)] == [False, False, True, True]
        await asyncio.gather(alice.pc.close(), bob.pc.close())
        for peer, pc in zip((alice, bob), plain, strict=True):
            peer.pc = pc
            pc.on("track", peer._on_track)
        video = alice.send(picture_track(stack), "vp8")
        with Tap(stack) as tap:
            await connect(alice, bob)
            await until(lambda: bob.sinks and len(bob.sinks[video.mid].pictures) >= 10)
        assert_pictures(bob.sinks[video.mid])
        with pytest.raises(FrameError):
            opens(tap.frames(video.sender, "vp8"), "vp8")


def raising(pc):
    raise LookupError("no room for this connection")


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"only": lambda pc: None}, "only must return True or False, not NoneType"),
        ({"only": lambda pc: 0}, "only must return True or False, not int"),
        ({"only": raising}, "no room"),
        ({"e2ee": raising}, "no room"),
        ({"e2ee": lambda pc: None}, "e2ee must return an E2EEManager, made with a provider of keys, not NoneType"),
        ({"e2ee": lambda pc: frameseal.E2EEManager}, "e2ee must return an E2EEManager"),
    ],
    ids=["only returns None", "only returns 0", "only raises", "e2ee raises", "e2ee returns None", "e2ee is a class"],
)
async def test_a_rule_that_fails_raises_and_closes_the_connection(stack, rule, error):
    base = part(stack).RTCPeerConnection
    caught = []

    class Swallowing(base):
        def __init__(self):
            try:
                super().__init__()
            except (LookupError, TypeError) as refusal:
                caught.append(str(refusal))

    attach_all(**{"e2ee": manager(), **IDS, **rule})
    with pytest.raises((LookupError, TypeError), match=error):
        base()
    swallowed = Swallowing()
    assert len(caught) == 1
    stop_attaching()
    async with peers(stack) as (bob,):
        await asyncio.sleep(0)
        alice = SimpleNamespace(stack=stack, pc=swallowed)
        alice.pc.addTrack(track := picture_track(stack))
        with Tap(stack) as tap:
            await connect(alice, bob)
            await until(lambda: track.sent > 15)
        assert all(len(packet.payload) == 0 for packet in tap.packets)
        await alice.pc.close()
        track.stop()


async def coroutine(pc):
    return manager()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"e2ee": None}, "e2ee must be an E2EEManager.* or a callable that returns one, not NoneType"),
        ({"e2ee": "livekit"}, "e2ee must be an E2EEManager.* not str"),
        ({"e2ee": coroutine}, "e2ee must not be a coroutine function"),
        ({"local_id": None}, "local_id must be a str, not NoneType"),
        ({"local_id": lambda pc: "alice"}, "local_id must be a str, not function"),
        ({"remote_id": 1}, "remote_id must be a str, or a callable"),
        ({"remote_id": coroutine}, "remote_id must not be a coroutine function"),
        ({"only": [1]}, "only must be a callable that returns True or False, or None, not list"),
        ({"only": coroutine}, "only must not be a coroutine function"),
    ],
)
def test_a_wrong_argument_is_an_error_and_leaves_the_rule_as_it_was(arguments, message):
    attach_all(manager(), **IDS)
    before = process.rule
    with pytest.raises(TypeError, match=message):
        attach_all(**{"e2ee": manager(), **IDS, **arguments})
    assert process.rule is before


# --- forks of the stack ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("imported", ["before", "after"])
async def test_a_fork_of_the_stack_is_attached_whenever_it_was_imported(branch, imported):
    if imported == "before":
        importlib.import_module("vendor.branch")
    attach_all(manager(), **IDS)
    module = importlib.import_module("vendor.branch.rtcpeerconnection")
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"
    await call("vendor.branch")


async def test_a_module_that_is_loaded_again_is_attached_or_refused(branch):
    importlib.import_module("vendor.branch")
    attach_all(manager(), **IDS)
    importlib.reload(sys.modules["vendor.branch.rtcpeerconnection"])
    part("vendor.branch").RTCPeerConnection = part("vendor.branch", "rtcpeerconnection").RTCPeerConnection
    await call("vendor.branch")
    purge("vendor")
    again = importlib.import_module("vendor.branch")
    with pytest.raises(UnsupportedStack, match=r"vendor\.branch was imported a second time"):
        again.RTCPeerConnection()


@pytest.mark.parametrize("imported", ["before", "after"])
async def test_a_fork_that_the_hook_does_not_support_makes_no_connection_that_would_be_plain(branch, imported):
    sender = branch / "rtcrtpsender.py"
    sender.write_text(sender.read_text("utf-8").replace("_next_encoded_frame", "_other_name"), "utf-8")
    if imported == "before":
        importlib.import_module("vendor.branch")
    chosen = [True]
    attach_all(manager(), **IDS, only=lambda pc: chosen[0])
    fork = importlib.import_module("vendor.branch")
    with pytest.raises(UnsupportedStack, match=r"(?s)vendor\.branch .*not built the way.*only= of attach_all"):
        fork.RTCPeerConnection()
    chosen[0] = False
    await fork.RTCPeerConnection().close()
    require_attached()
    with pytest.raises(UnsupportedStack):
        fork.RTCPeerConnection()
    process.attached_only = False
    stop_attaching()
    await fork.RTCPeerConnection().close()


# --- require_attached ------------------------------------------------------------------------------------------------


def refusals(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "is not attached" in record.getMessage()]


@pytest.mark.parametrize("when", ["before the call", "during the call"])
async def test_an_unattached_sender_sends_nothing_until_it_is_attached(stack, when, caplog):
    async with peers(stack, stack) as (alice, bob):
        attach(bob.pc, manager(), local_id="bob", remote_id="alice")
        tracks = [picture_track(stack), tone_track(stack)]
        for track, codec in zip(tracks, ("vp8", "opus"), strict=True):
            alice.send(track, codec)
        with Tap(stack) as tap, Arrived(stack) as arrived:
            if when == "before the call":
                require_attached()
            await connect(alice, bob)
            if when == "during the call":
                await until(lambda: len(arrived.packets) >= 20)
                require_attached()
                await asyncio.sleep(0.2)  # the packets on the way; any that left later would fail the test below
            tap.packets.clear()
            arrived.packets.clear()
            first = tracks[0].sent
            await until(lambda: tracks[0].sent >= first + 15)
            assert (tap.packets, arrived.packets) == ([], [])
            assert len(refusals(caplog)) == 1
            assert MISSING_LINE in refusals(caplog)[0]
            attach(alice.pc, manager(), **IDS)
            await until(lambda: bob.sinks and all(not sink.empty for sink in bob.sinks.values()))
            await until(lambda: any(len(sink.pictures) >= 10 for sink in bob.sinks.values()))
        assert_pictures(next(sink for sink in bob.sinks.values() if sink.pictures))
        assert len(refusals(caplog)) == 1


@pytest.mark.parametrize("when", ["before the call", "during the call"])
async def test_an_unattached_receiver_decodes_nothing_until_it_is_attached(stack, when, caplog):
    async with peers(stack, stack) as (alice, bob):
        video = alice.send(picture_track(stack), "vp8")
        audio = alice.send(tone_track(stack), "opus")
        if when == "before the call":
            attach(alice.pc, manager(), **IDS)
            require_attached()
        with Arrived(stack) as arrived:
            await connect(alice, bob)
            await until(lambda: len(bob.sinks) == 2)
            if when == "during the call":
                await until(lambda: not bob.sinks[audio.mid].empty)
                attach(alice.pc, manager(), **IDS)
                require_attached()
                await asyncio.sleep(0.3)  # what was decoded before; whatever is decoded later fails the test below
            for sink in bob.sinks.values():
                sink.clear()
            arrived.packets.clear()
            await until(lambda: len(arrived.packets) >= 40)
            assert all(sink.empty for sink in bob.sinks.values())
        assert len(refusals(caplog)) == 1
        attach(bob.pc, manager(), local_id="bob", remote_id="alice")
        await until(lambda: len(bob.sinks[video.mid].pictures) >= 10 and bob.sinks[audio.mid].seconds > 0.8)
        assert_pictures(bob.sinks[video.mid])
        assert_tone(bob.sinks[audio.mid])


async def test_connections_that_only_leaves_out_are_refused_too(stack, caplog):
    attach_all(manager(), **IDS, only=lambda pc: False)
    require_attached()
    stop_attaching()
    async with peers(stack, stack) as (alice, bob):
        alice.send(track := picture_track(stack), "vp8")
        with Tap(stack) as tap:
            await connect(alice, bob)
            await until(lambda: track.sent >= 15)
            packet = part(stack, "rtp").RtpPacket(payload_type=97, ssrc=1, payload=b"of other code").serialize()
            await alice.pc.getSenders()[0].transport._send_rtp(packet)
        assert tap.packets == []
        assert len(refusals(caplog)) == 1


async def test_attached_calls_go_on_when_attachments_are_required(stack, caplog):
    attach_all(manager(), **IDS)
    require_attached()
    require_attached()
    await call(stack)
    assert refusals(caplog) == []


async def test_a_fork_imported_after_attachments_are_required_sends_nothing(branch, caplog):
    require_attached()
    importlib.import_module("vendor.branch")
    async with peers("vendor.branch", "vendor.branch") as (alice, bob):
        alice.send(track := picture_track("vendor.branch"), "vp8")
        with Tap("vendor.branch") as tap:
            await connect(alice, bob)
            await until(lambda: track.sent >= 15)
        assert tap.packets == []
    assert len(refusals(caplog)) == 1


def test_a_call_that_started_before_the_import_is_stopped(stack):
    """Its media can no longer be sealed, so they can only be refused, and attaching it stays an error."""
    program = f"""
        import asyncio, aioice.ice
        aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
        from support.calls import Arrived, connect, negotiate, peers, picture_track, until
        async def main():
            async with peers("{stack}", "{stack}") as (alice, bob):
                track = picture_track("{stack}")
                video = alice.send(track, "vp8")
                with Arrived("{stack}") as arrived:
                    await connect(alice, bob)
                    receiver = bob.pc.getReceivers()[0]
                    queue, tasks = vars(receiver)["_RTCRtpReceiver__decoder_queue"], []
                    put = queue.put
                    queue.put = lambda task: (tasks.append(task), put(task))
                    await until(lambda: bob.sinks and len(bob.sinks[video.mid].pictures) > 5)
                    from frameseal import E2EEManager, ExternalE2EEKeyProvider
                    from frameseal.aiortc import attach, require_attached
                    require_attached()
                    await asyncio.sleep(0.3)
                    sent, seen = len(arrived.packets), len(bob.sinks[video.mid].pictures)
                    first = track.sent
                    await until(lambda: track.sent > first + 15)
                    # As if other code sent, and as if media came from another process.
                    await alice.pc.getSenders()[0].transport._send_rtp(bytes([0x80, 97]) + bytes(20))
                    for task in list(tasks):
                        vars(receiver)["_RTCRtpReceiver__decoder_queue"].put(task)
                    await asyncio.sleep(0.3)
                    print("sent", len(arrived.packets) - sent, "seen", len(bob.sinks[video.mid].pictures) - seen)
                for peer in (alice, bob):
                    await negotiate(alice, bob)
                    try:
                        attach(peer.pc, E2EEManager(ExternalE2EEKeyProvider(), "livekit"), local_id="a", remote_id="b")
                    except RuntimeError as error:
                        print(error)
        asyncio.run(main())
    """
    finished = ran(program)
    assert "sent 0 seen 0" in finished.stdout, finished.stderr
    assert finished.stdout.count("started before frameseal.aiortc was imported") == 2
    assert MISSING_LINE in finished.stderr
