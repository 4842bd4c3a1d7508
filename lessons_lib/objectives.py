"""Test functions for the lessons on optimisation, each with what is known of it: domain, curvature, minima.

Ready-made: `square`, `x_cos_pi_x`, `x_cos_015_pi_x`, `cube`, `tanh`, `cosh`, `saddle` and `rosenbrock`, all in `NAMED`.
Made to order: `quadratic` and, on real images, `softmax_regression`. An argument of the wrong type raises a TypeError,
one of another shape or out of range a ValueError.

Sources: A. Zhang, Z. Lipton, M. Li and A. Smola, "Dive into Deep Learning", 2023, sections 12.1 and 12.3; and
H. Rosenbrock, "An Automatic Method for Finding the Greatest or Least Value of a Function", 1960.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from lessons_lib.checks import Array, as_int, as_number, as_point, as_tensor, as_tuple, check_function
from lessons_lib.data import fashion_mnist

Function = Callable[[Tensor], Tensor]
_images = cache(fashion_mnist)


@dataclass(frozen=True)
class Objective:
    """A function to minimise, called like one, and what is known of it.

    In d > 1 dimensions x has the shape (d, …), the coordinates first, and the value the shape (…): a grid of points. In
    one dimension x may have any shape, and the function works element by element.

    Args:
        name, f: the formula, as plain text and as a function of x that `torch.func` can differentiate.
        domain: (low, high) for each coordinate.
        curvature: (mu, L), the tightest bounds of all eigenvalues of the Hessian (in one dimension, of f'') all over
            the domain, unless the objective says otherwise.
        minima: the local minima inside the domain, the lowest first. At the border f may be lower still.

    >>> rosenbrock(torch.tensor([0.0, 1.0])), rosenbrock(torch.ones(2, 50, 40)).shape
    (tensor(101.), torch.Size([50, 40]))
    """

    name: str
    f: Function = field(repr=False)
    domain: tuple[tuple[float, float], ...]
    curvature: tuple[float, float]
    minima: tuple[tuple[float, ...], ...] = ()

    @property
    def dim(self) -> int:
        return len(self.domain)

    def __call__(self, x: Array) -> Tensor:
        x = as_tensor("x", x)
        if self.dim > 1 and (x.dim() == 0 or len(x) != self.dim):
            raise ValueError(f"x: expected shape ({self.dim}, …), got {tuple(x.shape)}")
        return self.f(x)


def curvature(f: Function, x: Array) -> tuple[float, float]:
    """The smallest and the largest eigenvalue of the Hessian of f at the point x (in one dimension, twice f''(x)).

    f returns a scalar tensor, and `torch.func` can differentiate it twice. x is a number, or a point of shape (d,),
    where the second derivative of f is finite; if x requires a gradient, pass x.detach().

    >>> curvature(lambda x: x**3, torch.tensor(0.5))
    (3.0, 3.0)
    """
    x = as_point(x)
    if x.dim() > 1 or x.numel() == 0:
        raise ValueError(f"x: expected shape () or (d,), got {tuple(x.shape)}")
    H = hessian_at(f, x)
    if not H.isfinite().all():
        raise ValueError(f"x: expected a point where f has a finite second derivative, got {x.tolist()}")
    lam = torch.linalg.eigvalsh(H.double())  # LAPACK knows no half precision
    return lam[0].item(), lam[-1].item()


def hessian_at(f: Function, x: Tensor) -> Tensor:
    """∇²f(x) at a point of shape () or (d,): a matrix of shape (d, d) without a graph; of a number, (1, 1)."""
    # Backward twice. torch.func.hessian goes forward too, and loading that warns in PyTorch 2.13;
    # torch.autograd.functional's is turned into zeros by torch.compile.
    H = torch.func.jacrev(torch.func.jacrev(partial(value_at, f, shape=())))(x.detach())
    return H.detach().reshape(x.numel(), x.numel())


def value_at(f: Function, x: Tensor, name: str = "f", shape: tuple[int, ...] | None = None) -> Tensor:
    """f(x), which must be a tensor of real numbers, of this shape if one is given."""
    check_function(name, f)
    value = f(x)
    if not isinstance(value, Tensor) or value.is_complex():
        raise TypeError(f"{name}: expected a function that returns a real tensor, got {value!r}")
    if shape is not None and value.shape != shape:
        wanted = f"a tensor of shape {tuple(shape)}" if shape else "a scalar tensor"
        raise ValueError(f"{name}: expected a function that returns {wanted}, got shape {tuple(value.shape)}")
    return value


# The formulas: lambdas could not be pickled.
def _x_cos(c: float, x: Tensor) -> Tensor:
    return x * torch.cos(c * x)


def _saddle(x: Tensor) -> Tensor:
    return x[0] ** 2 - x[1] ** 2


def _rosenbrock(x: Tensor) -> Tensor:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def _half_xAx(A: Tensor, x: Tensor) -> Tensor:
    return (x * torch.tensordot(A.to(x), x, dims=1)).sum(0) / 2


def _cross_entropy(X: Tensor, y: Tensor, weight_decay: float, x: Tensor) -> Tensor:
    scores = torch.tensordot(X.to(x), x.reshape(X.shape[1], 10, *x.shape[1:]), dims=1)
    loss = (scores.logsumexp(1) - scores[range(len(y)), y]).mean(0)
    return loss + weight_decay / 2 * (x**2).sum(0)


square = Objective("x²", torch.square, ((-10.0, 10.0),), (2.0, 2.0), minima=((0.0,),))
x_cos_pi_x = Objective(
    "x cos πx",
    partial(_x_cos, math.pi),
    domain=((-1.0, 2.0),),
    curvature=(-2 * math.pi**2, 13.287689030580847),  # at 2, and where πx tan πx = 3
    minima=((1.0904082219467213,), (-0.2738526868008509,)),  # where πx tan πx = 1
)
x_cos_015_pi_x = Objective(
    "x cos 0.15πx",
    partial(_x_cos, 0.15 * math.pi),
    domain=((-10.0, 10.0),),
    curvature=(-1.993153354587127, 1.993153354587127),  # where 0.15πx tan 0.15πx = 3
    minima=((7.269388146311475,), (-1.8256845786723395,)),  # where 0.15πx tan 0.15πx = 1
)
cube = Objective("x³", partial(torch.pow, exponent=3), ((-2.0, 2.0),), (-12.0, 12.0))
_steepest = 4 / 27**0.5  # |tanh''| where tanh x = ±1/√3
tanh = Objective("tanh x", torch.tanh, ((-4.0, 4.0),), (-_steepest, _steepest))
cosh = Objective("cosh x", torch.cosh, ((-4.0, 4.0),), (1.0, math.cosh(4)), minima=((0.0,),))
saddle = Objective("x₁² − x₂²", _saddle, ((-1.0, 1.0),) * 2, (-2.0, 2.0))
rosenbrock = Objective(
    "(1 − x₁)² + 100 (x₂ − x₁²)²",
    _rosenbrock,
    domain=((-2.0, 2.0), (-1.0, 3.0)),
    curvature=(-1198.0, 2701 + 6895001**0.5),  # at (0, 3), and at (±2, −1)
    minima=((1.0, 1.0),),
)

NAMED = (square, x_cos_pi_x, x_cos_015_pi_x, cube, tanh, cosh, saddle, rosenbrock)


def quadratic(eigenvalues: Sequence[float], angle: float = 0.0) -> Objective:
    """½ xᵀ A x on [-10, 10]^d, where A = Q diag(eigenvalues) Qᵀ and Q turns the first two axes by `angle`.

    There are d ≥ 2 eigenvalues, finite and of any sign; if all are above 0, the origin is the minimum. The angle is in
    radians, from the first axis towards the second.

    >>> f = quadratic((2, 4))
    >>> f(torch.tensor([3.0, 1.0]))  # x₁² + 2x₂²
    tensor(11.)
    >>> f.curvature, f.minima
    ((2, 4), ((0.0, 0.0),))
    """
    eigenvalues = tuple(as_number("eigenvalues", lam) for lam in as_tuple("eigenvalues", eigenvalues))
    d, angle = len(eigenvalues), as_number("angle", angle)
    if d < 2:
        raise ValueError(f"eigenvalues: expected at least two, got {eigenvalues}")
    Q, c, s = torch.eye(d, dtype=torch.float64), math.cos(angle), math.sin(angle)
    Q[:2, :2] = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    A = Q @ torch.tensor(eigenvalues, dtype=torch.float64).diag() @ Q.T
    return Objective(
        f"½ xᵀ Q diag({', '.join(f'{lam:g}' for lam in eigenvalues)}) Qᵀ x",
        partial(_half_xAx, A),
        domain=((-10.0, 10.0),) * d,
        curvature=(min(eigenvalues), max(eigenvalues)),
        minima=((0.0,) * d,) if min(eigenvalues) > 0 else (),
    )


def softmax_regression(num_images: int = 1000, size: int = 7, weight_decay: float = 0.01) -> Objective:
    """Mean cross-entropy of softmax regression on images of Fashion-MNIST, plus ½ · weight_decay · |x|²: convex.

    The inputs are the first n = num_images of the 10,000 bundled training images, averaged to size × size pixels, where
    size divides 28, and a 1 for the bias. x holds the weights, a matrix of shape (size² + 1, 10), row after row:
    d = (size² + 1) · 10. The weight decay is not negative; above 0, f is strongly convex and has one minimum.

    The curvature (mu, L) holds in all of ℝᵈ. mu = weight_decay is attained everywhere: equal changes of all scores
    change no probability. L = ½ λ_max(XᵀX/n) + weight_decay, where X holds the n inputs, is approached only far out,
    where all images are undecided between two classes; at x = 0 the ½ is a tenth. The minimum x* has no formula, but
    f(x) − f(x*) ≤ |∇f(x)|² / (2 mu) tells how near it is.

    Sources: D. Böhning, "Multinomial Logistic Regression Algorithm", 1992 (L); S. Boyd and L. Vandenberghe, "Convex
    Optimization", 2004, section 9.1.2 (how near the minimum is).

    >>> f = softmax_regression(num_images=100)
    >>> f.dim, f(torch.zeros(f.dim))  # ten classes, all alike: log 10
    (500, tensor(2.3026))
    """
    size, weight_decay = as_int("size", size), as_number("weight_decay", weight_decay, "[0, inf)")
    if size < 1 or 28 % size:
        raise ValueError(f"size: expected a divisor of 28, got {size}")
    images, labels = _images("train").tensors
    num_images = as_int("num_images", num_images, 1, len(images))
    X = avg_pool2d(images[:num_images].double(), 28 // size).flatten(1)
    X = torch.cat([X, X.new_ones(num_images, 1)], dim=1)
    return Objective(
        f"cross-entropy of softmax regression + ½ · {weight_decay:g} |x|²",
        partial(_cross_entropy, X, labels[:num_images], weight_decay),
        domain=((-math.inf, math.inf),) * (X.shape[1] * 10),
        curvature=(weight_decay, torch.linalg.eigvalsh(X.T @ X / num_images)[-1].item() / 2 + weight_decay),
    )
