"""What each method must do by its definition (identities), on deltas of different ranks and targets."""

from typing import Any

import pytest
import torch

from polyad.adapters_store.delta import Delta, weighted_sum
from polyad.adapters_store.errors import InvalidInput, Unsupported
from polyad.adapters_store.merge import Compress, methods
from tests.adapters_store.merge.conftest import SHAPES, Merge, low_rank_delta, matrices

EXACT = Compress(density=1.0)


def assert_same(result: Delta, expected: dict[str, torch.Tensor], rtol: float = 1e-5) -> None:
    for module, matrix in matrices(result).items():
        wanted = expected[module]
        torch.testing.assert_close(matrix, wanted, rtol=rtol, atol=rtol * float(wanted.abs().max() + 1e-30))


IDENTITIES: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("task_arithmetic", {}),
    ("soup", {}),
    ("checkpoint_average", {}),
    ("interpolate", {"alpha": 1}),
    *(("ties", {"density": 1, "variant": variant}) for variant in ("mergekit", "peft", "paper")),
    *(("dare_linear", {"density": 1, "variant": variant}) for variant in ("paper", "mergekit", "peft")),
    *(("dare_ties", {"density": 1, "variant": variant}) for variant in ("paper", "mergekit", "peft")),
    ("della", {"density": 1}),
    ("della_linear", {"density": 1}),
    *(("breadcrumbs", {"drop_top": 0, "keep": 1, "variant": variant}) for variant in ("paper", "mergekit")),
    ("breadcrumbs_ties", {"drop_top": 0, "keep": 1}),
    ("magnitude_prune", {"density": 1}),
    ("graft", {"density": 1}),
    ("sce", {"compress": EXACT}),
]


@pytest.mark.parametrize(("method", "options"), IDENTITIES)
def test_one_input_with_nothing_taken_away_is_itself(
    method: str, options: dict[str, Any], merge: Merge, deltas: dict[str, Delta]
) -> None:
    assert_same(merge(method, "a", **options).delta, matrices(deltas["a"]))


@pytest.mark.parametrize(
    ("method", "options"), [one for one in IDENTITIES if "scale" not in one[0] and one[0] != "interpolate"]
)
def test_equal_inputs_have_themselves_as_mean(
    method: str, options: dict[str, Any], merge: Merge, deltas: dict[str, Delta]
) -> None:
    """A sum doubles, whatever divides by what agrees does not. (Interpolation takes one input.)"""
    deltas["b"] = deltas["a"]
    sums = {"linear", "task_arithmetic", "dare_linear", "dare_ties", "della_linear", "magnitude_prune", "graft"}
    doubled = method in sums or method.startswith("breadcrumbs")
    if (method, options.get("variant")) in {("dare_ties", "paper"), ("dare_ties", "peft")}:
        options = options | {"normalize": True}
        doubled = False
    result = merge(method, "ab", **options).delta
    assert_same(result, {module: one * (2 if doubled else 1) for module, one in matrices(deltas["a"]).items()})


def test_weighted_sums_are_the_sum_of_the_matrices(merge: Merge, deltas: dict[str, Delta]) -> None:
    a, b, c = (matrices(deltas[name], torch.float64) for name in "abc")
    for method, options, weights in (
        ("linear", {}, (0.7, -0.3, 0.2)),
        ("linear", {"normalize": True}, (0.7 / 0.6, -0.3 / 0.6, 0.2 / 0.6)),
        ("task_arithmetic", {"scale": 0.4}, (0.28, -0.12, 0.08)),
        ("soup", {}, (0.7 / 3, -0.1, 0.2 / 3)),
    ):
        result = merge(method, "abc", [0.7, -0.3, 0.2], **options).delta
        expected = {m: weights[0] * a[m] + weights[1] * b[m] + weights[2] * c[m] for m in SHAPES}
        for module, matrix in matrices(result, torch.float64).items():
            torch.testing.assert_close(matrix, expected[module], rtol=1e-5, atol=1e-5)


def test_a_mean_of_checkpoints_is_no_mean_of_factors(merge: Merge, deltas: dict[str, Delta]) -> None:
    deltas["b"] = low_rank_delta(2, 3)
    result = matrices(merge("checkpoint_average", "ab").delta)
    for module in SHAPES:
        one, other = deltas["a"].modules[module].low_rank, deltas["b"].modules[module].low_rank
        assert one is not None and other is not None
        of_factors = (one.b + other.b) / 2 @ ((one.a + other.a) / 2) * 0.5
        assert float((result[module] - of_factors).norm() / result[module].norm()) > 0.1


@pytest.mark.parametrize(("t", "name"), [(0, "a"), (1, "b")])
def test_slerp_ends_at_its_inputs(t: float, name: str, merge: Merge, deltas: dict[str, Delta]) -> None:
    assert_same(merge("slerp", "ab", t=t).delta, matrices(deltas[name]))


def test_slerp_keeps_the_norm_of_equally_long_inputs(merge: Merge, deltas: dict[str, Delta]) -> None:
    for module, matrix in matrices(deltas["b"]).items():
        ratio = float(matrices(deltas["a"])[module].norm() / matrix.norm())
        change = deltas["b"].modules[module]
        deltas["b"].modules[module] = weighted_sum([Delta({module: change})], [ratio]).modules[module]  # type: ignore[index]
    for t in (0.25, 0.5):
        for module, matrix in matrices(merge("slerp", "ab", t=t).delta).items():
            assert float(matrix.norm()) == pytest.approx(float(matrices(deltas["a"])[module].norm()), rel=1e-5)


def test_nuslerp_takes_t_from_the_weights(merge: Merge) -> None:
    assert_same(merge("nuslerp", "ab", [3, 1]).delta, matrices(merge("slerp", "ab", t=0.25).delta), 1e-6)


def test_model_stock_is_that_of_dense_weights(merge: Merge, deltas: dict[str, Delta]) -> None:
    result = matrices(merge("model_stock", "abc", variant="mergekit").delta, torch.float64)
    dense = [matrices(deltas[name], torch.float64) for name in "abc"]
    for module in SHAPES:
        flat = [one[module].flatten() for one in dense]
        norms = [float(one.norm()) for one in flat]
        cosines = [float(flat[a] @ flat[b]) / max(norms[a] * norms[b], 1e-6) for a, b in ((0, 1), (0, 2), (1, 2))]
        cosine = sum(cosines) / 3
        expected = (flat[0] + flat[1] + flat[2]) * cosine / (1 + 2 * cosine)
        torch.testing.assert_close(result[module].flatten(), expected, rtol=1e-5, atol=1e-5)


def test_model_stock_of_the_paper_never_turns_round(merge: Merge, deltas: dict[str, Delta]) -> None:
    deltas["b"] = weighted_sum([deltas["a"]], [-0.5])
    with pytest.raises(InvalidInput, match="all zero"):
        merge("model_stock", "ab", variant="paper")


def test_ties_variants_differ_as_documented(merge: Merge, deltas: dict[str, Delta]) -> None:
    """Where two agree at weights of a half, PEFT's count makes half of what mergekit's sum of weights makes."""
    deltas["b"] = deltas["a"]
    by_weights = matrices(merge("ties", "ab", [0.5, 0.5], variant="mergekit", density=1).delta)
    by_count = matrices(merge("ties", "ab", [0.5, 0.5], variant="peft", density=1).delta)
    assert_same(deltas["a"], by_weights)
    for module in SHAPES:
        torch.testing.assert_close(by_count[module], by_weights[module] / 2)


def test_ties_of_the_paper_trims_over_the_whole_model(merge: Merge, deltas: dict[str, Delta]) -> None:
    """A matrix a hundred times larger than the others takes all there is to keep."""
    loud = "layers.0.q"
    change = deltas["a"].modules[loud]
    deltas["a"].modules[loud] = weighted_sum([Delta({loud: change})], [1000.0]).modules[loud]  # type: ignore[index]
    kept = {
        module: int((one != 0).sum()) for module, one in matrices(merge("ties", "a", variant="paper").delta).items()
    }
    n = sum(rows * columns for rows, columns in SHAPES.values())
    assert sum(kept.values()) == int(0.2 * n)
    assert kept[loud] >= 0.9 * 12 * 8
    each = {m: int((one != 0).sum()) for m, one in matrices(merge("ties", "a", variant="mergekit").delta).items()}
    assert each == {module: int(0.2 * rows * columns) for module, (rows, columns) in SHAPES.items()}


def test_ties_does_not_depend_on_the_order_of_its_inputs(merge: Merge) -> None:
    one, other = merge("ties", "abc", [1, 0.5, 0.25]).delta, merge("ties", "cab", [0.25, 1, 0.5]).delta
    assert_same(one, matrices(other))


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_dropped_elements_leave_the_expectation(method: str, merge: Merge, deltas: dict[str, Delta]) -> None:
    """Over many seeds the mean is the task vector, within what the central limit theorem allows."""
    options = {"density": 0.4} | ({"epsilon": 0.1} if method == "della_linear" else {})
    seeds, module = 300, "layers.0.up"
    drawn = torch.stack(
        [matrices(merge(method, "a", variant="paper", seed=seed, **options).delta)[module] for seed in range(seeds)]
    )
    wanted = matrices(deltas["a"])[module]
    error = (drawn.mean(0) - wanted) / (drawn.std(0) / seeds**0.5 + 1e-12)
    assert float(error.abs().max()) < 5
    assert float(error.square().mean()) == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("columns", range(8, 64))
@pytest.mark.parametrize("variant", ["paper", "mergekit"])
def test_breadcrumbs_never_drop_a_whole_tensor(
    columns: int, variant: str, merge: Merge, deltas: dict[str, Delta]
) -> None:
    generator = torch.Generator().manual_seed(columns)
    from polyad.adapters_store.delta import LowRank, ModuleDelta

    row = ModuleDelta(low_rank=LowRank(torch.randn(1, columns, generator=generator), torch.ones(1, 1), 1.0))
    deltas["a"] = Delta({"layers.0.q": row})
    result = merge("breadcrumbs", "a", variant=variant, drop_top=0.01, keep=0.01).delta
    sparse = result.modules["layers.0.q"].sparse
    assert sparse is not None and sparse.count == 1


def test_breadcrumbs_keep_the_middle(merge: Merge, deltas: dict[str, Delta]) -> None:
    whole = matrices(deltas["a"])
    for module, kept in matrices(merge("breadcrumbs", "a", drop_top=0.25, keep=0.5).delta).items():
        for row, result in zip(whole[module], kept, strict=True):
            order = row.abs().sort(descending=True).indices
            first, last = int(0.25 * len(row)), int(0.25 * len(row)) + int(0.5 * len(row))
            expected = torch.zeros_like(row)
            expected[order[first:last]] = row[order[first:last]]
            torch.testing.assert_close(result, expected)


def test_fisher_with_equal_information_is_the_mean(merge: Merge, deltas: dict[str, Delta]) -> None:
    equal = {module: torch.full(shape, 0.5) for module, shape in SHAPES.items()}
    result = merge("fisher", "ab", compress=EXACT, statistics=[equal, equal]).delta
    a, b = matrices(deltas["a"]), matrices(deltas["b"])
    assert_same(result, {module: (a[module] + b[module]) / 2 for module in SHAPES})


def test_fisher_is_that_of_full_weights(merge: Merge, deltas: dict[str, Delta]) -> None:
    """The base cancels out: averaging W + D_i by F_i moves W by what the delta form says."""
    generator = torch.Generator().manual_seed(0)
    information = [{m: torch.rand(s, generator=generator) for m, s in SHAPES.items()} for _ in range(3)]
    result = matrices(merge("fisher", "abc", [1, 2, 0.5], compress=EXACT, statistics=information).delta)
    for module, shape in SHAPES.items():
        base = torch.randn(shape, generator=generator, dtype=torch.float64)
        weights = [w * one[module].double() for w, one in zip((1, 2, 0.5), information, strict=True)]
        models = [base + matrices(deltas[name], torch.float64)[module] for name in "abc"]
        merged = sum(w * model for w, model in zip(weights, models, strict=True)) / sum(weights)
        torch.testing.assert_close(result[module], (merged - base).float(), rtol=1e-4, atol=1e-5)


def test_fisher_favours_the_first_where_nobody_cares(merge: Merge, deltas: dict[str, Delta]) -> None:
    nothing = {module: torch.zeros(shape) for module, shape in SHAPES.items()}
    result = merge("fisher", "ab", compress=EXACT, statistics=[nothing, nothing], favor_first=True).delta
    assert_same(result, matrices(deltas["a"]))


def test_a_learned_graft_is_what_its_masks_keep(merge: Merge, deltas: dict[str, Delta]) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = [{m: torch.rand(s, generator=generator) < 0.3 for m, s in SHAPES.items()} for _ in range(2)]
    result = merge("graft", "ab", [1, 0.5], variant="learned", scale=2, statistics=masks).delta
    a, b = matrices(deltas["a"]), matrices(deltas["b"])
    assert_same(result, {m: 2 * (a[m] * masks[0][m] + 0.5 * b[m] * masks[1][m]) for m in SHAPES})
    assert all(change.sparse is not None for change in result.modules.values())


def test_regmean_minimises_the_distance_of_outputs(merge: Merge, deltas: dict[str, Delta]) -> None:
    """With whole Gram matrices its result is the least-squares solution over all inputs' activations."""
    generator = torch.Generator().manual_seed(0)
    module = "layers.0.q"
    inputs = [torch.randn(40, 8, generator=generator) for _ in range(2)]
    grams = [
        {name: x.t() @ x if columns == 8 else torch.eye(columns) for name, (_, columns) in SHAPES.items()}
        for x in inputs
    ]
    result = matrices(merge("regmean", "ab", compress=EXACT, statistics=grams, off_diagonal=1).delta)[module]
    targets = torch.cat([x @ matrices(deltas[name])[module].t() for x, name in zip(inputs, "ab", strict=True)])
    expected = torch.linalg.lstsq(torch.cat(inputs).double(), targets.double()).solution.t().float()
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", [one.name for one in methods()])
def test_the_same_recipe_gives_the_same_bytes_on_any_number_of_threads(method: str, merge: Merge) -> None:
    names = {"slerp": "ab", "nuslerp": "ab", "interpolate": "a"}.get(method, "abc")
    ones = {module: torch.eye(max(shape))[: shape[0], : shape[1]] + 1 for module, shape in SHAPES.items()}
    gram = {module: torch.eye(columns) for module, (_, columns) in SHAPES.items()}
    given: dict[str, Any] = {"fisher": [ones] * 3, "regmean": [gram] * 3}
    options = {"statistics": given.get(method), "compress": Compress(rank=2)}
    one, other = (merge(method, names, threads=threads, **options) for threads in (1, 3))
    assert one.report == other.report
    for module, change in one.delta.modules.items():
        for name, tensor in change.tensors.items():
            assert torch.equal(tensor, other.delta.modules[module].tensors[name])


def test_another_seed_drops_others(merge: Merge) -> None:
    one, other = (matrices(merge("dare_linear", "a", seed=seed).delta) for seed in (0, 1))
    assert not torch.equal(one["layers.0.q"], other["layers.0.q"])


@pytest.mark.parametrize(
    ("method", "names", "options", "message"),
    [
        ("ties", "ab", {"weights": [1, -1]}, "weights of 0 or more"),
        ("ties", "ab", {"density": 0}, "density: got 0, allowed: a finite number above 0 to 1"),
        ("ties", "ab", {"densty": 0.1}, "parameters of ties: density, scale, sign, normalize"),
        ("ties", "ab", {"variant": "theirs"}, "variants of ties: mergekit, peft, paper"),
        ("ties", "ab", {"variant": "paper", "weights": [1, 0.5]}, "knows none"),
        ("slerp", "abc", {}, "allowed: 2 for slerp"),
        ("slerp", "ab", {"t": 1.5}, "t: got 1.5"),
        ("interpolate", "ab", {}, "2 inputs"),
        ("model_stock", "a", {}, "at least 2"),
        ("sce", "ab", {}, "compress with a rank, an energy or a density"),
        ("breadcrumbs", "a", {"drop_top": 0.5, "keep": 0.6}, "shares of one whole"),
        ("della", "a", {"density": 0.1, "epsilon": 0.2}, "epsilon"),
        ("linear", "ab", {"weights": [1, -1], "normalize": True}, "sum to 0"),
        ("fisher", "ab", {"compress": EXACT}, "statistics"),
        ("graft", "ab", {"variant": "learned"}, "graft statistics of every input"),
    ],
)
def test_what_a_method_cannot_mean_is_refused(
    method: str, names: str, options: dict[str, Any], message: str, merge: Merge
) -> None:
    with pytest.raises(InvalidInput, match=message):
        merge(method, names, **options)


def test_an_unknown_method_names_the_known_ones(merge: Merge) -> None:
    with pytest.raises(Unsupported, match="ties, dare_linear"):
        merge("tise", "ab")
