"""Run a voice agent in an end-to-end encrypted LiveKit room, on aiortc alone: it listens, understands and answers.

Set LIVEKIT_URL, LIVEKIT_TOKEN (a token that may publish and subscribe) and ROOM_PASSPHRASE, the key of the room. The
passphrase stays in this process. Replace `understand` and `answer` of voice_bot.py with your recogniser and your model.
"""

import asyncio
import os

from frameseal import ExternalE2EEKeyProvider
from frameseal.livekit import DataRefused, Participant, RemoteTrack, Room, join
from voice_bot import Voice, answer, listen, speak, understand


async def converse(room: Room, track: RemoteTrack, voice: Voice) -> None:
    """Answer what is said on one track, aloud and as a sealed message, until the track ends."""
    assert track.media is not None  # the event "track" says so
    while True:
        reply = answer(understand(await listen(track.media)))
        print(f"agent to {track.participant.identity}: {reply}", flush=True)
        voice.say(speak(reply))
        await room.send(reply.encode(), topic="agent", to=[track.participant.identity])


async def main() -> None:
    """Stay in the room until it is over."""
    provider = ExternalE2EEKeyProvider()
    provider.set_shared_key(os.environ["ROOM_PASSPHRASE"])
    talks: dict[RemoteTrack, asyncio.Task[None]] = {}
    async with join(os.environ["LIVEKIT_URL"], os.environ["LIVEKIT_TOKEN"], provider) as room:
        voice = Voice()

        @room.on("track")
        def started(track: RemoteTrack) -> None:
            if track.kind == "audio":
                talks[track] = asyncio.create_task(converse(room, track, voice))

        @room.on("track-ended")
        def ended(track: RemoteTrack) -> None:
            if (talk := talks.pop(track, None)) is not None:
                talk.cancel()

        @room.on("participant-joined")
        def joined(participant: Participant) -> None:
            print(f"{participant.identity} is in the room", flush=True)

        @room.on("data-refused")
        def refused(message: DataRefused) -> None:
            print(f"a message of {message.participant_id} was dropped", flush=True)

        await room.publish(voice)
        print("left:", await room.wait_left())


if __name__ == "__main__":
    asyncio.run(main())
