import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sklearn_ccx.activations import concatenate_sites, load_harvest
from tests.activations.directories import write_directory


@pytest.fixture
def harvests(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(12, 2, 4)).astype(np.float32) for _ in range(2)]
    for name, array, lengths in zip("ab", arrays, [(12,), (5, 7)], strict=True):
        write_directory(tmp_path / name, array, lengths)
    return [load_harvest(tmp_path / name) for name in "ab"], arrays


def in_memory(harvest):
    return dataclasses.replace(harvest, activations=np.asarray(harvest.activations))


def test_harvests_of_two_models(harvests):
    (first, second), arrays = harvests
    both = concatenate_sites({"base": first, "tuned": second})
    assert both.sites == ("base:a", "base:b", "tuned:a", "tuned:b")
    assert_array_equal(both.token_ids, first.token_ids)
    assert_array_equal(both.positions, first.positions)
    assert_array_equal(both.sequence_ids, first.sequence_ids)
    assert_array_equal(both.activations, np.concatenate(arrays, axis=1), strict=True)
    held = concatenate_sites({"base": in_memory(first), "tuned": in_memory(second)})
    assert isinstance(held.activations, np.ndarray)
    assert_array_equal(held.activations, both.activations)
    assert held.sites == both.sites


def test_sites_that_were_harvested_one_after_the_other(harvests):
    (first, second), _ = harvests
    second = dataclasses.replace(second, sites=("c", "d"))
    assert concatenate_sites([first, second]).sites == ("a", "b", "c", "d")
    assert concatenate_sites(iter([first])).sites == first.sites


def test_activations(harvests):
    parts, arrays = [harvest.activations for harvest in harvests[0]], harvests[1]
    joined = concatenate_sites([parts[0][::2], parts[1][1::2, 1], parts[0][:6, :1]])
    expected = [arrays[0][::2], arrays[1][1::2, 1:], arrays[0][:6, :1]]
    assert_array_equal(joined, np.concatenate(expected, axis=1), strict=True)
    assert concatenate_sites({"x": parts[0], "y": parts[1]}).shape == (12, 4, 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a, b: [], ValueError, "parts is empty"),
        (lambda a, b: {}, ValueError, "parts is empty"),
        (lambda a, b: 3, TypeError, "parts must be a list"),
        (lambda a, b: [a, b], ValueError, r"site 'a'; give them names, as in"),
        (lambda a, b: [a, a.activations], TypeError, "all of one kind; got Harvest, S"),
        (lambda a, b: [np.ones((12, 2, 4))], TypeError, r"got ndarray\. Arrays are"),
        (lambda a, b: {1: a, 2: b}, TypeError, "names of parts must be a string"),
        (
            lambda a, b: [a.activations, b.activations[1:]],
            ValueError,
            r"as many rows each; parts\[0\] has 12 and parts\[1\] has 11",
        ),
        (
            lambda a, b: [a.activations, b.activations[:, :, :3]],
            ValueError,
            r"columns at each site each; parts\[0\] has 4 and parts\[1\] has 3",
        ),
        (
            lambda a, b: [a.activations, b.activations[:, 0, 0]],
            ValueError,
            r"parts\[1\] has \(12,\)",
        ),
        (
            lambda a, b: {"a": a, "b": in_memory(b)},
            TypeError,
            r"parts\[1\] is in memory and parts\[0\] on disk",
        ),
        (
            lambda a, b: {
                "a": a,
                "b": dataclasses.replace(b, token_ids=b.token_ids + (b.positions == 4)),
            },
            ValueError,
            "same tokens: token_ids of part 1 differs from that of part 0 from row 4",
        ),
        (
            lambda a, b: {"a": a, "b": dataclasses.replace(b, positions=np.arange(11))},
            ValueError,
            r"positions of part 1 differs .* from row 5 on \(11 and 12 rows\)",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(harvests, change, error, message):
    with pytest.raises(error, match=message):
        concatenate_sites(change(*harvests[0]))
