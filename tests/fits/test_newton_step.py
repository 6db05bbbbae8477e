"""The two ways to take a damped Newton step agree, for Hessians that are positive and that are not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fits import solve


@pytest.mark.parametrize("size", [1, 6])
def test_looped_and_unrolled_steps_agree(size):
    rng = np.random.Generator(np.random.Philox(key=size))
    root = rng.normal(size=(6, size, size))
    hessian = root @ root.transpose(0, 2, 1) + np.eye(size) * np.array([1.0, 1.0, 1.0, 0.0, -0.5, -5.0])[:, None, None]
    gradient, damping = rng.normal(size=(6, size)), np.array([0.0, 1e-3, 10.0, 1e-3, 1e-3, 1e-3])
    with jax.enable_x64(True):
        given = [jnp.asarray(each) for each in (gradient, hessian, damping)]
        unrolled, looped = (jax.jit(step)(*given) for step in (solve._unrolled_step, solve._looped_step))
        for one, other in zip(unrolled, looped, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    # Undamped and positive, it is Newton's own step.
    np.testing.assert_allclose(np.asarray(looped[0])[0], -np.linalg.solve(hessian[0], gradient[0]), rtol=1e-7)
