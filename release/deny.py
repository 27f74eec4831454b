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
# A crate that breaks the rule of each check: a licence without a line, a library beside AWS-LC, and a source other than
# the default registry. The sound one shows that a refusal has that reason.
SOUND = ('license = "MIT"', "")
PLANTED = {
    "licenses": ('license = "AGPL-3.0-only"', ""),
    "bans": ('license = "MIT"', 'ring = { path = "ring", version = "0.1.0" }'),
    "sources": ('license = "MIT"', 'ring = { git = "file://{folder}/ring" }'),
}


# Rules for the workspace do not all meet a case in a small crate outside it.
UNMET = ("license-not-encountered", "license-exception-not-encountered", "unused-wrapper")


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
    asked = [command, "--manifest-path", manifest, "--config", RULES, "--locked", "check", "--hide-inclusion-graph"]
    asked += [word for each in UNMET for word in ("--allow", each)]
    output = subprocess.DEVNULL if quiet else None
    done = subprocess.run([*asked, *checks], cwd=manifest.parent, stdout=output, stderr=output, check=False)
    return done.returncode == 0


def plant(folder: Path, licence: str, dependency: str) -> Path:
    """Write a crate with a licence and a dependency, and return its manifest. The dependency is a folder in it."""
    for path, name, needs in [(folder, "planted", dependency), (folder / "ring", "ring", "")]:
        (path / "src").mkdir(parents=True)
        (path / "src/lib.rs").touch()
        text = f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n{licence}\n[dependencies]\n{needs}\n'
        (path / "Cargo.toml").write_text(text.replace("{folder}", str(folder)), "utf-8")
    with (folder / "Cargo.toml").open("a", encoding="utf-8") as file:
        file.write("[workspace]\n")
    identity = ["-c", "user.name=planted", "-c", "user.email=planted@localhost"]
    for arguments in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message", "planted"]):
        subprocess.run(["git", *arguments], cwd=folder / "ring", check=True)
    subprocess.run(["cargo", "generate-lockfile", "--quiet"], cwd=folder, check=True)
    return folder / "Cargo.toml"


def faults_of_checks(command: Path) -> list[str]:
    """Return which checks accept a crate that breaks their rule, or refuse a sound one."""
    found = []
    for check in CHECKS:
        for crate in (SOUND, PLANTED[check]):
            with tempfile.TemporaryDirectory(prefix="frameseal-deny-") as folder:
                if judge(command, plant(Path(folder), *crate), [check], quiet=True) != (crate is SOUND):
                    found.append(f"{check} {'refuses a sound crate' if crate is SOUND else 'accepts a planted fault'}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge everything, and return 1 if something is not allowed, or if cargo-deny finds no planted fault."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--advisories", action="store_true", help="also fetch and compare the RustSec database")
    parser.add_argument("--command", type=Path, default=Path("cargo-deny"), help="the program cargo-deny")
    options = parser.parse_args(arguments)
    if faults := faults_of_checks(options.command):
        print(f"cargo-deny cannot be relied on: {', '.join(faults)}", file=sys.stderr)
        return 1
    checks = [*CHECKS, *(["advisories"] if options.advisories else [])]
    refused = 0
    for path in roots(ROOT):
        print(path.relative_to(ROOT), flush=True)
        if not judge(options.command, path, checks):
            refused = 1
            print("see above, and change the dependency or deny.toml", file=sys.stderr)
    if not options.advisories:
        print("left to ARGS=--advisories and the workflow of that name: the RustSec database, which needs the network")
    return refused


if __name__ == "__main__":
    sys.exit(main())
