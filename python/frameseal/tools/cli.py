"""The command line: `frameseal demo`, `meet`, `record`, `archive`, `open`, `inspect`, `bench` and `keygen`."""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import re
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from frameseal._native import __version__
from frameseal._secrecy import Hidden, utf8
from frameseal.codecs import CODECS
from frameseal.enums import Profile
from frameseal.profiles import PROFILES, layout

if TYPE_CHECKING:
    from frameseal.inspection import readings

KEY_BYTES = 32
MAX_ROOM_DIGITS = 20  # a room's number has 64 bits
SHOWN_BYTES = 24  # bytes of a part that are printed; an ellipsis replaces the rest
# Matches the beginnings of messages that quote no argument: ours, and argparse's that name options only.
SAFE_MESSAGE = re.compile(r"(argument [^:]+: )?(must |expected |not allowed with |the following |one of the |unknown )")
# By imported module, the package that an extra installs.
EXTRA_OF_MODULE = {
    "aiohttp": "aiohttp",
    "aioice": "aiortc",
    "aiortc": "aiortc",
    "av": "aiortc",
    "numpy": "numpy",
    "PIL": "pillow",
    "pyarrow": "pyarrow",
    "rich": "rich",
    **dict(livekit="livekit-protocol"),  # a module, and no profile that is told apart
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Return the exit status: 0, 1 if the check of the command failed, or 2 if it could not run."""
    arguments, unknown = _parser().parse_known_args(argv)
    if unknown:
        arguments.parser.error(f"unknown arguments: {len(unknown)}")
    try:
        return int(arguments.run(arguments))
    except ModuleNotFoundError as error:
        missing = EXTRA_OF_MODULE.get((error.name or "").partition(".")[0])
        if missing is None:
            raise
        extras = {"archive": "archive", "meet": "meet", "open": "archive,cli", "record": "archive,cli,livekit"}
        extra = extras.get(arguments.command, "cli")
        if missing == "pyarrow" and "archive" not in extra:  # for --record
            extra = f"archive,{extra}"
        print(f'frameseal {arguments.command} needs {missing}: pip install "frameseal[{extra}]"', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """A parser whose errors quote no argument, which may be a misplaced passphrase."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)  # `--pass` must not match `--passphrase`
        self.set_defaults(parser=self)

    def error(self, message: str) -> NoReturn:
        """Exit with status 2. Print which argument is wrong and what is allowed."""
        if not SAFE_MESSAGE.match(message):
            argument, _, rest = message.partition(": ")
            _, listed, choices = rest.rpartition(" (choose from ")
            argument = argument if argument.startswith("argument ") else "arguments"
            message = f"{argument}: not allowed{listed}{choices if listed else ', see --help'}"
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="frameseal", description="End-to-end encryption of encoded media frames.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for add in (_add_demo, _add_meet, _add_record, _add_open, _add_bench, _add_inspect, _add_archive, _add_keygen):
        add(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="run an encrypted call with an eavesdropper, and draw a picture of it",
        description="Alice calls Bob through a forwarder without a key; Eve receives the call with a wrong key. "
        "Exits with 0 only if Bob saw and heard Alice, and neither Eve nor the forwarder did.",
    )
    # The demo's key is a passphrase.
    profiles = [profile.value for profile, info in PROFILES.items() if info["accepts_passphrases"]]
    demo.add_argument("--profile", choices=profiles, default=Profile.VIDEOSDK.value, help="wire format (%(default)s)")
    demo.add_argument("--codec", choices=_pictures(), default="vp8", help="video codec (%(default)s)")
    demo.add_argument(
        "--seconds",
        type=_seconds,
        default=8.0,
        metavar="N",
        help="length of the call (8), on a slow machine up to 30 s longer",
    )
    secret = demo.add_mutually_exclusive_group()
    secret.add_argument("--passphrase", type=_passphrase, metavar="TEXT", help="passphrase of Alice and Bob (random)")
    secret.add_argument(
        "--passphrase-file",
        type=_path,
        metavar="FILE",
        help="file with the passphrase, made if it does not exist (with --record: in your own state folder)",
    )
    demo.add_argument(
        "--output", type=_path, default=Path("demo.png"), metavar="FILE", help="file for the picture (%(default)s)"
    )
    demo.add_argument("--media", type=_path, metavar="FILE", help="publish this file instead of a clock and a tone")
    demo.add_argument(
        "--loss", type=_percent, default=0.0, metavar="PERCENT", help="share of packets lost on each leg (0)"
    )
    demo.add_argument(
        "--record", metavar="FOLDER|ADDRESS", help="let the forwarder archive what it forwards, without a key"
    )
    demo.set_defaults(run=_demo)


def _add_meet(commands: Any) -> None:
    meet = commands.add_parser(
        "meet",
        help="run an encrypted meeting in a browser, with a participant in Python",
        description="Serves a page and a Python participant, the bot, which meet through an SFU without a key. "
        "Open the printed link, and talk. npm fetches the e2ee worker for the browser once.",
    )
    meet.add_argument(
        "--port",
        type=_port,
        default=8470,
        metavar="N",
        help="TCP port of the page (%(default)s); 0 selects a free port",
    )
    meet.add_argument(
        "--lan", action="store_true", help="serve the local network over HTTPS (default: this machine only)"
    )
    meet.add_argument("--codec", choices=_pictures(), default="vp8", help="video codec (%(default)s)")
    meet.add_argument("--passphrase", type=_passphrase, metavar="TEXT", help="passphrase of the meeting (random)")
    meet.add_argument(
        "--sfu",
        type=_sfu,
        metavar="janus=ws://HOST:PORT",
        help="forward media through this SFU (default: one in this process)",
    )
    meet.add_argument(
        "--worker", type=_path, metavar="FILE", help="use this file of the npm package instead of fetching it"
    )
    meet.add_argument(
        "--record", metavar="FOLDER|ADDRESS", help="archive the sealed meeting, without a key; the page says so"
    )
    meet.set_defaults(run=_meet)


def _add_record(commands: Any) -> None:
    record = commands.add_parser(
        "record",
        help="record a room of a Janus or LiveKit server, sealed and without a key",
        description="Archives the sealed frames of a room until Ctrl-C or SIGTERM. It has no key, so it cannot tell "
        "the room: tell the participants. Exits with 0 if the archive is closed, with 1 if the room is gone or frames "
        "are missing because of the disk, and with 2 if it could not begin.",
    )
    server = record.add_mutually_exclusive_group(required=True)
    server.add_argument("--janus", type=_web_socket, metavar="ws://HOST/janus", help="web socket of a Janus gateway")
    server.add_argument("--livekit", type=_web_socket, metavar="wss://HOST", help="URL of a LiveKit server")
    record.add_argument("--room", type=_room_id, metavar="ID", help="id of the VideoRoom at Janus")
    record.add_argument(
        "-o", "--output", required=True, metavar="FOLDER|ADDRESS", help="the archive, such as s3://bucket/x"
    )
    record.add_argument("--recording", metavar="ID", help="id of the recording; one that exists is continued")
    record.add_argument(
        "--segment-seconds", type=_segment, default=300.0, metavar="N", help="length of a segment (300)"
    )
    record.add_argument(
        "--profile",
        choices=list(map(str, PROFILES)),
        help=f"wire format at Janus ({Profile.LIVEKIT.value})",
    )
    record.add_argument("--attempts", type=_attempts, default=10, metavar="N", help="attempts to join again (10)")
    for name, what in (("pin", "pin of the Janus room"), ("token", "token"), ("api-secret", "secret of Janus' API")):
        variable = f"FRAMESEAL_{name.upper().replace('-', '_')}"
        shown = f"file with the {what} (or the variable {variable})"
        record.add_argument(f"--{name}-file", type=_path, metavar="FILE", help=shown)
    record.set_defaults(run=_record)


def _add_open(commands: Any) -> None:
    opening = commands.add_parser(
        "open",
        help="open a sealed recording into files that players play",
        description="Opens an archive of sealed frames: one Matroska file for each participant, without re-encoding, "
        "and timeline.png. Asks for the passphrase if no file with keys is passed. Exits with 0 only if everything "
        "opened, with 1 if a part did not, and with 2 if it could not run.",
    )
    opening.add_argument("archive", metavar="ARCHIVE", help="the folder or location of the archive")
    opening.add_argument(
        "-o", "--output", type=_path, required=True, metavar="FOLDER", help="folder for the opened files"
    )
    opening.add_argument("--recording", metavar="ID", help="recording to open (default: the first of the archive)")
    opening.add_argument("--overwrite", action="store_true", help="allow a folder that has files")
    opening.add_argument(
        "--passphrase-file",
        type=_path,
        action="append",
        default=[],
        metavar="FILE",
        help="file with the passphrase of the room, - for stdin; may be repeated",
    )
    opening.add_argument(
        "--key-file",
        type=_path,
        action="append",
        default=[],
        metavar="FILE",
        help="file with a raw key, or with keys by key id and participant in JSON; may be repeated",
    )
    opening.add_argument("--grid", type=_path, metavar="FILE.mp4", help="also compose one picture and mix one sound")
    opening.add_argument("--transcript", type=_path, metavar="FOLDER", help="also write what was said")
    opening.add_argument(
        "--recognizer", metavar="NAME", help="recogniser for the transcript (default: the only one installed)"
    )
    opening.set_defaults(run=_open)


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure the time per frame on this machine",
        description="Seals and opens frames of five sizes, and prints the time of each. Compare rows of one run only.",
    )
    bench.add_argument("--seconds", type=_seconds, default=12.0, metavar="N", help="approximate duration (12)")
    bench.set_defaults(run=_bench)


def _add_inspect(commands: Any) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="show the parts of a sealed frame, or whether frames are sealed",
        description="Parses a frame under every layout that fits, likely ones first, without a key. With 12 or more "
        "frames of one track, in order, it also reports whether they are sealed, and how. With a key, exits with 0 if "
        "the key opens the first frame. Without a key, exits with 0 if the frames are sealed. Exits with 1 otherwise, "
        "and if 12 frames are too few to decide.",
    )
    inspect.add_argument(
        "frames",
        nargs="+",
        metavar="FILE|HEX|-",
        help="a file with the bytes or hex digits of a frame, the hex digits, or - for stdin",
    )
    inspect.add_argument("--codec", choices=[codec.name for codec in CODECS.values() if codec.clear_len])
    secret = inspect.add_mutually_exclusive_group()
    secret.add_argument(
        "--passphrase",
        type=_passphrase,
        metavar="TEXT",
        help="also report which profile opens the frame with this passphrase",
    )
    secret.add_argument(
        "--key-hex", metavar="HEX", type=_key, help="also report which profile opens the frame with this raw key"
    )
    inspect.set_defaults(run=_inspect)


def _add_archive(commands: Any) -> None:
    archive = commands.add_parser(
        "archive",
        help="list, verify or repair sealed recordings",
        description="Looks after an archive of sealed recordings. No command needs a key.",
    )
    actions = archive.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, does in (
        ("ls", "list the recordings. It reads no sealed frame, and exits with 0 only if every segment was listed"),
        ("verify", "read everything, and check the chain of hashes. Exits with 0 only if nothing is wrong"),
        ("repair", "turn the spools of killed recorders into segments"),
    ):
        action = actions.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
        action.add_argument("location", metavar="FOLDER|ADDRESS", help="a folder, or an address such as s3://bucket/x")
    archive.set_defaults(run=_archive)


def _add_keygen(commands: Any) -> None:
    keygen = commands.add_parser("keygen", help="print a fresh random key", description="Print a fresh random key.")
    keygen.add_argument("--passphrase", action="store_true", help="print a passphrase (text) instead of a raw key")
    keygen.set_defaults(run=_keygen)


def _pictures() -> list[str]:
    """Return the video codecs that the WebRTC stack encodes."""
    return [codec.name for codec in CODECS.values() if codec.is_encoded_by_stack and codec.info["kind"] == "video"]


def _demo(arguments: argparse.Namespace) -> int:
    # Imported here: the demo needs extras, and its imports are slow.
    from frameseal.tools import demo  # noqa: PLC0415

    chosen = {"passphrase": arguments.passphrase} if arguments.passphrase else {}
    options = demo.CallOptions(
        profile=arguments.profile,
        codec=arguments.codec,
        seconds=arguments.seconds,
        media=arguments.media,
        loss=arguments.loss,
        record=arguments.record,
        **chosen,
    )
    file = arguments.passphrase_file
    if file is None and arguments.record is not None and not chosen:
        file = demo.default_file()
    try:
        return demo.run(options, arguments.output, passphrase_file=file)
    except demo.UnusableFile as error:
        print(f"frameseal demo: {error}", file=sys.stderr)
        return 2


def _bench(arguments: argparse.Namespace) -> int:
    from frameseal.tools import bench  # noqa: PLC0415

    return bench.run(arguments.seconds)


def _meet(arguments: argparse.Namespace) -> int:
    # Imported here: the meeting needs extras, and its imports are slow.
    from frameseal.tools import meet  # noqa: PLC0415

    chosen = {"passphrase": arguments.passphrase} if arguments.passphrase else {}
    options = meet.MeetOptions(
        port=arguments.port,
        lan=arguments.lan,
        codec=arguments.codec,
        janus=arguments.sfu,
        record=arguments.record,
        **chosen,
    )
    try:
        return meet.run(options, arguments.worker)
    except (meet.WorkerUnavailable, meet.CannotServe) as error:
        print(f"frameseal meet: {error}", file=sys.stderr)
        return 2


def _record(arguments: argparse.Namespace) -> int:
    if (arguments.janus is None) != (arguments.room is None):
        arguments.parser.error("expected --room together with --janus, and with it alone")
    if arguments.livekit is not None and arguments.profile is not None:
        arguments.parser.error("expected no --profile with --livekit, which has one")
    # Imported here: recording needs extras, and its imports are slow.
    from frameseal.tools import recording  # noqa: PLC0415

    return recording.run(
        recording.RecordOptions(
            location=arguments.output,
            janus=arguments.janus,
            room=arguments.room,
            livekit=arguments.livekit,
            pin_file=arguments.pin_file,
            token_file=arguments.token_file,
            api_secret_file=arguments.api_secret_file,
            profile=arguments.profile or Profile.LIVEKIT.value,
            recording=arguments.recording,
            segment_seconds=arguments.segment_seconds,
            attempts=arguments.attempts,
        )
    )


def _open(arguments: argparse.Namespace) -> int:
    # Imported here: opening needs extras, and its imports are slow.
    from frameseal.tools import opening  # noqa: PLC0415

    return opening.run(
        opening.OpenOptions(
            archive=arguments.archive,
            output=arguments.output,
            passphrase_files=tuple(arguments.passphrase_file),
            key_files=tuple(arguments.key_file),
            overwrite=arguments.overwrite,
            grid=arguments.grid,
            transcript=arguments.transcript,
            recognizer=arguments.recognizer,
            recording=arguments.recording,
        )
    )


def _inspect(arguments: argparse.Namespace) -> int:
    # Imported here, since no other command needs it.
    from frameseal.inspection import readings  # noqa: PLC0415

    try:
        frames = [_frame_bytes(frame) for frame in arguments.frames]
        sealed = frames[0]
        hidden = arguments.passphrase or arguments.key_hex
        secret = hidden.reveal() if hidden else None
        found = readings.readings(sealed, arguments.codec)
        openers = readings.openers(sealed, secret, arguments.codec) if secret else []
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        print(f"frameseal inspect: {reason}", file=sys.stderr)
        return 2
    print(f"{len(sealed)} bytes")
    for reading in found:
        likely = "likely" if reading.likely else "possible"
        print(f"\n{reading.layout}{f', {reading.codec}' if reading.codec else ''}: {likely}")
        for part in reading.parts:
            shown = part.data.hex() if len(part.data) <= SHOWN_BYTES else f"{part.data[:SHOWN_BYTES].hex()}..."
            print(f"  [{part.start:>5}:{part.end:>5})  {part.name:<24}{part.note or shown}")
        for remark in reading.remarks:
            print(f"  - {remark}")
    signs = readings.plaintext_signs(sealed)
    for sign in signs:
        print(f"\nThe frame looks like {sign}: it may never have been sealed.")
    if not found:
        print("\nNo layout fits: the frame is not sealed, or truncated.")
    if len(frames) > 1:
        is_sealed = _print_verdict(readings.verdict(frames, arguments.codec), len(frames))
    else:
        is_sealed = not signs and any(reading.likely for reading in found)
        if found and not is_sealed and not signs:
            print("\nOne frame is too few to decide: pass 12 or more frames of the track, in order.")
    if secret:
        for opener in openers:
            # In the trailer layout a frame tells nothing that depends on the suite.
            suite = "" if layout(opener.profile) == "trailer" else f", suite {opener.suite.name}"
            print(f"\nThe key opens it: profile {opener.profile}, codec {opener.codec}{suite}.")
        if not openers:
            print(
                "\nNo profile opens it: the key is wrong, a raw key was passed as passphrase, or the frame is altered."
            )
    return 0 if (openers if secret else is_sealed) else 1


def _print_verdict(verdict: readings.Verdict, count: int) -> bool:
    """Print the verdict on several frames. Return True if they are sealed."""
    # Imported here, since no other command needs it.
    from frameseal.inspection.shapes import MIN_VERDICT_FRAMES, Shape  # noqa: PLC0415

    of = {
        shape: ", ".join(known for known, info in PROFILES.items() if info["layout"] == shape.value) for shape in Shape
    }
    text = {
        Shape.TRAILER: f"they have the trailer of the profiles {of[Shape.TRAILER]}",
        Shape.FOOTER: f"they have the footer of the profile {of[Shape.FOOTER]}",
        Shape.SFRAME: f"they are SFrames of one sender (profile {of[Shape.SFRAME]}): the counter advances",
        Shape.PLAIN: f"they look like {verdict.codec} that was never sealed: the sender's encryption is off",
        Shape.UNKNOWN: "no known layout fits, and no known codec",
    }[verdict.shape]
    if verdict.shape is Shape.UNKNOWN and count < MIN_VERDICT_FRAMES:
        text = f"too few to decide: pass {MIN_VERDICT_FRAMES} or more frames of the track, in order"
    print(f"\n{count} frames: {text}.")
    return verdict.shape in (Shape.TRAILER, Shape.FOOTER, Shape.SFRAME)


def _archive(arguments: argparse.Namespace) -> int:
    # Imported here: archives need an extra.
    from frameseal import archive  # noqa: PLC0415

    try:
        if arguments.action == "repair":
            for name in archive.repair(arguments.location):
                print(name)
            return 0
        look = archive.recordings if arguments.action == "ls" else archive.verify
        recordings, strangers = look(arguments.location)
    except (OSError, ValueError) as error:
        # The message of another error may quote the address, which may hold a secret.
        known = type(error) in (FileNotFoundError, ValueError)
        reason = error if known else getattr(error, "strerror", None) or "the location cannot be read or written"
        print(f"frameseal archive {arguments.action}: {reason}", file=sys.stderr)
        return 2
    for each in recordings:
        ends = "closed" if each.is_closed else "not closed: still recording, killed, or cut at its end"
        print(f"{_printable(each.name)}: {each.frames} frames, {each.sealed_bytes} bytes, {each.gaps} gaps, {ends}")
        if each.first is not None and each.last is not None:
            print(f"  {each.first.isoformat()} to {each.last.isoformat()}")
        print(f"  segments: {each.segments}, of which spools: {each.spools}")
        print(f"  participants: {', '.join(map(_printable, sorted(each.participants)))}")
        if each.sha256:
            print(f"  sha256: {each.sha256}")
    problems = [*strangers, *(problem for each in recordings for problem in each.problems)]
    for problem in problems:
        print(f"frameseal archive {arguments.action}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _printable(name: str) -> str:
    """Return a name of a stranger's choice, with escapes for what a terminal would obey."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in name)


def _frame_bytes(frame: str) -> bytes:
    """Return the bytes of a frame argument.

    :param frame: "-" for standard input, the name of a file with bytes or hex digits, or hex digits.
    :raises OSError: the file cannot be read.
    :raises ValueError: *frame* is neither a file nor hex digits.
    """
    if frame == "-":
        return _unless_hex(sys.stdin.buffer.read())
    with contextlib.suppress(OSError):  # hex digits may be too long for a file name
        if Path(frame).is_file():
            return _unless_hex(Path(frame).read_bytes())
    with contextlib.suppress(argparse.ArgumentTypeError):
        return _hex(frame)
    raise ValueError("a frame must be a file, or hex digits, two for each byte")


def _unless_hex(content: bytes) -> bytes:
    """Return the bytes of hex digits, or else *content* itself. No sealed frame consists of hex digits alone."""
    try:
        return _hex(content.decode("ascii"))
    except (UnicodeDecodeError, argparse.ArgumentTypeError):
        return content


def _keygen(arguments: argparse.Namespace) -> int:
    # Standard output carries only the key, so that it can be piped. Standard error carries the instructions.
    if arguments.passphrase:
        print(secrets.token_hex(KEY_BYTES))
        print("use it as text: set_shared_key(TEXT), or KeyRing.set_passphrase(TEXT)", file=sys.stderr)
    else:
        print(base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode())
        raw = "base64.urlsafe_b64decode(KEY)"
        print(f"use it as bytes: set_shared_key({raw}), or KeyRing.set_key({raw})", file=sys.stderr)
    return 0


def _hex(text: str) -> bytes:
    """Return the bytes of hex digits, as tools print them: with spaces, colons, commas or 0x."""
    with contextlib.suppress(ValueError):
        return bytes.fromhex(re.sub(r"0x|[\s:,]", "", text))
    raise argparse.ArgumentTypeError("must be hex digits, two for each byte")


def _key(text: str) -> Hidden[bytes]:
    return Hidden(_hex(text))


def _path(text: str) -> Path:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        pass  # raised below, since a chained error would hold the text
    else:
        return Path(text)
    raise argparse.ArgumentTypeError("must be the name of a file")


def _number(text: str, kind: type[float], minimum: int, maximum: int, unit: str = "") -> float:
    with contextlib.suppress(ValueError):
        if minimum <= kind(text) <= maximum:
            return kind(text)
    raise argparse.ArgumentTypeError(f"must be a{' whole' * (kind is int)} number from {minimum} to {maximum}{unit}")


def _seconds(text: str) -> float:
    return _number(text, float, 1, 600, " seconds")  # the demo stores all sent media, to compare with


def _sfu(text: str) -> str:
    kind, _, url = text.partition("=")
    if kind != "janus" or not url.startswith(("ws://", "wss://")):
        raise argparse.ArgumentTypeError("must be janus=ws://HOST:PORT, the web sockets transport of Janus")
    return url


def _web_socket(text: str) -> str:
    if not text.startswith(("ws://", "wss://")):
        raise argparse.ArgumentTypeError("must be the URL of a web socket, ws://HOST or wss://HOST")
    return text


def _room_id(text: str) -> int | str:
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError("must be a number, or text where Janus has string ids")
    return int(text) if text.isascii() and text.isdigit() and len(text) < MAX_ROOM_DIGITS else text


def _segment(text: str) -> float:
    return _number(text, float, 1, 86_400, " seconds")


def _attempts(text: str) -> int:
    return int(_number(text, int, 0, 1000))


def _port(text: str) -> int:
    return int(_number(text, int, 0, 65535))


def _percent(text: str) -> float:
    return _number(text, float, 0, 30, " percent") / 100


def _passphrase(text: str) -> Hidden[str]:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    try:
        utf8("the passphrase", text)
    except ValueError:
        pass
    else:
        return Hidden(text)
    raise argparse.ArgumentTypeError("must be valid text in the encoding of the terminal: set that to UTF-8")
