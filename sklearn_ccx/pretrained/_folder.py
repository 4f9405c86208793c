"""The files of one dictionary, on disk or on the Hugging Face hub."""

import os
import re
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from .._validation import check_text, shown
from ._config import Config
from ._tensor_files import TensorFile

# What the hub admits as the id of a repository.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# Folders that an error about a repository names.
_SHOWN_FOLDERS = 5


class Folder:
    """The files of one dictionary, read when they are asked for.

    Parameters
    ----------
    label : str
        The folder, as errors name it.
    parts : tuple of str
        The parts of its path; some formats say where they read in these alone.
    chosen : str or None
        The file that the user named, None if the user named the folder.
    """

    def __init__(self, label: str, parts: tuple[str, ...], chosen: str | None) -> None:
        self.label = label
        self.parts = parts
        # A file of a configuration stands for its folder.
        is_config = chosen is not None and chosen.endswith((".json", ".yaml"))
        self.chosen = None if is_config else chosen
        self._tensors: dict[str, TensorFile] = {}

    def names(self) -> list[str]:
        """Names of the files in the folder itself, in order."""
        raise NotImplementedError

    def has(self, name: str) -> bool:
        """Whether there is a file of this name, which may be in a folder inside."""
        raise NotImplementedError

    def _fetch(self, name: str) -> Path:
        """Where a file lies on disk."""
        raise NotImplementedError

    def nested(self, names: set[str]) -> list[str]:
        """Folders inside that hold a file of one of these names."""
        raise NotImplementedError

    def config(self, name: str) -> Config:
        """A JSON file of the folder."""
        return Config.read(self._path_of(name), self._label_of(name))

    def tensors(self, name: str) -> TensorFile:
        """A file of tensors of the folder, read once."""
        if name not in self._tensors:
            label = self._label_of(name)
            self._tensors[name] = TensorFile.read(self._path_of(name), label)
        return self._tensors[name]

    def weights(self, *names: str) -> str | None:
        """The file of weights: the one that the user named, or the first of these."""
        if self.chosen is not None:
            return self.chosen
        return next((name for name in names if self.has(name)), None)

    def the_only(self, *suffixes: str) -> str | None:
        """The file that the user named, or the only one that ends so.

        Raises
        ------
        ValueError
            If there are several.
        """
        if self.chosen is not None:
            return self.chosen if self.chosen.endswith(suffixes) else None
        found = [name for name in self.names() if name.endswith(suffixes)]
        if len(found) > 1:
            raise ValueError(
                f"{self.label} holds several dictionaries: {', '.join(found[:8])}; "
                "name one with filename=."
            )
        return found[0] if found else None

    def _path_of(self, name: str) -> Path:
        if not self.has(name):
            held = ", ".join(self.names()[:8]) or "no file"
            raise ValueError(f"{self.label} has no {name}; it has {held}.")
        return self._fetch(name)

    def _label_of(self, name: str) -> str:
        return f"{self.label}/{name}"


class LocalFolder(Folder):
    """A directory on disk."""

    def __init__(self, directory: Path, chosen: str | None) -> None:
        super().__init__(str(directory), directory.absolute().parts, chosen)
        self._directory = directory

    def names(self) -> list[str]:
        return sorted(p.name for p in self._directory.iterdir() if p.is_file())

    def has(self, name: str) -> bool:
        return (self._directory / name).is_file()

    def _fetch(self, name: str) -> Path:
        return self._directory / name

    def nested(self, names: set[str]) -> list[str]:
        folders = [self._directory, *filter(Path.is_dir, self._directory.iterdir())]
        return sorted(
            str(inner.relative_to(self._directory))
            for folder in folders
            for inner in folder.iterdir()
            if inner.is_dir() and any((inner / name).is_file() for name in names)
        )


class HubFolder(Folder):
    """A folder of a repository on the hub, of which files are downloaded one by one."""

    def __init__(
        self, repo_id: str, inner: PurePosixPath, revision: str | None, files: list[str]
    ) -> None:
        here = [PurePosixPath(f) for f in files]
        chosen = None
        if str(inner) in files:
            chosen, inner = inner.name, inner.parent
        inside = [p.relative_to(inner) for p in here if p.is_relative_to(inner)]
        at = "" if str(inner) == "." else f"/{inner}"
        super().__init__(f"{repo_id}{at}", (*repo_id.split("/"), *inner.parts), chosen)
        if not inside:
            raise ValueError(
                f"The repository {repo_id!r} on the hub has nothing at {str(inner)!r}; "
                f"it has {_few(_folders(here))}."
            )
        self._repo_id, self._inner, self._revision = repo_id, inner, revision
        self._files = sorted(inside)

    def names(self) -> list[str]:
        return [str(path) for path in self._files if len(path.parts) == 1]

    def has(self, name: str) -> bool:
        return PurePosixPath(name) in self._files

    def nested(self, names: set[str]) -> list[str]:
        found = {p.parent for p in self._files if p.name in names}
        return sorted(map(str, found - {PurePosixPath(".")}))

    def _fetch(self, name: str) -> Path:
        path = str(self._inner / name)
        return Path(
            _ask_hub(
                self._repo_id,
                "hf_hub_download",
                filename=path,
                revision=self._revision,
            )
        )


def open_folder(
    path: Any,
    *,
    subfolder: str | None = None,
    filename: str | None = None,
    revision: str | None = None,
) -> Folder:
    """The folder that a path or the id of a repository names.

    Parameters
    ----------
    path : str or path-like
        A directory, a file, or the id of a repository on the hub. What exists on disk
        comes first.
    subfolder, filename : str or None
        A folder inside, and a file in it.
    revision : str or None
        Branch, tag or commit of the repository.

    Raises
    ------
    TypeError
        If an argument is no text.
    ValueError
        If nothing is there, and `path` is no id of a repository.
    OSError
        If the hub cannot be asked, or has no such repository.
    ImportError
        If huggingface_hub is needed and not installed.
    """
    name = _check_path(path)
    inner = PurePosixPath()
    for value, argument in ((subfolder, "subfolder"), (filename, "filename")):
        if value is not None:
            inner /= _check_inner(value, argument)
    if revision is not None:
        revision = check_text(revision, "revision")
    if os.path.exists(name):
        if revision is not None:
            raise ValueError(
                f"revision={shown(revision)} is for repositories on the hub, but "
                f"path={name!r} is on disk; leave it out."
            )
        return _open_local(Path(name), inner)
    # A path-like object names a file on disk and nothing else.
    if not isinstance(path, str) or not _HUB_ID.fullmatch(name):
        raise ValueError(
            f"path={shown(name)} does not exist on disk, and is no id of a repository "
            "on the hub, which would be 'organisation/name' (with subfolder= and "
            "filename= for what is inside)."
        )
    if _hub().constants.HF_HUB_OFFLINE:
        # What was downloaded before lies in a folder of the cache.
        there = _ask_hub(
            name, "snapshot_download", revision=revision, local_files_only=True
        )
        return _open_local(Path(there), inner)
    files = _ask_hub(name, "list_repo_files", revision=revision)
    return HubFolder(name, inner, revision, list(files))


def _open_local(path: Path, inner: PurePosixPath) -> LocalFolder:
    whole = path / inner if inner.parts else path
    # Unlike the methods of paths, these take any name for one that may not be there.
    if os.path.isfile(whole):
        return LocalFolder(whole.parent, whole.name)
    if not os.path.isdir(whole):
        raise ValueError(
            f"path={str(path)!r} exists, but has no {str(inner)!r}: check subfolder "
            "and filename."
        )
    return LocalFolder(whole, None)


def _check_path(path: Any) -> str:
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):
        raise TypeError(
            "path must be a directory, a file or the id of a repository on the hub, as "
            f"a str or a pathlib.Path; got {shown(path)}."
        )
    if not name or "\0" in name:
        raise ValueError(f"path must be no empty text, without null; got {name!r}.")
    return name


def _check_inner(value: Any, name: str) -> str:
    text = check_text(value, name)
    parts = PurePosixPath(text).parts
    if not parts or ".." in parts or parts[0] == "/" or "\0" in text:
        raise ValueError(
            f"{name} must be a path inside of `path`, such as 'blocks.8/ae.pt'; got "
            f"{shown(text)}."
        )
    return text


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "Dictionaries on the hub need huggingface_hub: pip install "
            "'sklearn-ccx[hub]'. A downloaded folder can be read without it."
        ) from error
    return huggingface_hub


def _ask_hub(repo_id: str, function: str, **arguments: Any) -> Any:
    """Call the hub's client, whose errors have many types."""
    ask = getattr(_hub(), function)
    try:
        return ask(repo_id, **arguments)
    except Exception as error:
        what = arguments.get("filename", "its list of files")
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise OSError(
            f"path={repo_id!r} does not exist on disk, and {what} could not be had "
            f"from the hub: {type(error).__name__}: {reason}"
        ) from error


def _folders(files: list[PurePosixPath]) -> list[str]:
    return sorted({str(path.parent) for path in files})


def _few(names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN_FOLDERS else ""
    return ", ".join(names[:_SHOWN_FOLDERS]) + more
