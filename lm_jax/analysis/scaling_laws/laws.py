"""Laws of loss (nats/token) against parameters N, training tokens D and training compute C (FLOPs).

  chinchilla        L = E + A/N^alpha + B/D^beta (Hoffmann et al., arXiv:2203.15556, equation 10)
  power             L = E + A/x^alpha in one variable x: N, D or C
  kaplan            L = [(Nc/N)^(alpha_N/alpha_D) + Dc/D]^alpha_D (Kaplan et al., arXiv:2001.08361, eq. 1.5)
  bnsl              L = a + b x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i): smoothly broken power law with
                    breaks at d_i of sharpness 1/f_i (Caballero et al., arXiv:2210.14891, equation 1)
  data_constrained  L = E + A/N'^alpha + B/D'^beta with what repetition leaves of N and D
                    (Muennighoff et al., arXiv:2305.16264, equations 5 and 6), for U unique tokens:
                    D' = U + U R_D (1 - exp(-(D/U - 1)/R_D)) where D > U, else D;
                    N' the same of U_N = min(N, N optimal for U tokens) and R_N.

A law is fitted in coordinates theta without bounds: logs of what is positive. Variables come as logs less
their mean, which takes most of the correlation between a coefficient and its exponent out of the problem;
`natural` gives the parameters of the formula for the variables as they are.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
from scipy import optimize

from lm_jax.strict import choose, require

EXPONENTS = np.linspace(0.05, 1.5, 30)  # the grid of starts
_VARIABLE_NAMES = {"N": "n_params", "D": "n_tokens", "C": "flops"}
_COMPLEX_STEP = 1e-30
NAMES = ("chinchilla", "kaplan", "power", "bnsl", "data_constrained")


@dataclasses.dataclass(frozen=True)
class Law:
  """A law with its coordinates theta [..., K].

  Attributes:
    parameters: names in the formula, in the order of theta.
    variables: fields of LossPoints it needs, in the order of log_x_VP.
    log_loss: (theta_RK, log_x_VP) -> log loss [R, P], in operations that also take complex numbers.
    starts: (log_x_VP, log_loss_P) -> theta [S, K] to begin from.
    natural: (theta_RK, mean log of each variable V) -> parameters [R, K].
    formula: for a person.
    headline: the parameter that a study of what moves the fit follows; "a" is beta/(alpha + beta).
    is_sum_of_powers: E + sum_v A_v/x_v^alpha_v, whose derivatives are written out in `newton`.
  """

  name: str
  parameters: tuple[str, ...]
  variables: tuple[str, ...]
  log_loss: Callable[[np.ndarray, np.ndarray], np.ndarray]
  starts: Callable[[np.ndarray, np.ndarray], np.ndarray]
  natural: Callable[[np.ndarray, np.ndarray], np.ndarray]
  formula: str
  headline: str
  is_sum_of_powers: bool = False

  @property
  def n_parameters(self) -> int:
    return len(self.parameters)


def jacobian(law: Law, theta_RK: np.ndarray, log_x_VP: np.ndarray) -> np.ndarray:
  """Returns d log loss / d theta [R, P, K], exact to rounding by complex steps (Squire and Trapp 1998)."""
  columns = []
  for k in range(theta_RK.shape[1]):
    moved = theta_RK.astype(np.complex128)
    moved[:, k] += 1j * _COMPLEX_STEP
    columns.append(law.log_loss(moved, log_x_VP).imag / _COMPLEX_STEP)
  return np.stack(columns, axis=-1)


# --- sums of power laws ---------------------------------------------------------------------------
# theta: log coefficients of the V variables, log E, then the V exponents.


def _powers_log_loss(theta_RK: np.ndarray, log_x_VP: np.ndarray) -> np.ndarray:
  V = len(log_x_VP)
  total = np.exp(theta_RK[:, V : V + 1])
  for v in range(V):
    total = total + np.exp(theta_RK[:, v : v + 1] - theta_RK[:, V + 1 + v : V + 2 + v] * log_x_VP[v])
  return np.log(total)


def _powers_starts(log_x_VP: np.ndarray, log_loss_P: np.ndarray) -> np.ndarray:
  """Returns the best coefficients at every exponent of a grid: least squares of relative residuals."""
  V = len(log_x_VP)
  starts = []
  for exponents in itertools.product(EXPONENTS, repeat=V):
    columns = [np.exp(-e * x - log_loss_P) for e, x in zip(exponents, log_x_VP, strict=True)]
    design_PT = np.stack([*columns, np.exp(-log_loss_P)], axis=1)
    coefficients, _ = optimize.nnls(design_PT, np.ones(len(log_loss_P)))
    # A coefficient of 0 has no log: one that no point can notice stands for it.
    smallest = 1e-4 / design_PT.max(axis=0)
    starts.append([*np.log(np.maximum(coefficients, smallest)), *exponents])
  return np.array(starts)


def _powers_natural(theta_RK: np.ndarray, mean_V: np.ndarray) -> np.ndarray:
  V = len(mean_V)
  exponents = theta_RK[:, V + 1 :]
  with np.errstate(over="ignore"):  # of a refit that ran away, which is counted as such
    coefficients = np.exp(theta_RK[:, :V] + exponents * mean_V)
    return np.concatenate([coefficients, np.exp(theta_RK[:, V : V + 1]), exponents], axis=1)


CHINCHILLA = Law(
  "chinchilla", ("A", "B", "E", "alpha", "beta"), ("n_params", "n_tokens"), _powers_log_loss, _powers_starts,
  _powers_natural, "E + A/N^alpha + B/D^beta", "a", is_sum_of_powers=True,
)  # fmt: skip


def power(x: str = "N") -> Law:
  return Law("power", ("A", "E", "alpha"), (variable(x),), _powers_log_loss, _powers_starts, _powers_natural,
             f"E + A/{x}^alpha", "alpha", is_sum_of_powers=True)  # fmt: skip


def variable(x: str) -> str:
  """Returns the field of LossPoints that a variable's letter stands for."""
  return choose(_VARIABLE_NAMES, x, "x")


# --- Kaplan et al. --------------------------------------------------------------------------------
# theta: log Nc, log Dc, log alpha_N, log alpha_D.


def _kaplan_log_loss(theta_RK: np.ndarray, log_x_VP: np.ndarray) -> np.ndarray:
  log_n, log_d, log_alpha_n, log_alpha_d = (theta_RK[:, k : k + 1] for k in range(4))
  ratio = np.exp(log_alpha_n - log_alpha_d)
  inner = np.exp(ratio * (log_n - log_x_VP[0])) + np.exp(log_d - log_x_VP[1])
  return np.exp(log_alpha_d) * np.log(inner)


def _kaplan_starts(log_x_VP: np.ndarray, log_loss_P: np.ndarray) -> np.ndarray:
  starts = []
  for alpha_n, alpha_d in itertools.product((0.03, 0.08, 0.2, 0.5), repeat=2):
    # At the middle of the table, either term makes this share of the loss.
    for share in (0.1, 0.5, 0.9):
      middle = log_loss_P.mean() / alpha_d
      starts.append([(middle + np.log(share)) * alpha_d / alpha_n, middle + np.log(1 - share),
                     np.log(alpha_n), np.log(alpha_d)])  # fmt: skip
  return np.array(starts)


def _kaplan_natural(theta_RK: np.ndarray, mean_V: np.ndarray) -> np.ndarray:
  return np.exp(theta_RK + np.array([*mean_V, 0.0, 0.0]))


KAPLAN = Law(
  "kaplan", ("Nc", "Dc", "alpha_N", "alpha_D"), ("n_params", "n_tokens"), _kaplan_log_loss, _kaplan_starts,
  _kaplan_natural, "[(Nc/N)^(alpha_N/alpha_D) + Dc/D]^alpha_D", "alpha_N",
)  # fmt: skip

# --- broken neural scaling law --------------------------------------------------------------------
# theta: log a, log b, c0, then c_i, log d_i, log f_i of every break.


def _bnsl_log_loss(theta_RK: np.ndarray, log_x_VP: np.ndarray) -> np.ndarray:
  log_a, log_b, c0 = (theta_RK[:, k : k + 1] for k in range(3))
  log_x = log_x_VP[0]
  broken = log_b - c0 * log_x
  for k in range(3, theta_RK.shape[1], 3):
    c, log_d, log_f = (theta_RK[:, k + j : k + j + 1] for j in range(3))
    f = np.exp(log_f)
    broken = broken - c * f * _softplus((log_x - log_d) / f)
  return log_a + _softplus(broken - log_a)


def _softplus(z: np.ndarray) -> np.ndarray:
  """Returns log(1 + exp(z)) without overflow, of complex numbers too."""
  positive = z.real > 0
  return np.where(positive, z, 0) + np.log1p(np.exp(np.where(positive, -z, z)))


def _bnsl_starts(n_breaks: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  def starts(log_x_VP: np.ndarray, log_loss_P: np.ndarray) -> np.ndarray:
    log_x = log_x_VP[0]
    where = np.quantile(log_x, np.linspace(0.1, 0.9, 7))
    slope = max(-np.polyfit(log_x, log_loss_P, 1)[0], 0.01)
    lowest, rows = log_loss_P.min(), []
    for breaks in itertools.combinations(where, n_breaks):
      for share, f, factor in itertools.product((0.01, 0.5, 0.9), (0.1, 0.5), (-0.5, 0.5, 2.0)):
        others = [part for d in breaks for part in (factor * slope, d, np.log(f))]
        rows.append([lowest + np.log(share), log_loss_P.mean(), slope, *others])
    return np.array(rows)

  return starts


def _bnsl_natural(theta_RK: np.ndarray, mean_V: np.ndarray) -> np.ndarray:
  natural = theta_RK.copy()
  c0 = theta_RK[:, 2]
  natural[:, 0] = np.exp(theta_RK[:, 0])
  natural[:, 1] = np.exp(theta_RK[:, 1] + c0 * mean_V[0])
  natural[:, 4::3] = np.exp(theta_RK[:, 4::3] + mean_V[0])
  natural[:, 5::3] = np.exp(theta_RK[:, 5::3])
  return natural


def bnsl(x: str = "N", n_breaks: int = 1) -> Law:
  require(1 <= n_breaks <= 5, "breaks", n_breaks, "from 1 to 5")
  names = [f"{letter}{i}" for i in range(1, n_breaks + 1) for letter in ("c", "d", "f")]
  return Law("bnsl", ("a", "b", "c0", *names), (variable(x),), _bnsl_log_loss, _bnsl_starts(n_breaks),
             _bnsl_natural, f"a + b {x}^-c0 prod_i (1 + ({x}/d_i)^(1/f_i))^(-c_i f_i)", "c0")  # fmt: skip


# --- data-constrained -----------------------------------------------------------------------------
# theta: log A, log B, log E, alpha, beta, log R_N, log R_D. N, D and U share no unit: each has its mean.


def _data_constrained(mean_V: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  # Tokens and unique tokens are compared, so the difference of their means is put back.
  offset = mean_V[2] - mean_V[1]

  def log_loss(theta_RK: np.ndarray, log_x_VP: np.ndarray) -> np.ndarray:
    log_a, log_b, log_e, alpha, beta, log_rn, log_rd = (theta_RK[:, k : k + 1] for k in range(7))
    log_n, log_d, log_u = log_x_VP[0], log_x_VP[1], log_x_VP[2] + offset
    # Where A alpha/N^alpha = B beta/U^beta one more FLOP is worth the same in N and in D.
    optimal = (log_a - log_b + np.log(alpha / beta) + beta * log_u) / alpha
    log_un = np.where(optimal.real < log_n, optimal, log_n)
    effective_n = log_un + _repeated(log_n - log_un, log_rn)
    effective_d = np.minimum(log_d, log_u) + _repeated(np.maximum(log_d - log_u, 0), log_rd)
    return np.log(np.exp(log_e) + np.exp(log_a - alpha * effective_n) + np.exp(log_b - beta * effective_d))

  return log_loss


def _repeated(log_times: np.ndarray, log_r: np.ndarray) -> np.ndarray:
  """Returns log(1 + R (1 - exp(-(times - 1)/R))), the worth of seeing something so many times."""
  r = np.exp(log_r)
  return np.log1p(-r * np.expm1(-np.expm1(log_times) / r))


def _data_constrained_starts(log_x_VP: np.ndarray, log_loss_P: np.ndarray) -> np.ndarray:
  base = _powers_starts(log_x_VP[:2], log_loss_P)
  residual = np.abs(_powers_log_loss(base, log_x_VP[:2]) - log_loss_P).sum(1)
  rows = [[*start, np.log(rn), np.log(rd)] for start in base[np.argsort(residual)[:40:4]]
          for rn, rd in itertools.product((2.0, 8.0, 30.0), repeat=2)]  # fmt: skip
  return np.array(rows)


def _data_constrained_natural(theta_RK: np.ndarray, mean_V: np.ndarray) -> np.ndarray:
  return np.concatenate([_powers_natural(theta_RK[:, :5], mean_V[:2]), np.exp(theta_RK[:, 5:])], axis=1)


def data_constrained(mean_V: np.ndarray) -> Law:
  """Returns the law for variables whose logs have had these means taken off."""
  return Law("data_constrained", ("A", "B", "E", "alpha", "beta", "R_N", "R_D"),
             ("n_params", "n_tokens", "unique_tokens"), _data_constrained(mean_V), _data_constrained_starts,
             _data_constrained_natural, "E + A/N'^alpha + B/D'^beta", "R_D")  # fmt: skip


def make(name: str, mean_of: Callable[[str], float], x: str = "N", n_breaks: int = 1) -> Law:
  """Returns a law by its name.

  Args:
    mean_of: field of LossPoints -> the mean of its log.
    x: the variable of a law of one: N, D or C.
  """
  choose(dict.fromkeys(NAMES), name, "law")
  if name == "power":
    return power(x)
  if name == "bnsl":
    return bnsl(x, n_breaks)
  if name == "data_constrained":
    return data_constrained(np.array([mean_of(v) for v in ("n_params", "n_tokens", "unique_tokens")]))
  return {"chinchilla": CHINCHILLA, "kaplan": KAPLAN}[name]
