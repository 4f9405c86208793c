"""All public names are in the API reference and have complete docstrings.

What is public is what ``docs/api.rst`` says: the modules it names, and the names in
their ``__all__``.
"""

import dataclasses
import inspect
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from numpydoc.docscrape import get_doc_object
from numpydoc.validate import Validator, error, validate

ROOT = Path(__file__).parents[1]

# Public modules that need an optional dependency.
NEEDS = {"sklearn_ccx.lm": "transformers"}

EXEMPT = {
    "ES01",  # an extended summary is optional
    "GL01",  # the summary starts on the line of the opening quotes
    "GL02",  # the closing quotes may follow a one-line summary
    "GL03",  # blank lines are the formatter's business
    "RT02",  # returned values have names, as in scikit-learn
    "SA01",  # See Also is optional
}
# The examples of classes show their methods in use.
EXEMPT_OF_MEMBERS = EXEMPT | {"EX01"}


def read_reference():
    """The modules and the names in ``docs/api.rst``: {module: {name, ...}}."""
    names, module = {}, None
    for line in (ROOT / "docs/api.rst").read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"\.\. currentmodule:: (\S+)", line):
            module = match[1]
            names.setdefault(module, set())
        elif match := re.fullmatch(r"(?:   |\.\. autodata:: )(\w+)", line):
            names[module].add(match[1])
    return names


REFERENCE = read_reference()
MODULES = {
    name: import_module(name)
    for name in REFERENCE
    if name not in NEEDS or find_spec(NEEDS[name])
}


def is_own(member):
    """Whether a member of a class is documented here, not in scikit-learn."""
    if isinstance(member, property):
        member = member.fget
    return callable(member) and member.__module__.split(".")[0] == "sklearn_ccx"


def members(cls):
    """Names of public methods and properties, inherited ones too."""
    for name in dir(cls):
        if not name.startswith("_") and is_own(getattr(cls, name)):
            yield name


def public_objects():
    """Full names of all that needs a docstring, and the checks it is exempt from."""
    seen = set()
    for module_name, module in MODULES.items():
        for name in module.__all__:
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isroutine(value)):
                continue  # constants have no docstring of their own
            if value in seen:
                continue
            seen.add(value)
            yield pytest.param(f"{module_name}.{name}", EXEMPT, id=name)
            for member in members(value) if inspect.isclass(value) else ():
                full = f"{module_name}.{name}.{member}"
                yield pytest.param(full, EXEMPT_OF_MEMBERS, id=f"{name}.{member}")


class DocstringValidator(Validator):
    """numpydoc's, which takes the fields of a result for what they are: attributes."""

    def __init__(self, obj_name):
        super().__init__(get_doc_object(self._load_obj(obj_name)))
        # Users read a result, and do not make one.
        self.is_result = (
            dataclasses.is_dataclass(self.obj) and not self.doc["Parameters"]
        )

    @property
    def doc_all_parameters(self):
        if self.is_result:
            return self._doc_parameters(["Attributes"])
        return super().doc_all_parameters

    @property
    def parameter_mismatches(self):
        if not self.is_result:
            return super().parameter_mismatches
        missing = set(self.signature_parameters) - set(self.doc_all_parameters)
        return [error("PR01", missing_params=str(missing))] if missing else []


@pytest.mark.parametrize(("name", "exempt"), list(public_objects()))
def test_docstring(name, exempt):
    errors = validate(name, validator_cls=DocstringValidator)["errors"]
    found = [f"{code}: {text}" for code, text in errors if code not in exempt]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", list(MODULES))
def test_public_names_are_in_the_reference(name):
    # sklearn_ccx.lm has the names of sklearn_ccx.activations too, for one.
    elsewhere = set().union(*(REFERENCE[other] for other in REFERENCE if other != name))
    public = set(MODULES[name].__all__)
    assert REFERENCE[name] <= public
    assert public <= REFERENCE[name] | elsewhere
