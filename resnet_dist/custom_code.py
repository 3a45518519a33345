"""Code of the user's own, which a configuration names as `module:callable`: found, shipped with a job, imported there.

What travels is the text of the named modules and of those beside them that they import. On a worker they are imported
from that text, whatever lies on its disk, so that what runs is what the trial's hash was made of.
"""

import ast
import functools
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from resnet_dist.configuration.code import is_custom
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.credentials import looks_like_a_credential
from resnet_dist.errors import ConfigurationError
from resnet_dist.installed_packages import is_published, versions

Modules = Mapping[str, str]
"""Text of each module by its path below the folder in which it was found: {"nets/wide.py": "…"}."""

SETTINGS = ("network.family", "network.block", "loss.kind", "solver.kind", "data.source", "data.transform")
"""Settings that may name code of the user's own."""

_OURS = {"resnet_dist", "tune_jobs", "cluster", *sys.stdlib_module_names}


def named(config: TrainingConfig) -> dict[str, str]:
    """What of a configuration is the user's own code: {"solver.kind": "lion:lion"}."""
    values = {}
    for setting in SETTINGS:
        section, _, key = setting.partition(".")
        if is_custom(value := getattr(getattr(config, section), key)):
            values[setting] = value
    return values


def fingerprint(modules: Modules) -> str:
    """Hash of the modules' names and text: 16 hexadecimal digits; empty without modules."""
    if not modules:
        return ""
    return hashlib.sha256(json.dumps(dict(modules), sort_keys=True).encode()).hexdigest()[:16]


def required_fingerprint(config: TrainingConfig, modules: Modules) -> str:
    """Fingerprint of a configuration's code as these modules have it.

    Raises a `ConfigurationError` if the configuration was made for another one.
    """
    found = fingerprint(part(modules, named(config).values()))
    if config.code.fingerprint not in ("", found):
        raise ConfigurationError(
            f"code.fingerprint: the code has the fingerprint {found}, not {config.code.fingerprint}; "
            "give the code that the configuration was made for, or leave code.fingerprint out"
        )
    return found


def collect(names: Mapping[str, str], folders: Sequence[Path]) -> dict[str, str]:
    """The text of the modules that `named` settings name, and of modules beside them that they import.

    They are looked for in `folders`, then where Python looks. Of what is found there, among installed packages, only
    modules of the same package come along. Raises a `ConfigurationError` that names the setting.
    """
    texts: dict[str, str] = {}
    for setting, name in names.items():
        place, module = f"{setting}: {name!r}", name.partition(":")[0]
        top = module.partition(".")[0]
        if top in _OURS:
            raise ConfigurationError(f"{place}: {top} is not a module of your own; give the file another name")
        root = next((folder for folder in folders if _file(folder, module)), None)
        within = None if root else top
        root = root or next((Path(entry) for entry in sys.path if _file(Path(entry or "."), module)), None)
        if root and within and is_published(top):
            raise ConfigurationError(
                f"{place}: {top} is a package from an index, whose text does not travel with a trial; wrap it in "
                f"a file of your own, as in: {_wrapped(setting, name)} (docs/custom.md)"
            )
        if root is None:
            looked = ", ".join(str(folder) for folder in folders)
            raise ConfigurationError(
                f"{place}: there is no module {module} in {looked}, nor is it installed; "
                f"put {module.replace('.', '/')}.py beside the experiment file"
            )
        _add(texts, module, within, functools.partial(_read, root, place))
    return texts


_WRAPPERS = {
    "network.family": "def mine(network, batch_norm, classes): return convert({name}(num_classes=classes))",
    "network.block": "def mine(in_channels, out_channels, stride, network, batch_norm): return convert({name}(…))",
    "loss.kind": "def mine(logits, labels): return {name}(logits, labels, reduction='none')",
    "data.transform": "def mine(images, numbers): return {name}(images)",
    "solver.kind": "def mine(parameters, solver): return {name}(parameters, lr=solver.learning_rate)",
}


def _wrapped(setting: str, name: str) -> str:
    """How code that knows nothing of this package is given the arguments that it takes."""
    wrapper = _WRAPPERS.get(setting, "def mine(): return DecodedImages(…)")
    return wrapper.format(name=name.replace(":", "."))


def packages(modules: Modules) -> dict[str, str]:
    """Versions of the installed packages that these modules import, by name."""
    imported: set[str] = set()
    for key, text in modules.items():
        module = key.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        imported.update(
            name.partition(".")[0] for name in _imports(ast.parse(text), module, key.endswith("__init__.py"))
        )
    return versions(imported - _OURS)


def part(modules: Modules, names: Iterable[str]) -> dict[str, str]:
    """Of modules that are there, those that these names stand for, and what they import."""
    texts: dict[str, str] = {}

    def find(module: str) -> tuple[str, str] | None:
        path = module.replace(".", "/")
        return next(((k, modules[k]) for k in (f"{path}.py", f"{path}/__init__.py") if k in modules), None)

    for name in names:
        _add(texts, name.partition(":")[0], None, find)
    return texts


Find = Callable[[str], tuple[str, str] | None]
"""Gives the path and the text of a module by its dotted name."""


def _add(texts: dict[str, str], module: str, within: str | None, find: Find) -> None:
    """Add a module, the packages that it lies in, and what they import (of package `within` alone, if given)."""
    parts = module.split(".")
    for name in (".".join(parts[:length]) for length in range(1, len(parts) + 1)):
        found = find(name)
        if found is None or found[0] in texts:
            continue
        key, text = found
        texts[key] = text
        for imported in _imports(ast.parse(text), name, is_package=key.endswith("/__init__.py")):
            if imported.partition(".")[0] in _OURS or within not in (None, imported.partition(".")[0]):
                continue
            pieces = imported.split(".")  # what is imported may be a module, or something in one
            beginnings = (".".join(pieces[:length]) for length in range(len(pieces), 0, -1))
            if known := next((beginning for beginning in beginnings if find(beginning)), None):
                _add(texts, known, within, find)


def _file(root: Path, module: str) -> Path | None:
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _read(root: Path, place: str, module: str) -> tuple[str, str] | None:
    file = _file(root, module)
    if file is None:
        folder = root.joinpath(*module.split("."))
        # A folder of modules without an __init__.py is a package, too.
        return (f"{module.replace('.', '/')}/__init__.py", "") if any(folder.glob("*.py")) else None
    try:
        text = file.read_text(encoding="utf-8")
        ast.parse(text)
    except (OSError, ValueError, SyntaxError) as error:
        raise ConfigurationError(f"{place}: {file}: {' '.join(str(error).split())}") from None
    if looks_like_a_credential(text.encode()):
        raise ConfigurationError(
            f"{place}: {file} holds what looks like a credential, and its text goes to storage with every trial; "
            "read it from the environment"
        )
    return file.relative_to(root).as_posix(), text


def _imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")
            if node.level:
                package = package[: len(package) - node.level + is_package]
            base = ".".join([*(package if node.level else []), *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


class _Texts(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports modules from their text."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if self._key(fullname) is None:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=f"<trial>/{self._key(fullname)}")

    def is_package(self, fullname: str) -> bool:
        return (self._key(fullname) or "").endswith("/__init__.py")

    def get_source(self, fullname: str) -> str:
        key = self._key(fullname)
        assert key is not None
        return self.files[key]

    def _key(self, fullname: str) -> str | None:
        path = fullname.replace(".", "/")
        return next((key for key in (f"{path}.py", f"{path}/__init__.py") if key in self.files), None)


_TEXTS = _Texts()


def install(modules: Modules) -> None:
    """Let this process import these modules from their text, and nothing that was installed before.

    Modules whose text is another one now are imported anew.
    """
    if _TEXTS not in sys.meta_path:
        sys.meta_path.insert(0, _TEXTS)
    if modules == _TEXTS.files:
        return
    for key in {*_TEXTS.files, *modules}:
        sys.modules.pop(key.removesuffix(".py").removesuffix("/__init__").replace("/", "."), None)
    _TEXTS.files = dict(modules)
    importlib.invalidate_caches()


def installed() -> Modules:
    """What `install` was last given."""
    return _TEXTS.files


def resolve(setting: str, name: str) -> Callable[..., Any]:
    """The callable that a setting names as `module:callable`; a `ConfigurationError` of one line if there is none."""
    module_name, _, attribute = name.partition(":")
    place = f"{setting}: {name!r}"
    # By name, since what it offers lies above this file.
    importlib.import_module("resnet_dist.extension").keep_former_paths()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script that reads its command line, say
        hint = "; modules are imported from their text, so give paths in full" if "__file__" in str(error) else ""
        raise ConfigurationError(f"{place}: cannot be imported: {one_line(error)}{hint}", setting) from error
    if not callable(found := getattr(module, attribute, None)):
        has = ", ".join(_callables(module)) or "none"
        raise ConfigurationError(f"{place}: {module_name} has no callable {attribute!r}; it has {has}", setting)
    return cast(Callable[..., Any], found)


def call(setting: str, name: str, **arguments: Any) -> Any:
    """Call what a setting names, by position; a `ConfigurationError` of one line if it does not take the arguments."""
    function = resolve(setting, name)
    try:
        inspect.signature(function).bind(*arguments.values())
    except TypeError:
        wanted = ", ".join(arguments)
        raise ConfigurationError(
            f"{setting}: {name!r}: must be callable as {name.partition(':')[2]}({wanted})", setting
        ) from None
    except ValueError:  # a callable without a signature, which is not written in Python
        pass
    return function(*arguments.values())


def _callables(module: ModuleType) -> Iterable[str]:
    own = vars(module).items()
    return (key for key, value in own if callable(value) and getattr(value, "__module__", "") == module.__name__)


def one_line(error: BaseException) -> str:
    """An error's kind and text without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400].rstrip(": ")
