"""Uses the public names that must not change. mypy checks it (pyproject.toml), and test_public_api.py runs it."""

import numpy as np
from aiortc import RTCPeerConnection

import frameseal
from frameseal.aiortc import attach, attach_all, require_attached, stop_attaching


def seal_and_open() -> None:
    for profile in ("sframe", "livekit", "videosdk", "jitsi", "nextcloud", "stream"):
        frameseal.KeyRing(profile)
    frameseal.KeyRing("sframe", suite=frameseal.CipherSuite.AES_128_GCM_SHA256_128)
    ring = frameseal.KeyRing(frameseal.Profile.LIVEKIT, ratchet_window=16, failure_tolerance=10)
    ring.set_passphrase(b"secret", key_id=1)
    ring.set_passphrase("secret", key_id=0)
    ring.set_key(bytes(16), key_id=2)
    ring.ratchet(key_id=0)
    ring.remove_key(2)
    key_ids: list[int] = ring.key_ids
    ring.sending_key_id = 0
    assert (key_ids, ring.sending_key_id) == ([0, 1], 0)

    for codec in ("opus", "pcmu", "pcma", "g722", "vp8", "vp9", "h264", "h265", None):
        enc = frameseal.Encryptor(ring, codec=codec)
        for window in (None, 0, 64):
            dec = frameseal.Decryptor(ring, codec=codec, replay_window=window)
        if codec in ("h264", "h265"):
            continue
        sealed: bytes = enc.encrypt(b"\x11 a frame", metadata=b"")
        frame: bytes = dec.decrypt(sealed)
        assert frame == b"\x11 a frame"
        assert dec.decrypt(enc.encrypt(np.frombuffer(b"\x11 another", np.uint8))) == b"\x11 another"
        counters: tuple[int, int] = enc.stats()["frames"], dec.stats()["frames"]
        assert counters == (2, 2)

        data, offsets = np.frombuffer(b"\x11one\x11three", np.uint8), np.array([0, 4, 10])
        batch, batch_offsets = enc.encrypt_batch(data, offsets, threads=None)
        frames, offsets, ok = dec.decrypt_batch(batch, batch_offsets, threads=None)
        assert frames.tobytes() == data.tobytes()
        assert ok.all()


async def hold_a_call() -> None:
    provider = frameseal.ExternalE2EEKeyProvider(
        discard_frame_when_cryptor_not_ready=True, ratchet_window_size=0, failure_tolerance=-1
    )
    provider.set_shared_key(bytes(16))
    provider.set_shared_key("secret")
    for profile in ("videosdk", "sframe", "livekit", "jitsi", "nextcloud", "stream"):
        e2ee = frameseal.E2EEManager(provider, profile=profile)

    @e2ee.on("e2ee-state-change")
    def changed(event: frameseal.E2EEStateChange) -> None:
        print(event.participant_id, event.kind, event.state)

    for remote_id in ("bob", lambda receiver: "bob"):
        pc = RTCPeerConnection()
        attach(pc, e2ee, local_id="alice", remote_id=remote_id)
        await pc.close()
    attach_all(e2ee, local_id="alice", remote_id="bob")
    attach_all(lambda pc: e2ee, local_id="alice", remote_id=lambda receiver: "bob", only=lambda pc: True)
    stop_attaching()
    assert callable(require_attached)
