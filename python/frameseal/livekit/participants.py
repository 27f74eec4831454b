"""The other participants of a LiveKit room and their tracks, as the server announces them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from aiortc import MediaStreamTrack, RTCRtpReceiver
from livekit.protocol import models

from frameseal.e2ee.manager import E2EEManager
from frameseal.livekit.signalling import name_of

__all__ = ["KINDS", "Participant", "Participants", "RemoteTrack", "is_playable"]

KINDS: Final = {"audio": models.TrackType.AUDIO, "video": models.TrackType.VIDEO}


@dataclass(eq=False)
class Participant:
    """Another participant of the room."""

    identity: str
    """The participant id of keys, states and data messages."""
    sid: str
    """The server's id of this visit of the participant."""
    name: str = ""
    """The display name."""
    tracks: dict[str, RemoteTrack] = field(default_factory=dict, repr=False)
    """The published tracks, by the server's track id."""


@dataclass(eq=False)
class RemoteTrack:
    """A track that another participant publishes."""

    participant: Participant
    """The publisher."""
    sid: str
    """The server's id of the track."""
    kind: Literal["audio", "video"]
    """The kind of media."""
    mime_type: str
    """The codec, such as "video/vp8"."""
    name: str
    """The name that the publisher chose."""
    source: str
    """The source: "MICROPHONE", "CAMERA", "SCREEN_SHARE", "SCREEN_SHARE_AUDIO" or "UNKNOWN"."""
    encrypted: bool
    """True if the publisher declares that the track is sealed. Unsealed media is never delivered in either case."""
    muted: bool
    """True while the publisher sends no media."""
    subscribed: bool = False
    """True if this side asks the server for the media. `Room.subscribe` changes it."""
    media: MediaStreamTrack | None = None
    """The decoded media. None unless the track is subscribed and its connection is up."""


class Participants:
    """The participants of a room. They outlive reconnections.

    :param deliver: delivers an event of the room.
    :param subscribes: True subscribes to each new track that aiortc can decode.
    """

    def __init__(self, e2ee: E2EEManager, deliver: Callable[[str, object], None], *, subscribes: bool) -> None:
        self.by_identity: Final[dict[str, Participant]] = {}
        self.own = models.ParticipantInfo()
        """This side, as the server knows it."""
        self._e2ee, self._deliver, self._subscribes = e2ee, deliver, subscribes

    def tracks(self) -> Iterator[RemoteTrack]:
        """Yield the tracks of all participants."""
        for participant in list(self.by_identity.values()):
            yield from list(participant.tracks.values())

    def track(self, participant_sid: str, track_sid: str) -> RemoteTrack | None:
        """Return a track by the server's ids. None means that no such track is published, or that it is not sealed."""
        sids = (participant_sid, track_sid)
        found = (each for each in self.tracks() if (each.participant.sid, each.sid) == sids and each.encrypted)
        return next(found, None)

    def update(self, infos: Iterable[models.ParticipantInfo]) -> None:
        """Handle the server's news of participants and their tracks."""
        for info in infos:
            if info.identity == self.own.identity:
                self.own = info
                continue
            known = self.by_identity.get(info.identity)
            if info.state == models.ParticipantInfo.State.DISCONNECTED:
                if known is not None and known.sid == info.sid:  # not an earlier visit of a participant who is back
                    self.forget(known)
                continue
            if known is not None and known.sid != info.sid:
                self.forget(known)
                known = None
            if known is None:
                known = self.by_identity[info.identity] = Participant(info.identity, info.sid)
                known.name = info.name
                self._deliver("participant-joined", known)
            known.name = info.name
            self._update_tracks(known, info.tracks)

    def _update_tracks(self, participant: Participant, infos: Iterable[models.TrackInfo]) -> None:
        published = {info.sid: info for info in infos if info.type in KINDS.values()}
        for sid in participant.tracks.keys() - published.keys():
            self._unpublished(participant.tracks.pop(sid))
        for sid, info in published.items():
            track = participant.tracks.get(sid)
            if track is None:
                track = participant.tracks[sid] = RemoteTrack(
                    participant,
                    sid,
                    "audio" if info.type == models.TrackType.AUDIO else "video",
                    "",
                    info.name,
                    name_of(models.TrackSource, info.source),
                    info.encryption != models.Encryption.Type.NONE,
                    info.muted,
                )
                if not track.encrypted:
                    self._e2ee.report_not_encrypted(participant.identity, track.kind, track_id=sid)
                self._deliver("track-published", track)
            elif track.muted != info.muted:
                track.muted = info.muted
                self._deliver("track-muted" if info.muted else "track-unmuted", track)
            if info.mime_type and not track.mime_type:  # the server may learn the codec when the media arrives
                track.mime_type = info.mime_type.lower()
                track.subscribed = self._subscribes and is_playable(track)

    def keep_only(self, infos: Iterable[models.ParticipantInfo]) -> None:
        """Forget the participants whose visits are not among *infos*."""
        present = {info.identity: info.sid for info in infos}
        for participant in list(self.by_identity.values()):
            if present.get(participant.identity) != participant.sid:
                self.forget(participant)

    def forget(self, participant: Participant) -> None:
        """Remove a participant who has left."""
        self.by_identity.pop(participant.identity, None)
        for track in participant.tracks.values():
            self._unpublished(track)
        self._e2ee.remove_participant(participant.identity)
        self._deliver("participant-left", participant)

    def _unpublished(self, track: RemoteTrack) -> None:
        self.end_media(track)
        self._deliver("track-unpublished", track)

    def begin_media(self, track: RemoteTrack, media: MediaStreamTrack) -> None:
        """Note that the media of a track arrives."""
        track.media = media
        media.on("ended", lambda: self.end_media(track, media))
        self._deliver("track", track)

    def end_media(self, track: RemoteTrack, media: MediaStreamTrack | None = None) -> None:
        """Forget the media of a track, if it is *media* or *media* is None."""
        if track.media is not None and media in (None, track.media):
            track.media = None
            self._deliver("track-ended", track)


def is_playable(track: RemoteTrack) -> bool:
    """Return whether the track is sealed with a codec that aiortc decodes.

    An offer that has a line of unknown codecs only would fail as a whole.
    """
    capabilities = RTCRtpReceiver.getCapabilities(track.kind)
    known = {each.mimeType.lower() for each in capabilities.codecs} if capabilities is not None else set()
    return track.encrypted and track.mime_type in known
