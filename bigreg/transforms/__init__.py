"""Maps of space and their algebra.

A *map* takes points of one frame to points of another, both in world micrometres, axis order (z, y, x). Two kinds are
stored: an affine (4 x 4, acts on column vectors) and a *displacement field* u, which stands for the map id + u, that is
x -> x + u(x). Fields are tensors (3, z, y, x): component i moves along axis i. Between samples a field is linear;
beyond its border it keeps the value at the border. `compose(a, b)` is "a after b": compose(a, b)(x) = a(b(x)).

Laws (tests/transforms checks each of them on random maps):

    affine     sqrt(A) sqrt(A) = A                           sqrt(A^-1) = sqrt(A)^-1
    velocity   evaluate(c) is linear in c                    <evaluate(c), g> = <c, adjoint(g)>
               a constant c gives that constant              |evaluate(c)| <= max |c|
    bound      max |c| < gamma(samples) cells                =>  evaluate(c) is a contraction
    exp        exp(v) exp(-v) = id (to sampling error)       exp(v) exp(v) = exp(2 v)
    compose    compose(a, compose(b, c)) = compose(compose(a, b), c)
               (a b)^-1 = b^-1 a^-1                          compose(a, id) = compose(id, a) = a
    invert     compose(a, invert(a)) = id                    invert(invert(a)) = a
    warp       warp(image, compose(a, b)) = warp(warp(image, a), b)
"""

from typing import Any

_WHERE = {
    **dict.fromkeys(("apply_affine", "principal_sqrt", "signed_permutation"), "affine"),
    **dict.fromkeys(("adjoint", "contraction_bound", "evaluate", "soft_bound", "squarings"), "bspline"),
    **dict.fromkeys(
        ("compose", "exponential", "identity", "invert", "min_determinant", "sample", "sample_field"), "field"
    ),
}
__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    """Import on first use: what needs affines alone should not wait for torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'bigreg.transforms' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
