"""What runs elsewhere is written so that nobody else decides what runs: .github/workflows, and Dependabot's list."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import frameseal
from support.paths import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
# An action by the hash of a commit, with the version as a comment. A tag can be moved to another commit.
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
MAKEFILES = [ROOT / "Makefile", ROOT / "rust/assurance.mk", ROOT / "release/release.mk"]

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def load(path: Path) -> dict:
    document = yaml.safe_load(path.read_text("utf-8"))
    # YAML 1.1 reads the key `on` as true.
    return {"on" if key is True else key: value for key, value in document.items()}


def steps(path: Path) -> list[dict]:
    return [step for job in load(path)["jobs"].values() for step in job.get("steps", [])]


def unpinned(text: str) -> list[str]:
    """The actions that are not named by a commit. A workflow of this repository is that of the same commit."""
    used = re.findall(r"(?m)^\s*(?:- )?uses: (.*)$", text)
    return [each for each in used if not PINNED.fullmatch(each) and not each.startswith("./.github/")]


def targets() -> set[str]:
    text = "\n".join(path.read_text("utf-8") for path in MAKEFILES)
    return {name for line in re.findall(r"(?m)^([a-z][a-z -]*):(?!=)", text) for name in line.split()}


def test_there_are_workflows():
    assert [path.stem for path in WORKFLOWS] == ["advisories", "ci", "publish", "wheels"]


@every_workflow
def test_every_action_is_named_by_a_commit(path):
    text = path.read_text("utf-8")
    assert "uses:" in text
    assert unpinned(text) == []


def test_an_action_that_is_named_otherwise_is_seen():
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert unpinned("- uses: actions/checkout@v7") == ["actions/checkout@v7"]
    assert unpinned(f"- uses: actions/checkout@{commit}") == [f"actions/checkout@{commit}"]
    assert unpinned(f"  uses: actions/checkout@{commit[:12]} # v7.0.0") != []
    assert unpinned(f"- uses: actions/checkout@{commit} # v7.0.0\n  uses: ./.github/workflows/wheels.yml") == []


def test_an_action_has_one_commit_in_all_workflows():
    used = {each for path in WORKFLOWS for each in re.findall(r"uses: (\S+@\S+ # \S+)", path.read_text("utf-8"))}
    assert len(used) == len({each.partition("@")[0] for each in used})


@every_workflow
def test_a_workflow_has_no_right_that_a_job_does_not_name(path):
    workflow = load(path)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        writes = {right for right, level in job["permissions"].items() if level == "write"}
        assert writes <= ({"id-token", "attestations"} if job.get("environment") else set())
    assert workflow["concurrency"]["group"]


@every_workflow
def test_a_clone_keeps_no_credentials_and_every_job_ends(path):
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    assert all("timeout-minutes" in job for job in load(path)["jobs"].values() if "steps" in job)


@every_workflow
def test_no_command_has_an_expression_in_it(path):
    """An expression in a command is a place where a branch's name becomes a program."""
    assert [step["run"] for step in steps(path) if "${{" in step.get("run", "")] == []


@every_workflow
def test_every_target_that_a_workflow_makes_exists(path):
    made = {name for step in steps(path) for name in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}
    assert made <= targets()


def test_the_workflows_run_what_a_clone_runs():
    (run,) = [step["run"] for step in steps(GITHUB / "workflows/ci.yml") if "run" in step and "git" not in step["run"]]
    assert (ROOT / run).stat().st_mode & 0o111
    assert "pull_request" in load(GITHUB / "workflows/ci.yml")["on"]


def test_publishing_has_an_environment_and_comes_after_both_checks():
    workflow = load(GITHUB / "workflows/publish.yml")
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    jobs = workflow["jobs"]
    order, job = [], "publish"
    while job:
        order.insert(0, job)
        job = jobs[job].get("needs")
    assert order == list(jobs) == ["source", "wheels", "files", "publish"]
    assert jobs["publish"]["environment"]["name"] == "pypi"
    assert not any("run" in step or "checkout" in step["uses"] for step in jobs["publish"]["steps"]), (
        "it only publishes"
    )
    assert [name for name, job in jobs.items() if "id-token" in job["permissions"]] == ["publish"]
    for name in ("source", "files"):
        check = jobs[name]["steps"][-1]["run"]
        assert check.startswith("make release-check ")
        assert '--tag $GITHUB_REF_NAME"' in check


def manifests(name: str) -> set[str]:
    ignored = {".stamps", "target", "node_modules"}
    found = [path for path in ROOT.rglob(name) if not any(p in ignored or p[:5] == ".venv" for p in path.parts)]
    return {"/" + path.parent.relative_to(ROOT).as_posix().removeprefix(".") for path in found}


def test_dependabot_knows_every_manifest():
    entries = load(GITHUB / "dependabot.yml")["updates"]
    known = {each["package-ecosystem"]: set(each.get("directories", [each.get("directory")])) for each in entries}
    assert all(each["cooldown"]["default-days"] >= 7 for each in entries)
    assert manifests("Cargo.lock") - known["cargo"] == set(), "add the folder to .github/dependabot.yml"
    assert manifests("package.json") - known["npm"] == set(), "add the folder to .github/dependabot.yml"
    assert manifests("go.mod") - known["gomod"] == set(), "add the folder to .github/dependabot.yml"
    assert {*manifests("pyproject.toml"), "/requirements", "/requirements/frameworks"} == known["pip"]
    assert known["github-actions"] == {"/"}


@pytest.mark.parametrize("path", sorted(GITHUB.glob("ISSUE_TEMPLATE/[!c]*.yml")), ids=lambda path: path.name)
def test_an_issue_form_asks_for_the_profile_and_warns_of_keys(path):
    form = load(path)
    assert {"name", "description", "body"} <= form.keys()
    fields = {each["id"]: each for each in form["body"] if "id" in each}
    assert sorted(fields["profile"]["attributes"]["options"]) == sorted(each.value for each in frameseal.Profile)
    assert "Never paste a key" in form["body"][0]["attributes"]["value"]
    (option,) = fields["no-key"]["attributes"]["options"]
    assert option["required"] is True
    assert load(GITHUB / "ISSUE_TEMPLATE/config.yml") == {"blank_issues_enabled": False}


def audit(folder: Path) -> subprocess.CompletedProcess:
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    zizmor = shutil.which("zizmor", path=places)
    assert zizmor, "zizmor is in requirements/dev.txt"
    command = [zizmor, "--offline", "--no-progress", "--format", "plain", folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_zizmor_finds_nothing():
    done = audit(GITHUB)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("sound", "planted", "audited"),
    [
        ("permissions:\n      contents: read", "permissions: write-all", "excessive-permissions"),
        ("@9c091bb21b7c1c1d1991bb908d89e4e9dddfe3e0 # v7.0.0", "@v7", "unpinned-uses"),
        ("- run: make deny", '- run: echo "${{ github.ref_name }}" && make deny', "template-injection"),
    ],
)
def test_zizmor_finds_a_planted_fault(tmp_path, sound, planted, audited):
    text = (GITHUB / "workflows/advisories.yml").read_text("utf-8")
    assert sound in text
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    (folder / "planted.yml").write_text(text.replace(sound, planted), "utf-8")
    done = audit(tmp_path)
    assert done.returncode != 0
    assert audited in done.stdout
