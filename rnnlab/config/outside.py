"""Names of what lives outside the project: `package.module:Name`, wherever a table has a name.

The module is looked for where every import looks, PYTHONPATH included, then in the folders of the config's field
`import_from`: at first that of the config's file, in config.json the one that had it.
"""

import importlib
import inspect
import os
import re
import site
import sys
import sysconfig
import traceback
import typing
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, TypeVar

from rnnlab.config.errors import CannotImport, ConfigError, unknown

T = TypeVar("T")


class Table(dict[str, T]):
    """Name -> factory, as a config names it.

    Args:
        entries: those of the project.
        what: what a factory makes, in words, as "a task".
        is_one: whether something is what a factory makes.
        adapt: (factory, name) -> what takes the place of a factory from outside; None: itself.
    """

    def __init__(
        self,
        entries: Mapping[str, T],
        what: str,
        is_one: Callable[[Any], bool] = callable,
        adapt: Callable[[Any, str], Any] = lambda factory, name: factory,
    ):
        super().__init__(entries)
        self.what, self.is_one, self._adapt = what, is_one, adapt
        self._outside: dict[str, T] = {}

    def outside(self, name: str, where: str) -> T:
        """The factory that `package.module:Name` names; see `find_outside`."""
        factory = find_outside(name, where)
        try:
            adapted: Any = self._adapt(factory, name)
            annotated: Any = adapted.__init__ if isinstance(adapted, type) else adapted
            if inspect.isroutine(annotated):
                typing.get_type_hints(annotated)
            inspect.signature(adapted)
        except Exception as error:  # An annotation may be any code.
            raise ConfigError(f"{where}: {name} is not read as {self.what}: {type(error).__name__}: {error}") from None
        self._outside[name] = typing.cast(T, adapted)
        return self._outside[name]

    def make(self, name: str, where: str, *args: Any, **fields: Any) -> Any:
        """Calls what `package.module:Name` stands for.

        Raises:
            ConfigError: it cannot be called so, or makes something else.
        """
        factory: Any = self.outside(name, where)
        try:
            if isinstance(factory, type):  # The metaclass of Flax's modules hides the constructor's signature.
                inspect.signature(factory.__init__).bind(None, *args, **fields)
            else:
                inspect.signature(factory).bind(*args, **fields)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {name} does not make {self.what}: {error}") from None
        product = factory(*args, **fields)
        if not self.is_one(product):
            raise ConfigError(f"{where}: {name} makes {_brief(product)}; it must make {self.what}")
        return product

    def every(self) -> list[T]:
        """The project's, and all from outside that this process has looked up."""
        return [*self.values(), *self._outside.values()]


def is_outside(name: Any) -> bool:
    """Whether a name stands for something outside the project."""
    return isinstance(name, str) and _OUTSIDE.fullmatch(name) is not None


_OUTSIDE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def look_in(folders: Iterable[str | Path]) -> None:
    """From now on modules are looked for in these folders, too, after all others, and no more in those of before."""
    folders = [os.path.abspath(os.path.expanduser(folder)) for folder in folders]
    if folders == _folders:
        return
    for name in [name for name, folder in _loaded.items() if folder not in folders]:
        # Another study may have a module of the same name.
        for module in [each for each in sys.modules if each.split(".")[0] == name]:
            del sys.modules[module]
        del _loaded[name]
    for folder in _added:
        sys.path.remove(folder)
    _folders[:] = folders
    _added[:] = [folder for folder in dict.fromkeys(folders) if folder not in sys.path]
    sys.path.extend(_added)
    importlib.invalidate_caches()


_folders: list[str] = []
_added: list[str] = []
"""Those of them that were not on sys.path before."""
_loaded: dict[str, str] = {}
"""Module or package -> the folder of `look_in` that it was imported from."""


def note_imports(before: Iterable[str]) -> None:
    """Remembers which of the modules that are imported now, and were not before, come from the folders of `look_in`."""
    for name in {each.split(".")[0] for each in sys.modules.keys() - set(before)} - _loaded.keys():
        if (folder := _folder_of(name)) in _added:
            _loaded[name] = folder


def find_outside(name: str, where: str) -> Any:
    """The class or function that `package.module:Name` names.

    Args:
        where: the field that names it, for messages.

    Raises:
        ConfigError: no such module, an error while it is imported, or nothing of this name in it.
    """
    path, _, attribute = name.partition(":")
    before = set(sys.modules)
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not (path == error.name or path.startswith(f"{error.name}.")):
            raise CannotImport(f"{where}: {name}: {_described(error)}") from None
        folders = f" and in {', '.join(_folders)} (import_from)" if _folders else ""
        raise CannotImport(
            f"{where}: {name}: no module {error.name!r}; looked for on PYTHONPATH{folders}; put the folder that has it "
            "on PYTHONPATH, or the module beside the config's file"
        ) from None
    except (Exception, SystemExit) as error:  # Whatever a user's file raises.
        raise CannotImport(f"{where}: {name}: {_described(error)}") from None
    finally:
        note_imports(before)
    if not hasattr(module, attribute):
        there = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise ConfigError(f"{where}: {unknown(f'name in {_file_of(path)}:', attribute, there)}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise ConfigError(f"{where}: {name} is {factory!r}; it must be a class or a function")
    return factory


def folders_of(config: Any) -> tuple[str, ...]:
    """The folders that have the modules of a resolved config's outside names, but for installed ones."""
    folders = (_folder_of(name.partition(":")[0].split(".")[0]) for name in _names(config))
    return tuple(sorted({folder for folder in folders if folder is not None}))


def _names(node: Any) -> Iterable[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "name" and is_outside(value):
                yield value
            yield from _names(value)
    elif isinstance(node, list | tuple):
        yield from (each for each in node if is_outside(each))


def _folder_of(name: str) -> str | None:
    """The folder that has a module or package which is imported already; None for one of Python's or an installed."""
    module = sys.modules.get(name)
    files = [*getattr(module, "__path__", []), *filter(None, [getattr(module, "__file__", None)])]
    if not files or name == __name__.split(".")[0]:
        return None
    folder = Path(os.path.abspath(files[0])).parent
    return None if str(folder) in _INSTALLED or PathFinder.find_spec(name, [str(folder)]) is None else str(folder)


_INSTALLED = {
    *(str(Path(path).absolute()) for path in sysconfig.get_paths().values()),
    *site.getsitepackages(),
    site.getusersitepackages(),
}


def _file_of(module: str) -> str:
    return getattr(sys.modules[module], "__file__", None) or module


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"a {type(value).__qualname__}"


def _described(error: BaseException) -> str:
    """An error of a module's own code, and where it is."""
    lines = traceback.extract_tb(error.__traceback__)
    ours = [line for line in lines if not line.filename.startswith("<frozen") and line.filename != __file__]
    at = f" ({ours[-1].filename}:{ours[-1].lineno})" if ours else ""
    if isinstance(error, SyntaxError) and error.filename:
        at = f" ({error.filename}:{error.lineno})"
        return f"SyntaxError: {error.msg}{at}"
    return f"{type(error).__name__}: {error}{at}"
