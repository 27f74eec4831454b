"""Connect two aiortc peers in one process: Alice sends sealed video and audio, Bob has the key. Takes a few seconds.

In a real call each side runs its own half, and your signalling carries offer and answer.
"""

import asyncio

from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack

from frameseal import E2EEManager, E2EEStateChange, ExternalE2EEKeyProvider
from frameseal.aiortc import attach

FRAMES = {"audio": 20, "video": 10}  # decoded frames after which this example ends


def encryption(name: str) -> E2EEManager:
    """Set the key and listen to the state of every track. Each side does this once per call."""
    provider = ExternalE2EEKeyProvider(failure_tolerance=10)
    provider.set_shared_key("correct horse battery staple")
    e2ee = E2EEManager(provider, profile="livekit")

    @e2ee.on("e2ee-state-change")
    def changed(change: E2EEStateChange) -> None:
        print(f"{name}: {change.kind} of {change.participant_id}: {change.state}")

    return e2ee


async def play(track: MediaStreamTrack) -> None:
    """Stand in for a player: receive decoded frames until there are enough."""
    for _ in range(FRAMES[track.kind]):
        await track.recv()
    print(f"bob: decoded {FRAMES[track.kind]} {track.kind} frames")


async def call() -> None:
    """Connect, play, hang up."""
    alone = RTCConfiguration(iceServers=[])  # both are on this machine and need no STUN server
    alice, bob = RTCPeerConnection(alone), RTCPeerConnection(alone)
    # Attach each connection, before or after its tracks are added. From here on nothing leaves unsealed.
    attach(alice, encryption("alice"), local_id="alice", remote_id="bob")
    attach(bob, encryption("bob"), local_id="bob", remote_id="alice")

    alice.addTrack(AudioStreamTrack())
    alice.addTrack(VideoStreamTrack())
    players: list[asyncio.Task[None]] = []
    bob.on("track", lambda track: players.append(asyncio.create_task(play(track))))

    await alice.setLocalDescription(await alice.createOffer())
    await bob.setRemoteDescription(alice.localDescription)
    await bob.setLocalDescription(await bob.createAnswer())
    await alice.setRemoteDescription(bob.localDescription)

    try:
        async with asyncio.timeout(30):
            await asyncio.gather(*players)
    finally:
        await asyncio.gather(alice.close(), bob.close())


if __name__ == "__main__":
    asyncio.run(call())
