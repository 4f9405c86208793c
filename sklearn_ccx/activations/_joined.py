"""Sites of several directories side by side."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

import numpy as np

from .._validation import check_list, check_text, shown
from ._harvest import Harvest
from ._sharded import ShardedActivations, made_of
from ._stored_rows import Piece

Part = TypeVar("Part", Harvest, ShardedActivations)

_TOKEN_FIELDS = ("token_ids", "positions", "sequence_ids")


def concatenate_sites(parts: Iterable[Part] | Mapping[str, Part]) -> Part:
    """Join activations of the same tokens side by side, site after site.

    It gives the X of one crosscoder on two models, or on sites that were harvested
    one after the other. Nothing is read: the result reads the files of its parts.

    Parameters
    ----------
    parts : sequence of Harvest or ShardedActivations, or dict of them by name
        What to join, of one kind: as many rows each, and sites of one width.
        Activations of shape `(n_tokens, d)` count as one site. The names of a dict
        are put before those of the sites, as in "base:blocks.0.mlp_in", which tells two
        models apart.

    Returns
    -------
    joined : Harvest or ShardedActivations
        Of the kind of the parts. Activations of shape `(n_tokens, n_sites, d)`, with
        the sites of the first part first.

    Raises
    ------
    ValueError
        If there is no part, the numbers of rows, the widths or the tokens differ, or
        two sites have the same name.
    TypeError
        If `parts` are of other kinds, or some are in memory and others on disk.

    See Also
    --------
    load_harvest : Open a part.
    sklearn_ccx.InteractionCrosscoder : Takes the joined activations.

    Examples
    --------
    A model before and after its training goes on, at the same tokens:

    >>> import tempfile
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from sklearn_ccx.activations import concatenate_sites
    >>> from sklearn_ccx.lm import harvest
    >>> config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16)
    >>> base, tuned = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
    >>> ids = [[1, 2, 3], [4, 5]]
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     parts = {
    ...         "base": harvest(base, ids, out=f"{directory}/base"),
    ...         "tuned": harvest(tuned, ids, out=f"{directory}/tuned"),
    ...     }
    ...     both = concatenate_sites(parts)
    ...     both.activations
    ShardedActivations(shape=(5, 2, 8), storage_dtype='float32', n_files=2)
    >>> both.sites
    ('base:blocks.0.mlp_in', 'tuned:blocks.0.mlp_in')
    """
    if isinstance(parts, Mapping):
        names = [check_text(name, "the names of parts") for name in parts]
        items: list[Any] = list(parts.values())
    else:
        items = check_list(parts, "parts")
        names = []
    if not items:
        raise ValueError("parts is empty; give the activations to join.")
    for kind in (Harvest, ShardedActivations):
        if all(isinstance(item, kind) for item in items):
            break
    else:
        kinds = sorted({type(item).__name__ for item in items})
        raise TypeError(
            "parts must be harvests, or ShardedActivations, all of one kind; got "
            f"{', '.join(kinds)}. Arrays are joined by numpy.concatenate."
        )
    on_disk = kind is ShardedActivations
    joined: Any = _side_by_side(items) if on_disk else _joined(items, names)
    return joined


def _joined(harvests: list[Harvest], names: list[str]) -> Harvest:
    first, *others = harvests
    for number, other in enumerate(others, 1):
        for field in _TOKEN_FIELDS:
            mine, theirs = getattr(first, field), getattr(other, field)
            if np.array_equal(mine, theirs):
                continue
            n = min(len(mine), len(theirs))
            differ = np.flatnonzero(mine[:n] != theirs[:n])
            row = int(differ[0]) if len(differ) else n
            raise ValueError(
                f"parts must be of the same tokens: {field} of part {number} differs "
                f"from that of part 0 from row {row} on ({len(theirs)} and "
                f"{len(mine)} rows). Harvest the same inputs with the same settings."
            )
    sites = [site for harvest in harvests for site in harvest.sites]
    if names:
        pairs = zip(names, harvests, strict=True)
        sites = [f"{name}:{site}" for name, harvest in pairs for site in harvest.sites]
    twice = next((site for site in sites if sites.count(site) > 1), None)
    if twice is not None:
        raise ValueError(
            f"Two of parts have the site {twice!r}; give them names, as in "
            'concatenate_sites({"base": ..., "tuned": ...}).'
        )
    activations = [harvest.activations for harvest in harvests]
    on_disk = [isinstance(part, ShardedActivations) for part in activations]
    if any(on_disk) and not all(on_disk):
        raise TypeError(
            f"parts[{on_disk.index(False)}] is in memory and parts["
            f"{on_disk.index(True)}] on disk; harvest all of them with out, or read "
            "the others with numpy.asarray."
        )
    joined: Any = (
        _side_by_side(cast(list[ShardedActivations], activations))
        if all(on_disk)
        else _in_memory(activations)
    )
    tokens = {field: getattr(first, field) for field in _TOKEN_FIELDS}
    return Harvest(joined, **tokens, sites=tuple(sites))


def _side_by_side(parts: list[ShardedActivations]) -> ShardedActivations:
    by_site = [_by_site(part, number) for number, part in enumerate(parts)]
    _check_shapes([part.shape for part in by_site])
    pieces: list[Piece] = []
    n_columns = 0
    for part in by_site:
        pieces += [piece.moved(n_columns) for piece in part._pieces]
        n_columns += part._n_columns
    n_rows, _, width = by_site[0].shape
    n_sites = sum(part.shape[1] for part in by_site)
    return made_of(tuple(pieces), (n_rows, n_sites, width))


def _in_memory(parts: list[Any]) -> Any:
    by_site = [_by_site(part, number) for number, part in enumerate(parts)]
    _check_shapes([part.shape for part in by_site])
    return np.concatenate(by_site, axis=1)


def _by_site(part: Any, number: int) -> Any:
    """Activations with an axis of sites."""
    if part.ndim not in (2, 3):
        raise ValueError(
            f"parts must have shape (n_tokens, n_sites, d) or (n_tokens, d); parts["
            f"{number}] has {shown(part.shape)}."
        )
    return part.reshape(len(part), 1, -1) if part.ndim == 2 else part


def _check_shapes(shapes: list[tuple[int, ...]]) -> None:
    for number, shape in enumerate(shapes):
        for axis, what in ((0, "rows"), (2, "columns at each site")):
            if shape[axis] != shapes[0][axis]:
                raise ValueError(
                    f"parts must have as many {what} each; parts[0] has "
                    f"{shapes[0][axis]} and parts[{number}] has {shape[axis]}."
                )
