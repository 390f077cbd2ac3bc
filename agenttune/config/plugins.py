"""Classes of the user's own: from a file (`./mine.py:Mine`), or by the name that an installed package gives them.

Code is run only where its file or its installed name was written down, never because a file happens to lie in a folder.
Importing it can fail, end the process or take for ever; here it costs an error after `IMPORT_LIMIT_S` at most.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BeforeValidator

from agenttune.config.plugin_parameters import PluginParameters, parameters_of
from agenttune.config.yaml_files import Place, load_yaml, written_at
from agenttune.errors import ConfigError, PluginFault
from agenttune.protocol.invalid_values import did_you_mean, failure_words

T = TypeVar("T")
Kind = Literal["policy", "detector", "approver", "channel", "adapter", "contender"]
GROUPS: dict[Kind, str] = {
    "policy": "agenttune.policies",
    "detector": "agenttune.detectors",
    "approver": "agenttune.approvers",
    "channel": "agenttune.channels",
    "adapter": "agenttune.adapters",
}
"""Entry-point group of each kind of plugin; contenders of the benchmark come from files only."""
IMPORT_LIMIT_S = 20.0
"""How long importing a class and making one may take (guess: importing torch takes 3 to 10 s)."""
_REFERENCE = re.compile(r"(?P<path>.*\.py)(?::(?P<name>.*))?|(?P<no_file>[^:]+):(?P<of>[A-Za-z_]\w*)")


def is_class_reference(text: str) -> bool:
    """Whether a text names a class in a file, such as `./mine.py:Mine`."""
    return _REFERENCE.fullmatch(text) is not None


def _entry(value: object) -> object:
    given = value.get("type") if isinstance(value, dict) else value
    if isinstance(given, str) and given:
        return value
    raise ValueError(
        f"give ./file.py:Class or an installed name, or a mapping with it as its 'type' (got {value!r:.80})"
    )


PluginEntry = Annotated[Any, BeforeValidator(_entry, json_schema_input_type=str | dict[str, Any])]
"""A plugin in a settings file: its reference, or a mapping of `type:` and its parameters."""


@dataclass(frozen=True)
class PluginUse:
    """A plugin that somebody asks for.

    Attributes:
        kind: What it is to be.
        reference: `./mine.py:Mine`, or an installed name.
        folders: Where a relative path counts from; the first in which there is such a file.
        file: The YAML file that names it, if one does.
        at: Where in that file.
        is_bare: It is named there by its reference alone, rather than by a mapping that has its parameters too.
    """

    kind: Kind
    reference: str
    folders: tuple[Path, ...]
    file: Path | None = None
    at: Place = ()
    is_bare: bool = False

    @classmethod
    def of_entry(cls, kind: Kind, entry: Any, file: Path, at: Place) -> PluginUse:
        """As a `PluginEntry` at a place of a settings file says."""
        if isinstance(entry, str):
            return cls(kind, entry, (file.parent,), file, at, is_bare=True)
        return cls(kind, str(entry["type"]), (file.parent,), file, at)

    @property
    def identity(self) -> str:
        """The same for everybody who means the same class: the absolute path and the class, or the installed name."""
        if not is_class_reference(self.reference):
            return self.reference
        path, name = _split(self)
        return f"{path}:{name}"

    def problem(self, words: str) -> ConfigError:
        """An error about it that says where it stands."""
        if self.file is None:
            return ConfigError(f"{self.kind} {self.reference!r}: {words}", field=self.kind)
        place = self.at if self.is_bare else (*self.at, "type")
        return ConfigError(f"{written_at(self.file, place)}: {words}", field=".".join(map(str, place)))


@dataclass(frozen=True)
class PluginClass:
    """A class that can be made.

    Attributes:
        use: How it was asked for.
        cls: The class.
        parameters: What it takes.
        sha256: Of its source file; empty if it has none.
    """

    use: PluginUse
    cls: type[Any]
    parameters: PluginParameters
    path: Path | None
    sha256: str

    def make(self, **given: object) -> Any:
        """An instance, with its parameters from the settings file and `given` where it asks for their types.

        Raises:
            ConfigError: A parameter is wrong; `file:line: key: problem`.
            PluginFault: Its constructor raised, or took too long.
        """
        arguments = self.parameters.arguments_of(self._settings())
        arguments |= {name: given[what] for name, what in self.parameters.injected.items() if what in given}
        return _within(lambda: self.cls(**arguments), self.use)

    def _settings(self) -> Any:
        if self.use.file is not None and not self.use.is_bare:
            return load_yaml(self.use.file, self.parameters.file_model, self.use.at)
        required = [name for name, field in self.parameters.model.model_fields.items() if field.is_required()]
        if required:
            more = f"give it in a YAML file: type: {self.use.reference}, {', '.join(f'{r}: ...' for r in required)}"
            raise self.use.problem(f"{', '.join(required)} must be given; {more}")
        return self.parameters.file_model(type=self.use.reference)


def find_class(use: PluginUse, base: type[Any], injected: Sequence[str] = ()) -> PluginClass:
    """Import the class that is asked for.

    Args:
        use: What is asked for.
        base: What it must extend.
        injected: Names of types whose parameters are given by us and stand in no file, such as `PolicyContext`.

    Raises:
        ConfigError: There is no such file, class or installed name, or it is not of that kind.
        PluginFault: It cannot be imported.
    """
    found = _from_file(use) if is_class_reference(use.reference) else _installed(use)
    if not (isinstance(found, type) and base in found.__mro__):
        name = getattr(found, "__name__", repr(found))
        raise use.problem(f"{name} is no {use.kind}: it must be a class that extends {public_name(base)}")
    if lacking := sorted(getattr(found, "__abstractmethods__", ())):
        raise use.problem(f"{found.__name__} does not define {', '.join(lacking)}, which every {use.kind} must")
    try:
        # An adapter is made by the loop, of what is in memory there; a contender names the class of its parameters.
        takes_settings = use.kind not in ("adapter", "contender")
        parameters = parameters_of(found if takes_settings else object, injected, use.kind == "policy")
    except (TypeError, ValueError, NameError) as error:
        raise use.problem(f"the parameters of {found.__name__} cannot be read: {error}") from None
    file = getattr(sys.modules.get(found.__module__), "__file__", None)
    path = Path(file) if file else None
    return PluginClass(use, found, parameters, path, hashlib.sha256(path.read_bytes()).hexdigest() if path else "")


def public_name(base: type[Any]) -> str:
    """Where users import a base class from: `agenttune.policy.Policy`."""
    parts = base.__module__.split(".")
    packages = [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
    public = (package for package in packages if getattr(sys.modules.get(package), base.__name__, None) is base)
    return f"{next(public, base.__module__)}.{base.__name__}"


def _split(use: PluginUse) -> tuple[Path, str]:
    match = _REFERENCE.fullmatch(use.reference)
    groups = match.groupdict() if match else {}
    path = Path(groups.get("path") or groups.get("no_file") or "").expanduser()
    candidates = [path] if path.is_absolute() else [folder / path for folder in use.folders]
    found = next((c for c in candidates if c.is_file()), candidates[0])
    return Path(found).resolve(), str(groups.get("name") or groups.get("of") or "")


def _from_file(use: PluginUse) -> object:
    path, name = file_of(use)
    module = _within(lambda: _module_of(path), use)
    found = getattr(module, name, None)
    if found is None:
        names = [c.name for c in written_classes(path)]
        known = ", ".join(names) or "none"
        raise use.problem(f"{path} has no class {name!r}{did_you_mean(name, names)}; its classes: {known}")
    return cast(object, found)


def file_of(use: PluginUse) -> tuple[Path, str]:
    """The file and the class that a reference names; nothing is run.

    Raises:
        ConfigError: There is no such Python file, or no class is named.
    """
    path, name = _split(use)
    if path.is_dir():
        raise use.problem(f"{path} is a folder; name a Python file and a class in it, such as ./mine.py:Mine")
    if path.suffix != ".py":
        raise use.problem(f"{path} is no Python file; a class is named as ./mine.py:Mine")
    if not path.is_file():
        near = did_you_mean(path.name, sorted(p.name for p in path.parent.glob("*.py")))
        raise use.problem(f"there is no file {path}{near}")
    if not name:
        classes = ", ".join(f"{use.reference.rstrip(':')}:{c.name}" for c in written_classes(path))
        raise use.problem(f"name a class in it: {classes or 'it has none'}")
    return path, name


def _module_of(path: Path) -> ModuleType:
    """The module of a file, imported anew if the file has changed."""
    digest = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()
    name = f"{_PREFIX}{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    _prefer_modules_of(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while they are made
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


_PREFIX = "agenttune_plugin_"
"""Of the names of modules that are files of the user's own."""
_plugin_folders: list[str] = []
"""Folders that stand in `sys.path` for the sake of plugins, the last used first."""


def _prefer_modules_of(folder: Path) -> None:
    """Let the modules beside a file be imported, as those of this folder where another plugin's has the same names.

    Plugins' folders stand behind everything else, so that no other module is hidden by them.
    """
    others = [other for other in _plugin_folders if other != str(folder)]
    for name in _loaded_from(others):
        if (folder / f"{name}.py").is_file() or (folder / name).is_dir():
            _forget(name)
    kept = [entry for entry in sys.path if entry not in _plugin_folders]
    # A folder that was there without us, such as that of the user's script, keeps its place.
    _plugin_folders[:] = [*([] if str(folder) in kept else [str(folder)]), *others]
    sys.path[:] = [*kept, *_plugin_folders]


def forget_loaded() -> None:
    """Let every file of the user's own be imported anew, with the modules beside it: nothing stays in their classes."""
    for name in [*(name for name in sys.modules if name.startswith(_PREFIX)), *_loaded_from(_plugin_folders)]:
        _forget(name)


def _loaded_from(folders: Collection[str]) -> list[str]:
    """Names of modules and packages that lie in one of these folders."""
    if not folders:  # asked at each cell of a benchmark, and there are thousands of modules
        return []
    files = ((name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items()) if "." not in name)
    return [name for name, file in files if file and os.path.dirname(file).removesuffix(f"/{name}") in folders]


def _forget(name: str) -> None:
    for part in [part for part in sys.modules if part == name or part.startswith(f"{name}.")]:
        sys.modules.pop(part, None)


def installed(kind: Kind) -> list[EntryPoint]:
    """What installed packages offer, by name; nothing of it is imported."""
    return list(_offered(GROUPS[kind], tuple((entry, _changed_s(entry)) for entry in sys.path)))


def _changed_s(folder: str) -> float:
    """When something was installed there last; scripts write into other folders of the path all the time."""
    try:
        return os.stat(folder).st_mtime if folder.endswith("-packages") else 0.0
    except OSError:  # not every path exists
        return 0.0


@functools.lru_cache(maxsize=16)
def _offered(group: str, folders: tuple[tuple[str, float], ...]) -> tuple[EntryPoint, ...]:
    """To read what all packages offer takes tens of milliseconds; anew when a folder of theirs has changed."""
    return tuple(sorted(entry_points(group=group), key=lambda entry: entry.name))


def package_of(entry: EntryPoint) -> str:
    """Name and version of the package that offers it."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"


def _installed(use: PluginUse) -> object:
    offered = [entry for entry in installed(use.kind) if entry.name == use.reference]
    if not offered:
        names = [entry.name for entry in installed(use.kind)]
        known = f"installed: {', '.join(names)}" if names else f"no installed package has a {use.kind}"
        what = f"no {use.kind} is called {use.reference!r}{did_you_mean(use.reference, names)}"
        raise use.problem(f"{what}; {known}. A class in a file is named as ./mine.py:Mine")
    targets = {entry.value for entry in offered}
    if len(targets) > 1:
        packages = " and ".join(package_of(entry) for entry in offered)
        raise use.problem(f"{packages} both have a {use.kind} {use.reference!r}; uninstall one of them")
    return _within(offered[0].load, use)


def _within(step: Callable[[], T], use: PluginUse) -> T:
    """Run somebody's code in a thread, so that it neither ends this process nor holds it up for ever.

    What it prints goes to stderr: stdout may be read by a machine.
    """
    answer: list[T] = []
    fault: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(step())
        except BaseException as error:  # also SystemExit: whatever it is, it is not ours
            fault.append(error)

    thread = threading.Thread(target=run, name=f"plugin {use.reference}", daemon=True)
    with contextlib.redirect_stdout(sys.stderr):
        thread.start()
        thread.join(IMPORT_LIMIT_S)
    if answer:
        return answer[0]
    words = _told(fault[0]) if fault else f"it was not ready after {IMPORT_LIMIT_S:g} s"
    raise PluginFault(f"{use.kind} {use.reference} cannot be used: {words}")


def _told(error: BaseException) -> str:
    """An error in one line, with the line of the file in which it happened."""
    text = " ".join(failure_words(error).split())
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    last = next((f for f in reversed(frames) if f.filename != __file__), None)
    at = "" if last is None or isinstance(error, SyntaxError) else f" ({Path(last.filename).name}:{last.lineno})"
    return f"{text}{at}"


@dataclass(frozen=True)
class WrittenClass:
    """A class as it stands in a file that was not run.

    Attributes:
        bases: Last names of what it extends.
        parameters: As they are written, such as `factor: float = 0.5`.
    """

    name: str
    bases: tuple[str, ...]
    summary: str
    parameters: tuple[str, ...]


def written_classes(path: Path) -> list[WrittenClass]:
    """The classes of a Python file, read without running it; none if it is no Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return []
    return [_written(node) for node in tree.body if isinstance(node, ast.ClassDef)]


def written_adapters(script: Path) -> list[tuple[int, str]]:
    """Line and reference of each adapter that a script names as text: `session(..., adapter="./mine.py:Mine")`.

    None where the script changes its folder, as what a relative path means is then not known before it runs.
    """
    try:
        source = script.read_bytes()
        tree = ast.parse(source)
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return []
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and b"chdir" not in source)
    given = (
        k.value for c in calls if ast.unparse(c.func).endswith("session") for k in c.keywords if k.arg == "adapter"
    )
    words = ((v.lineno, v.value) for v in given if isinstance(v, ast.Constant) and isinstance(v.value, str))
    return [(line, reference) for line, reference in words if is_class_reference(reference)]


def written_kind(use: PluginUse, bases: Mapping[str, str]) -> str:
    """What kind of plugin a class is by what it extends in its file, which is not run; `policy` where that is not seen.

    Args:
        use: Names the class.
        bases: Kind by the last name of what it extends.
    """
    path, name = _split(use)
    meant = (bases.get(base) for c in written_classes(path) if c.name == name for base in c.bases)
    return next(filter(None, meant), "policy")


def _written(node: ast.ClassDef) -> WrittenClass:
    doc = (ast.get_docstring(node) or "").strip().split("\n")[0]
    bases = tuple(ast.unparse(base).rpartition(".")[2] for base in node.bases)
    return WrittenClass(node.name, bases, doc, tuple(_written_parameters(node)))


def _written_parameters(node: ast.ClassDef) -> Iterator[str]:
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is not None:
        arguments = ast.unparse(init.args).removeprefix("self").removeprefix(", ")
        yield from [arguments] if arguments else []
    elif any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        yield from (ast.unparse(n) for n in fields if "ClassVar" not in ast.unparse(n.annotation))
