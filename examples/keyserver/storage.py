"""Meetings, their keys (encrypted), and the audit trail, in any database that SQLAlchemy speaks to asynchronously."""

import asyncio
import secrets
from datetime import UTC, datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import ForeignKey, LargeBinary, String, delete, func, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

KEY_BYTES, NONCE_BYTES, KEY_IDS = 32, 12, 16


class WrongServerSecret(Exception):
    """The database was written under another server secret: its keys cannot be read."""


class Table(DeclarativeBase):
    """The base of all tables."""


class Meeting(Table):
    """A meeting that has not ended, or has."""

    __tablename__ = "meetings"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    ended: Mapped[bool] = mapped_column(default=False)


class MeetingKey(Table):
    """A key: nonce and AES-256-GCM ciphertext, with the meeting and key id authenticated."""

    __tablename__ = "keys"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    meeting_id: Mapped[str] = mapped_column(ForeignKey("meetings.id"), index=True)
    key_id: Mapped[int]
    sealed: Mapped[bytes] = mapped_column(LargeBinary)


class AuditEntry(Table):
    """Who asked what of which meeting, when, and what came of it. Rows are only ever added; none has a key."""

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
        """Open nothing yet."""
        self._engine = create_async_engine(url)
        self._session = async_sessionmaker(self._engine, expire_on_commit=False)
        self._aead = AESGCM(secret)
        self._rotating = asyncio.Lock()

    async def open(self) -> None:
        """Make the tables where there are none, and see whether this secret is the one that they were written under."""
        async with self._engine.begin() as connection:
            await connection.run_sync(Table.metadata.create_all)
        async with self._session() as session:
            some = await session.scalar(select(MeetingKey).limit(1))
        if some is not None:
            self._unseal(some)

    async def close(self) -> None:
        """Let go of the database."""
        await self._engine.dispose()

    async def create(self) -> str:
        """Make a meeting with its first key; return its id."""
        meeting_id = secrets.token_urlsafe(12)
        async with self._session.begin() as session:
            session.add(Meeting(id=meeting_id))
            await session.flush()
            session.add(self._fresh(meeting_id, 0))
        return meeting_id

    async def key(self, meeting_id: str) -> tuple[bytes, int] | None:
        """Return the newest key of a meeting and its id; None: no such meeting, or it has ended."""
        async with self._session() as session:
            row = await session.scalar(self._newest(meeting_id))
        return None if row is None else (self._unseal(row), row.key_id)

    async def rotate(self, meeting_id: str) -> int | None:
        """Make a fresh key under the next key id, and return that; None: no such meeting."""
        # One at a time, or two keys would have one id. The row is locked for servers that share a database; SQLite has
        # one server, and no such lock.
        async with self._rotating, self._session.begin() as session:
            await session.get(Meeting, meeting_id, with_for_update=True)
            row = await session.scalar(self._newest(meeting_id))
            if row is None:
                return None
            fresh = self._fresh(meeting_id, (row.key_id + 1) % KEY_IDS)
            session.add(fresh)
            return fresh.key_id

    async def end(self, meeting_id: str) -> bool:
        """End a meeting and erase its keys."""
        async with self._session.begin() as session:
            meeting = await session.get(Meeting, meeting_id, with_for_update=True)
            if meeting is None or meeting.ended:
                return False
            meeting.ended = True
            await session.execute(delete(MeetingKey).where(MeetingKey.meeting_id == meeting_id))
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


def _fitting(text: str, most: int) -> str:
    """Cut what a client sent to what a column takes; PostgreSQL has no NUL in text."""
    return text.replace("\0", "\ufffd")[:most]


def _place(meeting_id: str, key_id: int) -> bytes:
    return f"frameseal keyserver v1\0{meeting_id}\0{key_id}".encode()
