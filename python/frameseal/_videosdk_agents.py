"""The package videosdk-agents (1.0.30), where it sends or records media past the meeting that is encrypted.

A key provider covers meetings. The package has other ways too: a plain peer connection, a web socket, recordings that
it requests by REST, and data messages with the agent's speech for an avatar. Each of them is an error while end-to-end
encryption is on. ``frameseal.videosdk`` installs these hooks. They wait until the package is imported.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final

from frameseal._imports import after_import

__all__ = ["NO_RECORDING", "Detours", "E2EEError", "is_in", "modules_of_callers", "server_cannot"]

SDK: Final = "videosdk"
AGENTS: Final = "videosdk.agents"
JOBS: Final = "videosdk.agents.job"
ROOMS: Final = "videosdk.agents.room.room"
AVATARS: Final = "videosdk.agents.avatar"

NO_RECORDING: Final = "record it, only noise. Record in a participant that has the key"

_logger = logging.getLogger("frameseal")


class E2EEError(RuntimeError):
    """An encrypted meeting does not support the call, or the call was made too late."""

    __module__ = "frameseal.videosdk"  # where it is public


def server_cannot(what: str) -> E2EEError:
    """Return the error of a request that the server cannot fulfil without the key."""
    return E2EEError(f"this meeting is end-to-end encrypted, so the server cannot {what}")


def modules_of_callers() -> Iterator[str]:
    """Yield the names of the modules on the call stack, nearest first."""
    frame = sys._getframe(1)
    while frame is not None:
        yield frame.f_globals.get("__name__", "")
        frame = frame.f_back  # type: ignore[assignment]


def is_in(module: str, *packages: str) -> bool:
    """Return whether a module is in one of the packages, by its name."""
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


class Detours:
    """The hooks in videosdk-agents. They are in its classes, because its modules import each other's names."""

    def __init__(self, is_on: Callable[[str | None], bool]) -> None:
        """Hook the package when it is imported.

        :param is_on: returns whether end-to-end encryption is on: a key provider was set, or the meeting of an id is
            encrypted. None stands for any meeting.
        """
        self._is_on = is_on
        self._hooked: set[str] = set()
        self._unknown = ""  # why a module could not be hooked
        self._warned = False  # of transcripts
        after_import((JOBS, ROOMS).__contains__, self._hook)

    def check_meeting(self) -> None:
        """Check the hooks if videosdk-agents is making an encrypted meeting. Call it while the meeting is made.

        :raises E2EEError: the package is not built the way the hooks need.
        """
        makers = itertools.takewhile(lambda module: is_in(module, "frameseal", SDK), modules_of_callers())
        if not any(is_in(module, AGENTS) for module in makers):
            return
        missing = [name for name in (JOBS, ROOMS) if name not in self._hooked]
        if missing or self._unknown:
            raise self._unsupported(self._unknown or f"{missing[0]} is missing")

    def _unsupported(self, why: str) -> E2EEError:
        return E2EEError(
            f"videosdk-agents is not built the way frameseal needs ({why}), so its recordings and plain transports "
            "cannot be refused in an encrypted meeting: install videosdk-agents 1.0.30"
        )

    def _hook(self, module: ModuleType) -> None:
        if module.__name__ in self._hooked:
            return
        try:
            if module.__name__ == JOBS:
                self._check_before(module.JobContext, "connect", self._check_transport)
            else:
                self._check_before(module.VideoSDKHandler, "join", self._check_room)
                starts = [name for name in vars(module.RecordingManager) if name.startswith("start")]
                if not starts:
                    raise LookupError("RecordingManager has no method that starts a recording")
                for name in starts:
                    self._check_before(module.RecordingManager, name, self._check_recording)
        except (AttributeError, LookupError) as error:  # the application may not use end-to-end encryption
            self._unknown = str(error)
        self._hooked.add(module.__name__)

    def _check_before(self, cls: type, name: str, check: Callable[[Any], None]) -> None:
        original = vars(cls)[name]
        if not inspect.iscoroutinefunction(original):
            raise LookupError(f"{cls.__name__}.{name} is no coroutine function")

        @functools.wraps(original)
        async def checked(owner: object, *args: object, **options: object) -> object:
            try:
                check(owner)
            except (AttributeError, LookupError) as error:
                if self._is_on(None):
                    raise self._unsupported(str(error)) from error
            return await original(owner, *args, **options)

        setattr(cls, name, checked)

    def _check_transport(self, job: Any) -> None:
        """Refuse a transport that is neither a meeting nor made of peer connections, which are checked one by one."""
        if not self._is_on("") or job.room_options is None:
            return
        name = job.room_options.transport_mode.name
        if name not in ("VIDEOSDK", "WEBRTC"):
            raise E2EEError(
                f"TransportMode.{name} is not end-to-end encrypted, and a key provider was set: use "
                "TransportMode.VIDEOSDK, or call set_key_provider(None) in this process to send in the clear"
            )

    def _check_room(self, handler: Any) -> None:
        """Refuse what would leave an encrypted meeting beside its media."""
        if not self._is_on(handler.meeting_id):
            return
        if handler.recording:
            handler.recording = False  # so that leaving asks for no recordings
            raise server_cannot(NO_RECORDING)
        avatars = sys.modules.get(AVATARS)
        if avatars is not None and any(isinstance(sink, avatars.AvatarAudioOut) for sink in handler.audio_sinks):
            raise E2EEError(
                "this meeting is end-to-end encrypted, and an avatar server would receive the agent's speech in data "
                "messages in the clear: leave out avatar="
            )
        traces = handler.traces_options
        if not self._warned and (traces is None or (traces.enabled and not traces.export_url)):
            self._warned = True
            _logger.warning(
                "the agent may send VideoSDK transcripts of an encrypted meeting, with its traces: "
                "RoomOptions(traces=TracesOptions(enabled=False)) keeps them"
            )

    def _check_recording(self, manager: Any) -> None:
        if self._is_on(manager.room_id):
            raise server_cannot(NO_RECORDING)
