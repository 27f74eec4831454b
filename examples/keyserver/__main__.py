"""Run the key server: ``python -m keyserver`` in the folder examples. ``--help`` lists the options."""

import argparse
import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from aiohttp import web
from sqlalchemy.exc import SQLAlchemyError

from .app import make_app
from .storage import Storage, WrongServerSecret
from .tls import development_certificate, fingerprint, server_context
from .tokens import Tokens

SECRETS = {
    "KEYSERVER_DATABASE_SECRET": "encrypts the keys in the database",
    "KEYSERVER_TOKEN_SECRET": "signs access tokens",
    "KEYSERVER_APPLICATION_KEY": "authorises your application server",
}


def secret(name: str) -> bytes:
    """Return 32 bytes from 64 hex digits in the environment. Exits with an instruction otherwise."""
    try:
        value = bytes.fromhex(os.environ.get(name, ""))
    except ValueError:
        value = b""
    if len(value) != 32:
        sys.exit(f"{name} {SECRETS[name]}: set it to 64 hex digits, such as those of `openssl rand -hex 32`")
    return value


class Parser(argparse.ArgumentParser):
    """A parser whose errors quote no argument: the URL of a database may contain a password."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2, and name the argument."""
        super().error(f"{message.partition(':')[0]}: see --help")


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until interrupted."""
    secrets = {name: secret(name) for name in SECRETS}
    try:
        storage = Storage(arguments.database, secrets["KEYSERVER_DATABASE_SECRET"])
    except (SQLAlchemyError, ModuleNotFoundError, ValueError):
        sys.exit("--database must be an async URL of SQLAlchemy, and its driver must be installed")
    try:
        await storage.open()
    except WrongServerSecret as error:
        sys.exit(f"{error}: start with the previous KEYSERVER_DATABASE_SECRET, or with another database")
    if arguments.certificate:
        certificate, key = arguments.certificate, arguments.key
    else:
        certificate, key = development_certificate(arguments.folder)
    app = make_app(storage, Tokens(secrets["KEYSERVER_TOKEN_SECRET"]), secrets["KEYSERVER_APPLICATION_KEY"].hex())
    runner = web.AppRunner(app, access_log=None)  # the audit trail says more, and no tokens
    await runner.setup()
    site = web.TCPSite(runner, arguments.host, arguments.port, ssl_context=server_context(certificate, key))
    await site.start()
    port = runner.addresses[0][1]
    print(f"https://{arguments.host}:{port}, certificate {certificate}, SHA-256 {fingerprint(certificate)}")
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
        await storage.close()


def main() -> None:
    """Read the command line."""
    parser = Parser(prog="keyserver", description="Makes meeting keys and distributes them over TLS.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument("--database", default="sqlite+aiosqlite:///keys.db", help="an async URL of SQLAlchemy")
    parser.add_argument("--certificate", type=Path, help="PEM; a certificate for localhost is made by default")
    parser.add_argument("--key", type=Path, help="the certificate's private key, PEM")
    parser.add_argument("--folder", type=Path, default=Path(), help="folder of the certificate for localhost")
    arguments = parser.parse_args()
    if bool(arguments.certificate) != bool(arguments.key):
        parser.error("--certificate and --key belong together")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments))


if __name__ == "__main__":
    main()
