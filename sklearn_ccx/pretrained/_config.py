"""The configuration of a dictionary, with errors that name the file and the key."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .._validation import shown

_MISSING = object()


class Config(Mapping[str, Any]):
    """What a JSON file says, by key.

    Parameters
    ----------
    values : dict
        The content of the file.
    label : str
        The file, as errors name it.
    """

    def __init__(self, values: dict[str, Any], label: str) -> None:
        self._values = values
        self.label = label

    @classmethod
    def read(cls, path: Path, label: str) -> "Config":
        """Read a JSON file that holds an object.

        Raises
        ------
        ValueError
            If it does not.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{label} is no JSON file: {error}.") from error
        if not isinstance(values, dict):
            raise ValueError(f"{label} must hold a JSON object; got {shown(values)}.")
        return cls(values, label)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def as_dict(self) -> dict[str, Any]:
        """The content of the file."""
        return dict(self._values)

    def section(self, key: str) -> "Config":
        """The object under a key, empty if there is none."""
        value = self._values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return Config(value, self.label)

    def integer(self, key: str, default: Any = _MISSING) -> Any:
        """A positive whole number."""
        value = self._value(key, default)
        if value is default:
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(key, value, "a positive integer")
        return value

    def number(self, key: str, default: Any = _MISSING) -> Any:
        """A finite real number."""
        value = self._value(key, default)
        if value is default:
            return value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) < float("inf"):
            raise self._wrong(key, value, "a finite number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, key: str) -> str | None:
        """A string, None if there is none."""
        value = self._value(key, None)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def option(
        self, key: str, options: Collection[str], default: Any = _MISSING
    ) -> str:
        """One of a few strings."""
        value = self._value(key, default)
        if not isinstance(value, str) or value not in options:
            raise self._wrong(key, value, f"one of {sorted(options)}")
        return value

    def _value(self, key: str, default: Any) -> Any:
        value = self._values.get(key)
        if value is None:
            if default is _MISSING:
                raise ValueError(f"{self.label} has no {key!r}, which it must have.")
            return default
        return value

    def _wrong(self, key: str, value: Any, right: str) -> ValueError:
        return ValueError(
            f"{self.label}: {key!r} must be {right} to be read; got {shown(value)}."
        )
