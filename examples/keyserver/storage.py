"""Stores meetings, their encrypted keys and the audit trail, in any database with an async driver of SQLAlchemy."""

import asyncio
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import ForeignKey, LargeBinary, String, delete, func, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

KEY_BYTES, NONCE_BYTES, KEY_IDS = 32, 12, 16
ID_BYTES = 12
MEETING_ID = re.compile(r"[A-Za-z0-9_-]{16}")  # of ID_BYTES bytes


class WrongServerSecret(Exception):
    """The database was written under another server secret, so its keys cannot be read."""


class Table(DeclarativeBase):
    """The base of all tables."""


class Meeting(Table):
    """A meeting, ended or not."""

    __tablename__ = "meetings"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    ended: Mapped[bool] = mapped_column(default=False)


class MeetingKey(Table):
    """A sealed key: nonce and AES-256-GCM ciphertext. Meeting and key id are authenticated with it."""

    __tablename__ = "keys"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    meeting_id: Mapped[str] = mapped_column(ForeignKey("meetings.id"), index=True)
    key_id: Mapped[int]
    sealed: Mapped[bytes] = mapped_column(LargeBinary)


class Revocation(Table):
    """Tokens that no longer admit: those of one participant, or of everybody, from before a generation."""

    __tablename__ = "revocations"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    meeting_id: Mapped[str] = mapped_column(ForeignKey("meetings.id"), index=True)
    participant_id: Mapped[str | None] = mapped_column(String(64))
    """None revokes the tokens of everybody."""
    before: Mapped[int]


@dataclass(frozen=True)
class Found:
    """A key of a meeting, opened."""

    key: bytes = field(repr=False)
    key_id: int
    generation: int
    """The number of the key: a later key of the meeting has a higher number."""


class AuditEntry(Table):
    """Records who asked what of which meeting, when, and the outcome. Rows are only added; none contains a key."""

    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    time: Mapped[datetime]
    who: Mapped[str] = mapped_column(String(128))
    what: Mapped[str] = mapped_column(String(32))
    meeting_id: Mapped[str] = mapped_column(String(64))
    outcome: Mapped[str] = mapped_column(String(64))


class Storage:
    """The database of one server, or of several that share it and the secret.

    :param url: such as ``sqlite+aiosqlite:///keys.db`` or ``postgresql+asyncpg://user@host/keys``.
    :param secret: 32 bytes, under which the keys are encrypted.
    """

    def __init__(self, url: str, secret: bytes) -> None:
        """Store the settings; `open` connects."""
        self._engine = create_async_engine(url, hide_parameters=True)
        self._session = async_sessionmaker(self._engine, expire_on_commit=False)
        self._aead = AESGCM(secret)
        self._rotating = asyncio.Lock()

    async def open(self) -> None:
        """Create missing tables, and check that the keys were written under this secret. Raises WrongServerSecret."""
        async with self._engine.begin() as connection:
            await connection.run_sync(Table.metadata.create_all)
        async with self._session() as session:
            some = await session.scalar(select(MeetingKey).limit(1))
        if some is not None:
            self._unseal(some)

    async def close(self) -> None:
        """Close the connections to the database."""
        await self._engine.dispose()

    async def create(self) -> str:
        """Make a meeting with its first key; return its id."""
        meeting_id = secrets.token_urlsafe(ID_BYTES)
        async with self._session.begin() as session:
            session.add(Meeting(id=meeting_id))
            await session.flush()
            session.add(self._fresh(meeting_id, 0))
        return meeting_id

    async def key(self, meeting_id: str) -> Found | None:
        """Return the newest key of a meeting. Returns None for an unknown or ended meeting."""
        if not MEETING_ID.fullmatch(meeting_id):
            return None
        async with self._session() as session:
            row = await session.scalar(self._newest(meeting_id))
        return None if row is None else Found(self._unseal(row), row.key_id, row.number)

    async def admits(self, meeting_id: str, participant_id: str, generation: int) -> bool:
        """Return whether a participant's token of a generation admits to the newest key.

        Ask after the key was read, not before. Then no rotation can lie between the answer and the key.
        """
        refusing = select(func.count()).where(
            Revocation.meeting_id == meeting_id,
            Revocation.participant_id.is_(None) | (Revocation.participant_id == participant_id),
            Revocation.before > generation,
        )
        async with self._session() as session:
            return await session.scalar(refusing) == 0

    async def rotate(self, meeting_id: str, removed: Iterable[str] | None = None) -> int | None:
        """Make a fresh key under the next key id, and return that id. Returns None for an unknown meeting.

        :param removed: the participants who must not have the key. Their earlier tokens no longer admit; all others
            stay valid. None means that nobody knows who has left, so no earlier token admits.
        """
        if not MEETING_ID.fullmatch(meeting_id):
            return None
        # Rotate one at a time, or two keys would share one id. The row lock serves servers that share a database;
        # SQLite has one server, and no row lock.
        async with self._rotating, self._session.begin() as session:
            await session.get(Meeting, meeting_id, with_for_update=True)
            row = await session.scalar(self._newest(meeting_id))
            if row is None:
                return None
            fresh = self._fresh(meeting_id, (row.key_id + 1) % KEY_IDS)
            session.add(fresh)
            await session.flush()
            if removed is None:  # the new row covers all of them
                await session.execute(delete(Revocation).where(Revocation.meeting_id == meeting_id))
            for name in [None] if removed is None else removed:
                session.add(Revocation(meeting_id=meeting_id, participant_id=name, before=fresh.number))
            return fresh.key_id

    async def end(self, meeting_id: str) -> bool:
        """End a meeting and erase its keys."""
        if not MEETING_ID.fullmatch(meeting_id):
            return False
        async with self._session.begin() as session:
            meeting = await session.get(Meeting, meeting_id, with_for_update=True)
            if meeting is None or meeting.ended:
                return False
            meeting.ended = True
            await session.execute(delete(MeetingKey).where(MeetingKey.meeting_id == meeting_id))
            await session.execute(delete(Revocation).where(Revocation.meeting_id == meeting_id))
            return True

    async def audit(self, who: str, what: str, meeting_id: str, outcome: str) -> None:
        """Add a row to the audit trail."""
        async with self._session.begin() as session:
            session.add(
                AuditEntry(
                    time=datetime.now(UTC).replace(tzinfo=None),
                    who=_fitting(who, 128),
                    what=_fitting(what, 32),
                    meeting_id=_fitting(meeting_id, 64),
                    outcome=_fitting(outcome, 64),
                )
            )

    async def audited(self) -> list[AuditEntry]:
        """Return the audit trail, oldest first."""
        async with self._session() as session:
            return list(await session.scalars(select(AuditEntry).order_by(AuditEntry.number)))

    async def count(self) -> int:
        """Return how many keys are stored."""
        async with self._session() as session:
            return await session.scalar(select(func.count()).select_from(MeetingKey)) or 0

    @staticmethod
    def _newest(meeting_id: str):  # type: ignore[no-untyped-def]  # a Select of SQLAlchemy's
        return select(MeetingKey).where(MeetingKey.meeting_id == meeting_id).order_by(MeetingKey.number.desc()).limit(1)

    def _fresh(self, meeting_id: str, key_id: int) -> MeetingKey:
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = nonce + self._aead.encrypt(nonce, secrets.token_bytes(KEY_BYTES), _place(meeting_id, key_id))
        return MeetingKey(meeting_id=meeting_id, key_id=key_id, sealed=sealed)

    def _unseal(self, row: MeetingKey) -> bytes:
        nonce, ciphertext = row.sealed[:NONCE_BYTES], row.sealed[NONCE_BYTES:]
        try:
            return self._aead.decrypt(nonce, ciphertext, _place(row.meeting_id, row.key_id))
        except InvalidTag:
            raise WrongServerSecret("this database was written under another server secret") from None

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("cannot pickle Storage: it holds the secret of the database")


def _fitting(text: str, max_len: int) -> str:
    """Cut a client's text to a column's length. Replaces NUL (PostgreSQL) and text without a UTF-8 encoding."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:max_len]


def _place(meeting_id: str, key_id: int) -> bytes:
    return f"frameseal keyserver v1\0{meeting_id}\0{key_id}".encode()
