from typing import Any

import pytest

from polyad.adapters_store.errors import InvalidInput, PolyadError
from polyad.adapters_store.merge import Recipe
from polyad.adapters_store.merge.setting import Places, value_at

PLAIN: dict[str, Any] = {
    "method": "ties",
    "inputs": [{"of": "a"}, {"of": [["b", 0.5], ["c", -1]], "weight": [0, 0.5, 1], "parameters": {"density": 0.4}}],
    "parameters": {"density": [{"filter": "mlp", "value": [0.1, 0.9]}, {"value": 0.2}]},
    "seed": 3,
    "compress": {"energy": 0.9, "max_rank": 16},
}


def test_a_recipe_is_read_back_as_the_same() -> None:
    recipe = Recipe.from_dict(PLAIN)
    assert Recipe.from_dict(recipe.as_dict()) == recipe
    assert Recipe.from_dict(recipe.as_dict()).digest == recipe.digest


def test_equal_recipes_have_equal_digests_and_others_have_others() -> None:
    base = Recipe.from_dict(PLAIN)
    reordered = Recipe.from_dict(dict(reversed(PLAIN.items())))
    explicit = Recipe.from_dict(PLAIN | {"variant": "mergekit"})
    assert base.digest == reordered.digest == explicit.digest
    others = [
        PLAIN | {"seed": 4},
        PLAIN | {"variant": "peft"},
        PLAIN | {"compress": {"energy": 0.91, "max_rank": 16}},
        PLAIN | {"inputs": list(reversed(PLAIN["inputs"]))},
        PLAIN | {"parameters": {}},
        PLAIN | {"method": "dare_ties"},
    ]
    assert len({Recipe.from_dict(one).digest for one in others} | {base.digest}) == 7


def test_a_digest_never_changes() -> None:
    """It names results that are stored: another one for the same recipe is another FORMAT."""
    recipe = Recipe.from_dict({"method": "ties", "inputs": [{"of": "a"}, {"of": "b"}]})
    assert recipe.to_json() == (
        '{"compress":null,"format":"polyad.merge/1","inputs":[{"of":[["a",1.0]],"parameters":{},"weight":1.0},'
        '{"of":[["b",1.0]],"parameters":{},"weight":1.0}],"method":"ties","parameters":{},"seed":0,"variant":"mergekit"}'
    )


def test_values_follow_filters_and_layers() -> None:
    recipe = Recipe.from_dict(PLAIN)
    names = [f"model.layers.{layer}.{kind}.up" for layer in range(5) for kind in ("mlp", "attn")]
    places = Places(names)
    assert recipe.values("model.layers.2.mlp.up", places)["density"] == pytest.approx(0.5)
    assert recipe.values("model.layers.2.attn.up", places)["density"] == 0.2
    assert recipe.weights("model.layers.1.attn.up", places) == [1.0, 0.25]
    assert recipe.input_values("model.layers.1.attn.up", places) == [{}, {"density": 0.4}]
    assert value_at((0.0, 1.0), "lm_head", places.of("lm_head"), 9) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "nothing"}, "merge methods"),
        ({"inputs": []}, "0 inputs"),
        ({"inputs": [{"of": []}]}, "of which each input is made"),
        ({"inputs": [{"of": [["a", 1e9]]}]}, "coefficient"),
        ({"inputs": [{"of": "a", "weight": "much"}]}, "weight"),
        ({"inputs": [{"of": "a", "weigth": 1}]}, "weight and parameters"),
        ({"parameters": {"density": [0.1, 2]}}, "parameters.density.1"),
        ({"parameters": {"density": [{"filter": "x"}]}}, "object with value"),
        ({"compress": {"rank": 1, "energy": 0.5}}, "one of rank, energy and density"),
        ({"compress": {"ranks": 1}}, "compress"),
        ({"seed": -1}, "seed"),
        ({"format": "polyad.merge/9"}, "polyad.merge/1"),
        ({"extra": 1}, "extra"),
    ],
)
def test_what_a_recipe_cannot_say_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PolyadError, match=message):
        Recipe.from_dict(PLAIN | change)


def test_a_dense_result_must_say_what_becomes_of_it() -> None:
    with pytest.raises(InvalidInput, match="rank, an energy or a density"):
        Recipe.from_dict({"method": "fisher", "inputs": [{"of": "a"}]})
