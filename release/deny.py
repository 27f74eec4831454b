"""Asks cargo-deny about licences, sources and banned crates: `python release/deny.py`, or `make deny`.

Judges the workspace, and every crate outside it, by deny.toml. With `--advisories` also compares all crates with the
RustSec database, which cargo-deny fetches. Needs cargo-deny, and fails if cargo-deny accepts a crate that deny.toml
does not allow.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deny.toml"
CHECKS = ("bans", "licenses", "sources")
# A crate that breaks a rule of deny.toml, for each check: a licence without a line, a library beside AWS-LC, and a
# source other than crates.io.
PLANTED = {
    "licenses": ('license = "AGPL-3.0-only"', ""),
    "bans": ('license = "MIT"', 'ring = { path = "ring" }'),
    "sources": ('license = "MIT"', 'ring = { git = "file://{folder}/ring" }'),
}


def roots(tree: Path) -> list[Path]:
    """Return the manifests that have a lock file of their own: the workspace, and each crate outside it."""
    manifests = [
        tree / "Cargo.toml",
        *sorted(tree.glob("rust/**/Cargo.toml")),
        *sorted(tree.glob("benches/**/Cargo.toml")),
    ]
    return [path for path in manifests if "workspace" in tomllib.loads(path.read_text("utf-8"))]


def judge(command: Path, manifest: Path, checks: Sequence[str], quiet: bool = False) -> bool:
    """Return whether cargo-deny accepts the crates of a manifest. `quiet` keeps its findings off the screen."""
    asked = [command, "--manifest-path", manifest, "--locked", "check", "--config", RULES, "--hide-inclusion-graph"]
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run([*asked, *checks], cwd=manifest.parent, stderr=output, check=False).returncode == 0


def plant(folder: Path, check: str) -> Path:
    """Write a crate that breaks the rule of a check, and return its manifest."""
    licence, dependency = PLANTED[check]
    for path, name, needs in [
        (folder, "planted", dependency.replace("{folder}", str(folder))),
        (folder / "ring", "ring", ""),
    ]:
        (path / "src").mkdir(parents=True)
        (path / "src/lib.rs").touch()
        text = f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n{licence}\n[dependencies]\n{needs}\n'
        (path / "Cargo.toml").write_text(text + "[workspace]\n", "utf-8")
    identity = ["-c", "user.name=planted", "-c", "user.email=planted@localhost"]
    for arguments in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message", "planted"]):
        subprocess.run(["git", *arguments], cwd=folder / "ring", check=True)
    subprocess.run(["cargo", "generate-lockfile", "--quiet"], cwd=folder, check=True)
    return folder / "Cargo.toml"


def accepted_faults(command: Path) -> list[str]:
    """Return the checks that accept a crate which breaks their rule."""
    accepted = []
    for check in CHECKS:
        with tempfile.TemporaryDirectory(prefix="frameseal-deny-") as folder:
            if judge(command, plant(Path(folder), check), [check], quiet=True):
                accepted.append(check)
    return accepted


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge everything, and return 1 if something is not allowed, or if cargo-deny finds no planted fault."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--advisories", action="store_true", help="also fetch and compare the RustSec database")
    parser.add_argument("--command", type=Path, default=Path("cargo-deny"), help="the program cargo-deny")
    options = parser.parse_args(arguments)
    if accepted := accepted_faults(options.command):
        print(f"cargo-deny accepts a planted fault: {', '.join(accepted)}", file=sys.stderr)
        return 1
    checks = [*CHECKS, *(["advisories"] if options.advisories else [])]
    refused = [path for path in roots(ROOT) if not judge(options.command, path, checks)]
    for path in refused:
        print(f"{path.relative_to(ROOT)}: see above, and change the dependency or deny.toml", file=sys.stderr)
    if not options.advisories:
        print("left to ARGS=--advisories and the workflow of that name: the RustSec database, which needs the network")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
