"""The rules between the layers, as checks (docs/architecture.md): who may name whom."""

import ast
import io
import itertools
import os
import re
import subprocess
import sys
import tokenize
from functools import cache
from pathlib import Path

import pytest

from frameseal._native import CODECS, PROFILES
from support.paths import ROOT, TESTS

CORE = ROOT / "rust/core"
PACKAGE = ROOT / "python/frameseal"

MADE = {"target", "dist", "__pycache__"}


def rust(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.rs"))


def sources_of(folder: str, name: str) -> list[Path]:
    """Returns the files of a folder of the project whose names match, without what tools have built there."""
    paths = sorted(path for path in (ROOT / folder).rglob(name) if MADE.isdisjoint(path.parts))
    assert paths, "the rule looks at no file: was it moved?"
    return paths


def within(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code(path: Path) -> str:
    """A Rust file without its comments and without what is built for tests only."""
    tokens = r'(r#*"(?:.|\n)*?"#*|"(?:\\(?:.|\n)|[^"\\])*"|\'(?:\\.|[^\'\\])\')|//[^\n]*|/\*(?:.|\n)*?\*/'
    text = re.sub(tokens, lambda match: match[1] or "", path.read_text("utf-8"))
    while (start := text.find("#[cfg(test)]")) >= 0:
        text = text[:start] + text[end_of_item(text, start) :]
    return text


def end_of_item(text: str, start: int) -> int:
    depth = 0
    for match in re.compile("[{};]").finditer(text, start):
        depth += {"{": 1, "}": -1, ";": 0}[match[0]]
        if depth == 0:
            return match.end()
    raise AssertionError("an item without an end")


def naming(pattern: str, paths: list[Path]) -> set[str]:
    """The files whose code has the pattern."""
    assert paths, "the rule looks at no file: was it moved?"
    return {within(path) for path in paths if re.search(pattern, code(path))}


@cache
def imports(path: Path) -> set[str]:
    """Every module that a Python file imports, at any depth of the file, as dotted names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{within(path)} has a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def importers(module: str) -> set[str]:
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name == module or name.startswith(f"{module}.") for name in imports(path))
    }


def files() -> list[tuple[str, str]]:
    """Every text file of the project under its name, but the lock files, which tools write."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name == ".ci" or not (name in MADE or name.startswith("."))]
        for path in (Path(folder) / name for name in names):
            locked = (
                path.suffix == ".lock"
                or re.fullmatch(r"requirements/.+\.txt", within(path))
                or within(path)
                in (
                    "tests/interop/livekit-client/package-lock.json",
                    "tests/interop/livekit-server/go.sum",
                    "tests/interop/werift/package-lock.json",
                )
            )
            # A worktree has a file named .git that says where the clone is.
            if not locked and path.suffix not in (".so", ".pyd", ".png") and path.name != ".git":
                found.append((within(path), path.read_text("utf-8", errors="replace")))
    return found


# --- the core --------------------------------------------------------------------------------------------------------


def test_comments_strings_and_tests_are_told_apart(tmp_path):
    file = tmp_path / "sample.rs"
    file.write_text(
        'let a = "// kept"; // gone\n/* gone */ b()\n#[cfg(test)]\nmod tests { fn gone() {} }\nfn kept2() {}'
    )
    assert code(file).split() == ["let", "a", "=", '"//', 'kept";', "b()", "fn", "kept2()", "{}"]


def test_only_the_suite_names_the_crypto_library():
    assert naming("aws_lc", rust(CORE / "src")) == {"rust/core/src/suite.rs"}


def test_only_the_suite_draws_randomness_and_not_from_the_crypto_library():
    """Its generator takes 25 to 100 ms to seed itself, and ends the process where that fails."""
    assert naming(r"\bgetrandom\b", rust(CORE / "src")) == {"rust/core/src/suite.rs"}
    assert naming(r"\brand\b", rust(CORE / "src")) == set()


def test_the_core_knows_no_python():
    assert naming("pyo3", rust(CORE)) == set()
    assert "pyo3" not in (CORE / "Cargo.toml").read_text("utf-8")


def test_a_wire_layout_knows_neither_key_nor_cipher():
    assert (
        naming(r"crate::(suite|keyring|secret|key_schedule|frame)\b|\b(suite|keyring)::", rust(CORE / "src/wire"))
        == set()
    )


def test_only_the_profiles_name_vendors():
    vendors = "(?i)livekit|videosdk|jitsi|nextcloud|getstream|element_?call"
    assert naming(vendors, rust(CORE / "src")) == {"rust/core/src/profile.rs"}


def test_only_the_codecs_room_and_the_rows_of_vendors_name_codecs():
    names = "|".join(re.findall(r"(?m)^    (\w+) => CodecInfo", code(CORE / "src/codec/mod.rs")))
    assert names.startswith("Opus|"), "the rule looks for nothing"
    found = naming(rf"\b(Codec|Standard)::({names})\b", rust(CORE / "src"))
    assert {name for name in found if not name.startswith("rust/core/src/codec/")} == {"rust/core/src/profile.rs"}
    assert naming(rf"\b(Codec|Standard)::({names})\b", rust(ROOT / "rust/python/src")) == set()


def test_nothing_that_ships_can_panic_by_intent():
    sources = [*rust(CORE / "src"), *rust(ROOT / "rust/python/src")]
    assert naming(r"\.(unwrap|expect)\(|\b(panic|unreachable|todo|unimplemented)!", sources) == set()
    assert naming(r"allow\(clippy::(unwrap_used|expect_used|panic)", sources) == set()


def test_the_python_module_never_takes_nonces_from_its_caller():
    assert "hazmat" not in (ROOT / "rust/python/Cargo.toml").read_text("utf-8")
    assert naming("hazmat|with_iv", rust(ROOT / "rust/python")) == set()


def test_one_file_lets_go_of_the_gil():
    """Beside it stands the gate that keeps a fork waiting meanwhile."""
    assert naming(r"\.detach\(|allow_threads|SuspendAttach", rust(ROOT / "rust/python/src")) == {
        "rust/python/src/lib.rs"
    }


Graph = dict[str, set[str]]
Module = tuple[str, ...]

USE = re.compile(r"(?m)(?:^|(?<=[;{}]))\s*(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")


def expanded(tree: str) -> list[list[str]]:
    """Returns the full paths of one `use`: `a::{b, c::d}` is `a::b` and `a::c::d`."""
    start = tree.find("{")
    if start < 0:
        return [[part.strip() for part in tree.partition(" as ")[0].split("::")]]
    front = [part.strip() for part in tree[:start].split("::") if part.strip()]
    depth, item, items = 0, "", []
    for sign in tree[start + 1 : tree.rindex("}")] + ",":
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if sign == "," and depth == 0:
            items.append(item.strip())
            item = ""
        else:
            item += sign
    paths = [path for item in items if item for path in expanded(item)]
    return [front + [part for part in path if part != "self"] for path in paths]


class Crate:
    """Who imports whom among the modules of a crate's `src`.

    A folder is a module with its `mod.rs`, and its children are the files and folders in it. A re-export is an import
    only if its module uses the name as well. Whoever imports a name from a parent that re-exports it imports the child.
    """

    def __init__(self, src: Path) -> None:
        self.texts: dict[Module, str] = {}
        for path in rust(src):
            name = path.relative_to(src).with_suffix("").parts
            self.texts[name[:-1] if name[-1] in ("mod", "lib") else name] = code(path)
        self.exports: dict[tuple[Module, str], Module] = {}
        paths: dict[Module, list[Module]] = {}
        for module, text in self.texts.items():
            # Paths in expressions and types count too, such as `crate::fork::in_child()`.
            rest = USE.sub("", text)
            inline = [path.split("::") for path in re.findall(r"\b(?:crate|super)(?:::\w+)+", rest)]
            paths[module] = [self.absolute(module, path) for path in inline]
            for match in USE.finditer(text):
                for path in expanded(match[2]):
                    target = self.absolute(module, path)
                    if match[1]:
                        self.exports[module, path[-1]] = target
                    if not match[1] or re.search(rf"\b{path[-1]}\b", rest):
                        paths[module].append(target)
        self.imports = {
            module: {target for path in found if (target := self.resolved(path)) and target != module}
            for module, found in paths.items()
        }

    def absolute(self, module: Module, path: list[str]) -> Module:
        """Returns a path from the crate's root, or an empty one for a path that leaves the crate."""
        base, rest = module, list(path)
        if rest[0] in ("crate", "self"):
            base, rest = () if rest[0] == "crate" else base, rest[1:]
        elif rest[0] == "super":
            while rest and rest[0] == "super":
                base, rest = base[:-1], rest[1:]
        elif (*module, rest[0]) not in self.texts:
            return ()
        return (*base, *rest)

    def resolved(self, path: Module) -> Module:
        """Returns the module that a path leads to, behind re-exports. The crate's root is none: an empty path."""
        module: Module = ()
        for part in path:
            if (*module, part) in self.texts:
                module = (*module, part)
            elif (target := self.exports.get((module, part), path)) != path:
                return self.resolved(target)
            else:
                break
        return module

    def graphs(self) -> dict[str, Graph]:
        """Returns a graph for each level: the rooms of the crate, and the children of each folder with its `mod`."""
        levels: dict[str, Graph] = {}
        for module, targets in self.imports.items():
            for target in targets if module else ():
                same = itertools.takewhile(lambda names: names[0] == names[1], zip(module, target, strict=False))
                shared = len(list(same))
                graph = levels.setdefault("::".join(("crate", *module[:shared])), {})
                here, there = (name[shared] if len(name) > shared else "mod" for name in (module, target))
                graph.setdefault(here, set()).add(there)
        return levels


def circle(graph: Graph) -> list[str]:
    """Returns the nodes of a circle of the graph in order, or an empty list."""
    done: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            if found := walk(target, [*way, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def test_no_modules_of_the_core_import_each_other_in_a_circle():
    graphs = Crate(CORE / "src").graphs()
    assert {"crate", "crate::codec", "crate::frame", "crate::frame::batch", "crate::keyring"} <= graphs.keys()
    assert {level: found for level, graph in graphs.items() if (found := circle(graph))} == {}


def test_a_folder_of_the_core_is_a_wall():
    """Its parent says what leaves it."""
    folders = [*rust(CORE / "src/keyring"), *rust(CORE / "src/frame"), *rust(CORE / "src/secret")]
    assert naming(r"\bpub(\([^)]*\))? mod\b", folders) == set()


@pytest.mark.parametrize(
    ("level", "files", "found"),
    [
        ("crate", {"a.rs": "use crate::b::B;", "b.rs": "fn b() { crate::a::f() }"}, ["a", "b", "a"]),
        ("crate", {"a.rs": "// use crate::b::B;", "b.rs": "use crate::a::A;"}, []),
        ("crate", {"a.rs": "#[cfg(test)]\nmod tests { use crate::b::B; }", "b.rs": "use crate::a::A;"}, []),
        ("crate::a", {"a/x.rs": "use super::{A, y::{self, Y}};", "a/y.rs": "use crate::a::x;"}, ["x", "y", "x"]),
        ("crate::a", {"a/x.rs": "use super::y::Y;", "a/y.rs": "use super::X;"}, ["x", "y", "x"]),
        ("crate::a", {"a/mod.rs": "mod x; use x::A; pub struct B;", "a/x.rs": "use super::B;"}, ["mod", "x", "mod"]),
        ("crate::a", {"a/mod.rs": "pub use x::A; fn a() -> A {}", "a/x.rs": "use super::a;"}, ["mod", "x", "mod"]),
        ("crate::a", {"a/x.rs": "use super::A;"}, []),
    ],
)
def test_a_circle_of_modules_is_found(tmp_path, level, files, found):
    parent = "mod x; mod y; pub(crate) use self::x::X; pub struct A;"
    for name, text in {"lib.rs": "mod a; mod b;", "a/mod.rs": parent, "a/x.rs": "", "a/y.rs": "", **files}.items():
        if name.startswith("a/") and "a.rs" in files:
            continue
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert circle(Crate(tmp_path).graphs()[level]) == found


# --- the package -----------------------------------------------------------------------------------------------------


def programs() -> set[str]:
    """What only the command line starts."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for folder in ("demo", "meet", "opening", "recording")
        for path in PACKAGE.glob(f"tools/{folder}/*.py")
    } | {"tools/janus.py", "tools/media.py"}


def test_every_lock_is_made_anew_in_a_forked_child():
    """`renew_in_child` takes the class and makes the lock: nobody else does, but the programs, which do not fork."""
    made = re.compile(r"(?<!asyncio\.)\b(?:R?Lock|Condition|(?:Bounded)?Semaphore|Barrier|Queue)\(")
    makers = {
        path.relative_to(PACKAGE).as_posix(): len(made.findall(path.read_text("utf-8")))
        for path in PACKAGE.rglob("*.py")
    }
    assert {name for name, count in makers.items() if count} - programs() == set()


def test_only_the_hook_the_forwarder_and_the_programs_import_a_transport():
    allowed = programs() | {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("aiortc/*.py")}
    allowed |= {"tools/sfu/__init__.py", "tools/sfu/leg.py"}
    # The room of LiveKit makes its connections itself, since no SDK makes them.
    allowed |= {f"livekit/{name}.py" for name in ("connections", "participants", "publications", "room", "visit")}
    for module in ("aiortc", "vsaiortc", "aioice", "av"):
        assert importers(module) <= allowed, module
    assert importers("aiortc"), "the rule looks at nothing"


def test_the_second_parser_is_not_on_the_path_of_a_frame():
    """Diagnoses look at failed frames in a thread of their own; all else is for people who debug."""
    inspection = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("inspection/*.py")}
    assert importers("frameseal.inspection") <= inspection | {
        "aiortc/taps.py",  # for recorded frames only, which it must tell from plain ones
        "e2ee/diagnosis.py",
        "tools/cli.py",
        "tools/meet/sfu_view.py",
    }


def decided(path: Path) -> list[ast.expr]:
    """The expressions by which a Python file tells cases apart: sides of comparisons, `match` values, sets and keys."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Compare():
                found += [node.left, *node.comparators]
            case ast.MatchValue():
                found.append(node.value)
            case ast.Set() | ast.Tuple():
                found += node.elts
            case ast.Dict():
                found += [key for key in node.keys if key is not None]
    return found


def test_only_the_table_tells_codecs_apart():
    names = set(CODECS)
    sources = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "codecs"]
    for path in sources:
        constants = {each.value for each in decided(path) if isinstance(each, ast.Constant)}
        assert {text for text in constants if isinstance(text, str) and text.lower() in names} == set(), within(path)
    assert len(sources) > 50, "the rule looks at nothing"


def test_no_module_tells_profiles_apart():
    """A fact about a profile is a column of its row (`frameseal.profiles`). A benchmark chooses which it measures."""
    sources = [path for path in PACKAGE.rglob("*.py") if path.name not in ("profiles.py", "bench.py")]
    for path in sources:
        asked = {ast.unparse(each) for each in decided(path)}
        named = {
            text for text in asked if re.fullmatch(r"Profile\.[A-Z]+", text) or text in map(repr, map(str, PROFILES))
        }
        assert named == set(), within(path)
    assert len(sources) > 50, "the rule looks at nothing"


def test_the_hook_does_not_know_the_programs():
    for name in ("demo", "meet", "opening"):
        own = {path for path in programs() if path.startswith(f"tools/{name}/")}
        assert importers(f"frameseal.tools.{name}") <= {"tools/cli.py"} | own
    assert importers("frameseal.tools.recording") <= programs() | {"tools/cli.py"}
    assert importers("frameseal.tools.sfu") <= programs() | {"tools/sfu/__init__.py"}


def test_the_meetings_server_knows_no_key():
    """The bot alone has it: room, page and signalling import nothing that could hold one."""
    for module in (
        "frameseal._native",
        "frameseal.e2ee.manager",
        "frameseal.keys.provider",
        "frameseal.tools.meet.rotation_message",
    ):
        assert importers(module).isdisjoint(
            f"tools/meet/{name}.py" for name in ("room", "page", "browser_member", "remote", "sfu_view", "janus")
        )


@pytest.mark.parametrize(
    "module", ["frameseal", "frameseal.e2ee.manager", "frameseal.keys.provider", "frameseal.e2ee.transforms"]
)
def test_a_layer_without_transport_loads_none(module):
    loaded = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "frameseal" in modules
    assert modules.isdisjoint({"aiortc", "vsaiortc", "aioice", "av", "numpy", "PIL", "rich", "aiohttp"})
    assert module != "frameseal" or modules.isdisjoint({"asyncio", "pyee"})


def import_graph(package: Path) -> dict[str, set[str]]:
    """Returns for each module of a package, by its dotted name, the modules of the package that it imports.

    Imports inside functions and under `TYPE_CHECKING` count too: a reader follows them all the same.
    """
    modules = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {}
    for name, path in modules.items():
        named = imports(path) & modules.keys()
        # `from package import module` names both, and what it is about is the module.
        graph[name] = {each for each in named if not any(other.startswith(f"{each}.") for other in named)} - {name}
    return graph


def test_a_circle_is_found_through_types_functions_and_submodules(tmp_path):
    sources = {
        "made/__init__.py": "",
        "made/first.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from made import inner",
        "made/inner/__init__.py": "import made.inner.second",
        "made/inner/second.py": "def late():\n    from made.first import name",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    graph = import_graph(tmp_path / "made")
    assert graph["made.first"] == {"made.inner"}
    assert set(circle(graph)) == {"made.first", "made.inner", "made.inner.second"}
    graph["made.inner.second"].clear()
    assert circle(graph) == []


def test_the_package_has_no_import_circle():
    assert circle(import_graph(PACKAGE)) == []


def test_limits_have_the_names_of_the_field():
    """`MAX_` and `MIN_`, which a reader searches for."""
    other = re.compile(r"\b_?(?:MOST|LEAST|LONGEST|SHORTEST|LARGEST)_[A-Z]")
    sources = [*sources_of("rust", "*.rs"), *sources_of("python/frameseal", "*.py"), *sources_of("python", "*.js")]
    assert {within(path) for path in sources if other.search(path.read_text("utf-8"))} == set()


# --- the tests -------------------------------------------------------------------------------------------------------

# Programs that a test starts, and the parts of one suite, stand beside it; all other helpers stand in tests/support.
SUITES = {"interop", "soak", "frameworks"}


def test_every_helper_stands_in_support_and_in_its_readme():
    helpers = {
        path.relative_to(TESTS)
        for path in TESTS.rglob("*.py")
        if path.stem not in ("__init__", "conftest") and not path.stem.startswith("test_")
    }
    elsewhere = {path.as_posix() for path in helpers if path.parts[0] not in SUITES | {"support"}}
    assert elsewhere == set()
    listed = re.findall(r"(?m)^\| `(\w+\.py)` \|", (TESTS / "support/README.md").read_text("utf-8"))
    assert listed == sorted(path.name for path in helpers if path.parts[0] == "support")


# Modules, by path or by folder, whose tests need more than the module: where these stand, and why.
TESTED_ELSEWHERE = {
    "aiortc/": ("calls/test_aiortc_hard.py", "the hook is nothing without a stack below it"),
    "codecs/": ("unit/test_codecs.py", "the columns of one table"),
    "livekit/": ("unit/test_livekit.py", "the parts of a room need a server"),
    "pymediasoup.py": ("sdks/test_pymediasoup.py", "an adapter is tested with its SDK"),
    "_videosdk_agents.py": ("frameworks/test_videosdk_agents.py", "the package has an environment of its own"),
    "videosdk.py": ("sdks/test_videosdk.py", "an adapter is tested with its SDK"),
    "getstream.py": ("frameworks/test_getstream.py", "an adapter is tested with its SDK, in its environment"),
    "tools/demo/": ("calls/test_demo.py", "the parts of the demo show one call"),
    "tools/janus.py": ("interop/test_janus.py", "a session needs a Janus"),
    "tools/media.py": ("calls/test_demo.py", "tracks for the calls of the programs"),
    "tools/meet/": ("calls/test_meet.py", "the parts of a meeting need its members"),
    "tools/opening/": ("unit/tools/test_opening.py", "the parts make files of one recording"),
    "tools/recording/": ("unit/tools/test_recording.py", "the parts record one room"),
    "tools/sfu/": ("calls/test_forwarder.py", "a forwarder needs peers"),
}


def test_every_module_has_a_test_file_of_its_name_in_unit():
    missing = set()
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE)
        name = module.as_posix()
        if module.stem in ("__init__", "__main__") or any(name.startswith(place) for place in TESTED_ELSEWHERE):
            continue
        # `_fork` is tested by test_fork.py.
        if not (TESTS / "unit" / module.parent / f"test_{module.stem.lstrip('_')}.py").is_file():
            missing.add(name)
    assert missing == set()


@pytest.mark.parametrize("place", TESTED_ELSEWHERE)
def test_what_is_tested_elsewhere_and_its_tests_are_there(place):
    assert (PACKAGE / place).exists()
    assert (TESTS / TESTED_ELSEWHERE[place][0]).is_file()


# --- words -----------------------------------------------------------------------------------------------------------


def python_prose(path: Path) -> list[tuple[int, str]]:
    """Returns the docstrings and the comments of a Python file, with their lines. Adjacent comment lines are one."""
    text = path.read_text("utf-8")
    found = [
        (node.body[0].lineno, node.body[0].value.value)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node)
    ]
    # A string that stands alone below a field describes it.
    found += [
        (node.lineno, node.value.value)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    comments = {
        token.start[0]: token.string.lstrip("#:! ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    return sorted({*found, *blocks(comments)})


def rust_prose(path: Path) -> list[tuple[int, str]]:
    """Returns the comments of a Rust file, with their lines. Adjacent comment lines are one."""
    lines = path.read_text("utf-8").splitlines()
    comments = {
        number: match[1]
        for number, line in enumerate(lines, 1)
        if (match := re.search(r"(?:^|\s)//[/!]?\s?(.*)$", line))
    }
    return blocks(comments)


def blocks(comments: dict[int, str]) -> list[tuple[int, str]]:
    """Joins comments of adjacent lines."""
    joined: dict[int, str] = {}
    for number in sorted(comments):
        start = next((first for first in joined if number == first + joined[first].count("\n") + 1), number)
        joined[start] = f"{joined[start]}\n{comments[number]}" if start in joined else comments[number]
    return list(joined.items())


# CONTRIBUTING.md: begin with a verb and its object, say in a full sentence what None means, and repeat the noun.
WORDY = re.compile(r"\A\s*(?:None:|What\b|Whether\b)|(?<=[.:;\n] )None:|\bso\s+many\b")


def wordy(prose: list[tuple[int, str]]) -> list[int]:
    return [line for line, text in prose if WORDY.search(text)]


def test_wordy_comments_are_found(tmp_path):
    python, core = tmp_path / "made.py", tmp_path / "made.rs"
    python.write_text(
        '"""What it is."""\n\nx = 1  # of so\n# many\n\n\ndef f():\n    """Return x. None: it is not."""\n'
    )
    assert wordy(python_prose(python)) == [1, 3, 8]
    core.write_text('/// Whether it is.\nlet a = "What // this"; // Returns what it is.\n\n//! At most so many.\n')
    assert wordy(rust_prose(core)) == [1, 4]


def test_comments_and_docstrings_begin_with_their_subject():
    found = {
        f"{within(path)}:{line}"
        for prose, folder, name in ((python_prose, "python/frameseal", "*.py"), (rust_prose, "rust", "*.rs"))
        for path in sources_of(folder, name)
        for line in wordy(prose(path))
    }
    assert found == set()


# --- all files -------------------------------------------------------------------------------------------------------


def test_no_file_depends_on_where_somebody_keeps_things():
    somewhere = re.compile(r"(?<![\w.~-])/(?:tmp|work|root|home|Users)/")
    assert {name for name, text in files() if somewhere.search(text)} == set()


def test_no_file_depends_on_one_package_index():
    index = re.compile(r"pypi\.org|pythonhosted\.org|[^-]\bcrates\.io\b(?!-)|registry\.npmjs|proxy\.golang")
    assert {name for name, text in files() if index.search(text)} == set()


def test_every_vector_file_names_its_maker():
    folder = ROOT / "tests/vectors"
    table = (folder / "README.md").read_text("utf-8")
    vectors = [path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"]
    assert vectors
    assert [path.name for path in vectors if f"\n| `{path.relative_to(folder).as_posix()}` |" not in table] == []


def test_the_versions_agree():
    cargo = (ROOT / "Cargo.toml").read_text("utf-8")
    version = re.search(r'(?m)^version = "([^"]+)"', cargo)[1]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
