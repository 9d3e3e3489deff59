"""Least squares against NumPy, and with deficient rank."""

import numpy as np
import pytest

from experiments.training.readout import least_squares


def test_it_is_ordinary_least_squares_with_an_intercept():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 5)), rng.normal(size=(200, 2))
    fit = least_squares(x, y)
    design = np.column_stack([x, np.ones(200)])
    expected = np.linalg.solve(design.T @ design, design.T @ y)
    np.testing.assert_allclose(fit.weights, expected[:-1], rtol=1e-9)
    np.testing.assert_allclose(fit.intercept, expected[-1], rtol=1e-9)
    singular = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    assert fit.rank == 5
    np.testing.assert_allclose(fit.condition_number, singular[0] / singular[-1], rtol=1e-9)


def test_a_rank_deficient_problem_has_the_solution_of_least_norm():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))
    x = np.column_stack([x, x[:, 0]])
    y = x[:, [0]] * 2 + 1
    fit = least_squares(x, y)
    assert fit.rank == 3
    assert fit.condition_number > 1e12
    np.testing.assert_allclose(fit.weights[:, 0], [1, 0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(fit.intercept, 1, rtol=1e-9)


def test_impossible_problems_are_refused():
    with pytest.raises(ValueError, match="got 3 training examples for 5 features"):
        least_squares(np.zeros((3, 5)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="not finite"):
        least_squares(np.full((9, 2), np.nan), np.zeros((9, 1)))
