"""The contract tests, for files of one's own: `rlc check my_file.py`, or these functions in a test suite.

Each check plays, saves and compares, and raises RlcError with one sentence at the first rule that is broken: what the
rule is, what was found, and where. What they return names the rules that were kept.

    from rl_contrastive import make_env
    from rl_contrastive.testing import check_env

    check_env(lambda rows: make_env("my-env", rows))
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import require_recovers
from rl_contrastive.runs.evaluate import checked_policy
from rl_contrastive.runs.loop import train
from rl_contrastive.runs.rollout import autoreset_mode, play, step_limit
from rl_contrastive.spec import Agent, Array, Env, EnvSpec, ExactModel, OwnLoop, State, Transition, optimal_values

ROWS = 4
TOLERANCE = 1e-9


def check_env(make: Callable[[int], Env], *, seconds: float | None = None, episodes: int = 3) -> list[str]:
    """Check an environment. make(rows) -> Env; seconds: the longest that a step may take; episodes: how many to play.

    Rules: it declares an `env_spec`; what it gives has the declared shapes, types and ranges; episodes end by the
    horizon; equal seeds give equal episodes; a row does not depend on its neighbours; what a caller overwrites changes
    nothing; its exact model, where it has one, holds probabilities and the optimal values that belong to them.
    """
    env = make(ROWS)
    spec = getattr(env, "env_spec", None)
    if not isinstance(spec, EnvSpec):
        raise RlcError(f"check_env: {type(env).__name__} has no env_spec of type EnvSpec.")
    others = [make(ROWS), make(1)]
    actions = np.random.default_rng(0).integers(spec.num_actions, size=(episodes * (spec.horizon + 1), ROWS))
    with step_limit((env, *others), seconds):
        first = _episodes(env, actions, overwrite=False)
        require(
            _same(first, _episodes(env, actions, overwrite=False)), f"{spec.name}: equal seeds gave other episodes."
        )
        kept = "check_env: overwriting what step() returned changed later episodes; return copies"
        require(_same(first, _episodes(others[0], actions, overwrite=True)), f"{spec.name}: {kept}.")
        alone = _episodes(others[1], actions[:, :1], overwrite=False)
        row = [[None if x is None else x[:1] for x in step] for step in first]
        require(_same(row, alone), f"{spec.name}: row 0 depends on its neighbours or on how many there are.")
    rules = ["env_spec", "shapes, types, ranges", "horizon", "seeds", "rows apart", "copies"]
    model = env.exact()
    if model is not None:
        _check_model(spec, model)
        rules.append("exact model")
    return rules


def _episodes(env: Env, actions: Array, *, overwrite: bool) -> list[list[Any]]:
    """What reset and every step gave, copied; each checked against the spec."""
    spec, mode = env.env_spec, autoreset_mode(env)
    obs, _ = env.reset(seed=list(range(5, 5 + env.num_envs)))
    out: list[list[Any]] = [[np.array(obs), None, None, None]]
    over, length = np.zeros(env.num_envs, dtype=bool), np.zeros(env.num_envs, dtype=int)
    for step, action in enumerate(actions):
        found = env.step(action.copy())
        obs, reward, terminated, truncated = (np.asarray(x) for x in found[:4])
        _check_step(spec, env.num_envs, step, obs, reward, terminated, truncated, over)
        out.append([obs.copy(), reward.copy(), terminated.copy(), truncated.copy()])
        starts = over if mode == AutoresetMode.NEXT_STEP else np.zeros_like(over)
        length = np.where(starts, 0, length + 1)
        over = terminated | truncated
        late = np.flatnonzero(length > spec.horizon)
        where = f"{spec.name}: an episode of row {late[:1]}"
        require(not len(late), f"{where} is longer than the horizon of {spec.horizon} steps.")
        length = np.where(over & (mode == AutoresetMode.SAME_STEP), 0, length)
        if mode == AutoresetMode.DISABLED and over.any():
            env.reset(options={"reset_mask": over})
            length[over] = 0
        if overwrite:
            for x in found[:4]:
                np.asarray(x)[...] = 0
    return out


def _check_step(
    spec: EnvSpec, rows: int, step: int, obs: Array, reward: Array, terminated: Array, truncated: Array, over: Array
) -> None:
    where = f"{spec.name}, step {step}"
    want = (rows, *spec.obs_shape)
    got = f"got {obs.dtype} {obs.shape}"
    require(obs.shape == want and obs.dtype == np.dtype(spec.obs_dtype), f"{where}: observations are {want}, {got}.")
    if obs.dtype.kind == "f":
        require(bool(np.isfinite(obs).all()), f"{where}: an observation holds NaN or infinite values.")
    if spec.num_states is not None:
        inside = bool(np.all((obs >= 0) & (obs < spec.num_states)))
        require(inside, f"{where}: states lie in 0..{spec.num_states - 1}, got {obs.tolist()}.")
    require(reward.shape == (rows,), f"{where}: rewards have shape ({rows},), got {reward.shape}.")
    low, high = spec.reward_range
    inside = bool(np.all(over | ((reward >= low - TOLERANCE) & (reward <= high + TOLERANCE))))
    require(inside, f"{where}: rewards lie in [{low:g}, {high:g}] by the spec, got {reward.tolist()}.")
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        good = flag.shape == (rows,) and flag.dtype == np.bool_
        require(good, f"{where}: {name} is ({rows},) of bool, got {flag.dtype} {flag.shape}.")


def _check_model(spec: EnvSpec, model: ExactModel) -> None:
    """Probabilities, and for one agent the optimal values by backward induction."""
    sums = model.P.sum(axis=-1)
    good = bool(np.all(model.P >= 0) and np.allclose(sums, 1.0, atol=1e-9))
    require(good, f"{spec.name}: P(s'|s,a) of its exact model is no probability for every (h, s, a).")
    total = float(model.rho.sum())
    require(abs(total - 1.0) < 1e-9, f"{spec.name}: the start law rho of its exact model sums to {total:g}.")
    if model.players is None:
        V, _ = optimal_values(model.P, model.r)
        worst = float(np.abs(model.V - V).max())
        require(worst < 1e-8, f"{spec.name}: V of its exact model differs by {worst:g} from backward induction.")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")
    return bool(a == b) or (a != a and b != b)


def check_agent(make: Callable[[int], tuple[Agent, Env]], *, seconds: float | None = None) -> list[str]:
    """Check an agent. make(seed) -> (agent, its environment), new ones at each call.

    Rules: it acts with whole numbers in range; its policies are probabilities; equal seeds give equal training; no
    global random generator is touched; a state that was saved and loaded goes on to the same bytes; a state that lacks
    a key is refused.
    """
    agent, env = make(1)
    name, B = type(agent).__name__, agent.batch
    with step_limit((env,), seconds), _no_global_draws(name):
        if isinstance(agent, OwnLoop):
            train(agent, env, episodes=2 * B, eval_every=2 * B, eval_episodes=4)
            return ["trains in its own loop", "no global generator"]
        _check_acts(agent, env)
        whole, whole_env = make(1)
        train(whole, whole_env, episodes=4 * B, eval_every=2 * B, eval_episodes=4, seed=3)
        again, again_env = make(1)
        train(again, again_env, episodes=4 * B, eval_every=2 * B, eval_episodes=4, seed=3)
        require(_same(whole.state_dict(), again.state_dict()), f"{name}: equal seeds trained two different agents.")
    _check_policy(whole, whole_env)
    _check_state(whole, make(1)[0], make(1)[0])
    return ["actions", "policies", "seeds", "no global generator", "state"]


def _check_acts(agent: Agent, env: Env) -> None:
    spec, B = env.env_spec, agent.batch

    def act(obs: Array, h: int) -> Any:
        action = np.asarray(agent.act(obs, h))
        good = action.shape == (B,) and action.dtype.kind in "iu" and 0 <= action.min() <= action.max()
        good = good and bool(action.max() < spec.num_actions)
        require(
            good, f"{type(agent).__name__}: act gives ({B},) whole numbers in 0..{spec.num_actions - 1}, got {action}."
        )
        return action

    agent.begin(B)
    for transition in play(env, range(B), act):
        agent.observe(transition)
    scalars = agent.update()
    good = isinstance(scalars, dict) and all(np.isscalar(value) for value in scalars.values())
    require(good, f"{type(agent).__name__}: update returns a dict of numbers, got {scalars!r}.")


def _check_policy(agent: Agent, env: Env) -> None:
    obs, _ = env.reset(seed=0)
    for explore in (False, True):
        checked_policy(agent, np.asarray(obs), 0, env.env_spec.num_actions, explore=explore)


def _check_state(agent: Agent, other: Agent, empty: Agent) -> None:
    """A loaded copy has the same state, and both see the same episodes go on."""
    name, state = type(agent).__name__, agent.state_dict()
    other.load_state_dict(state)
    require(_same(state, other.state_dict()), f"{name}: load_state_dict(state_dict()) gave another state.")
    for key in state:
        lacking: State = {k: v for k, v in state.items() if k != key}
        try:
            empty.load_state_dict(lacking)
        except RlcError:
            continue
        except Exception as error:
            found = f"raised {type(error).__name__}"
            raise RlcError(f"{name}: a state without '{key}' must be refused by RlcError, it {found}.") from error
        raise RlcError(f"{name}: a state without '{key}' was loaded; load_state_dict must refuse it by RlcError.")


@contextmanager
def _no_global_draws(name: str) -> Iterator[None]:
    """RlcError where numpy's or Python's global generator moved."""
    before = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    yield
    after = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    hint = "draw from generators made of the seed handed in"
    require(_same(before, after), f"{name}: a global random generator was used; {hint}.")


def check_objective(objective: Any) -> list[str]:
    """Check a contrastive objective: (pos, neg, pos_weight, neg_weight) -> ObjectiveResult.

    Rules: `recovers` is one of its four values; loss and rows have the shapes of `objectives/base.py`; the loss is the
    sum of weighted rows; what has weight 0 changes nothing, and the law of the negatives does; leading axes are
    separate problems; the gradient is that of finite differences, and a descent raises what is frequent; extreme
    scores stay finite.
    """
    import torch

    # Descents call `loss`, without the checks of a call.
    loss = getattr(objective, "loss", objective)
    name = type(objective).__name__
    require_recovers(name, getattr(objective, "recovers", "nothing"))
    rng = torch.Generator().manual_seed(0)
    H, N, K, M = 2, 3, 2, 5
    shapes = ((H, N, K), (H, N, M))
    pos, neg = (torch.randn(shape, generator=rng, dtype=torch.float64).abs() + 0.1 for shape in shapes)
    w = torch.rand((H, N, K), generator=rng, dtype=torch.float64)
    v = torch.rand((H, N, M), generator=rng, dtype=torch.float64)
    w, v = w / w.sum((-2, -1), keepdim=True), v / v.sum(-1, keepdim=True)
    found = loss(pos, neg, w, v)
    good = found.loss.shape == (H,) and found.rows.shape == (H, N)
    require(
        good, f"{name}: loss is {(H,)} and rows {(H, N)}, got {tuple(found.loss.shape)}, {tuple(found.rows.shape)}."
    )
    total = (w.sum(-1) * found.rows).sum(-1)
    require(bool(torch.allclose(total, found.loss)), f"{name}: the loss must be the sum of its rows by their weights.")
    apart = torch.stack([loss(pos[h], neg[h], w[h], v[h]).loss for h in range(H)])
    require(bool(torch.allclose(apart, found.loss)), f"{name}: leading axes must be separate problems.")
    _check_weights(name, loss, (pos, neg, w, v))
    check = torch.autograd.gradcheck(
        lambda a, b: loss(a, b, w, v).loss.sum(),
        (pos.clone().requires_grad_(), neg.clone().requires_grad_()),
        raise_exception=False,
    )
    require(bool(check), f"{name}: its gradient is not that of finite differences.")
    extreme = loss(80.0 * pos.float(), -80.0 * neg.float(), w.float(), v.float()).loss
    require(bool(torch.isfinite(extreme).all()), f"{name}: scores of size 80 in float32 gave {extreme.tolist()}.")
    _check_large(name, loss, w.float(), v.float())
    _check_direction(name, objective, loss)
    return [
        "recovers",
        "shapes",
        "sum of rows",
        "separate problems",
        "padding",
        "law",
        "gradient",
        "finite",
        "direction",
    ]


def _check_weights(name: str, loss: Any, arrays: tuple[Any, ...]) -> None:
    """Rows and negatives of weight 0 change nothing; another law of the negatives does."""
    import torch

    pos, neg, w, v = arrays
    pad, M = torch.nn.functional.pad, neg.shape[-1]
    plain = loss(*arrays).loss
    longer = loss(pad(pos, (0, 0, 0, 1), value=9.0), pad(neg, (0, 0, 0, 1), value=9.0), pad(w, (0, 0, 0, 1)),
                  pad(v, (0, 0, 0, 1), value=1.0 / M)).loss  # fmt: skip
    require(bool(torch.allclose(longer, plain)), f"{name}: a row of weight 0 changed the loss.")
    lacking = torch.cat([v[..., 1:], torch.zeros_like(v[..., :1])], dim=-1)
    lacking = lacking / lacking.sum(-1, keepdim=True)
    low, high = (loss(pos, torch.cat([neg[..., :-1], neg[..., -1:] + x], -1), w, lacking).loss for x in (0.0, 9.0))
    require(bool(torch.allclose(low, high)), f"{name}: a negative of weight 0 changed the loss.")
    ignored = bool(torch.allclose(low, loss(pos, neg, w, v).loss))
    require(not ignored, f"{name}: other weights of the negatives, neg_weight, did not change the loss.")


def _check_large(name: str, loss: Any, w: Any, v: Any) -> None:
    """Loss and gradient at scores of +-100 in float32."""
    import torch

    for a, b in ((100.0, 100.0), (100.0, -100.0), (-100.0, 100.0), (-100.0, -100.0)):
        pos, neg = torch.full_like(w, a, requires_grad=True), torch.full_like(v, b, requires_grad=True)
        value = loss(pos, neg, w, v).loss
        slopes = torch.autograd.grad(value.sum(), (pos, neg), allow_unused=True)
        good = all(x is None or bool(torch.isfinite(x).all()) for x in (value, *slopes))
        require(good, f"{name}: positives of score {a:g} and negatives of {b:g} give no finite loss and gradient.")


def _check_direction(name: str, objective: Any, loss: Any) -> None:
    """On a table of 2 anchors and 2 successors a descent from f = 1 raises the frequent successor over the rare one."""
    import torch

    if getattr(objective, "recovers", "nothing") == "nothing":
        return
    P = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    s = torch.full((2, 2), 1.0 if getattr(objective, "space", "log") == "ratio" else 0.0, dtype=torch.float64)
    s.requires_grad_()
    (slope,) = torch.autograd.grad(loss(s, s, P / 2, torch.full_like(P, 0.5)).loss, s)
    good = bool((slope.diagonal() < slope.flip(-1).diagonal()).all())
    says = f"recovers = {objective.recovers!r}"
    require(good, f"{name}: {says}, but its descent raises the score of the rarer successor; check its sign.")


def check_opponent(make: Callable[[int], Any], spec: EnvSpec) -> list[str]:
    """Check an opponent. make(seed) -> opponent; spec: of the game it plays.

    Rules: it acts with the minimiser's whole numbers in range; equal seeds act equally; a loaded state goes on equally.
    """
    _, num_actions = spec.game
    rng = np.random.default_rng(0)
    N = 6
    draw = (
        (lambda: rng.integers(spec.num_states, size=N))
        if spec.num_states
        else (lambda: rng.normal(size=(N, *spec.obs_shape)))
    )
    steps = [(draw().astype(spec.obs_dtype), draw().astype(spec.obs_dtype), h % spec.horizon) for h in range(8)]

    def acts(opponent: Any, steps: list[Any]) -> list[Array]:
        out = []
        for obs, following, h in steps:
            action = np.asarray(opponent.act(obs, h))
            good = action.shape == (N,) and action.dtype.kind in "iu"
            good = good and bool(np.all((action >= 0) & (action < num_actions)))
            require(good, f"opponent: act gives ({N},) whole numbers in 0..{num_actions - 1}, got {action}.")
            flags = np.zeros(N, dtype=bool)
            joint = action.astype(np.int64)
            opponent.observe(Transition(h, obs, joint, np.ones(N), following, np.ones(N), flags, ~flags))
            out.append(action)
        return out

    one, two, fresh = make(1), make(1), make(2)
    require(_same(acts(one, steps[:4]), acts(two, steps[:4])), "opponent: equal seeds acted differently.")
    fresh.load_state_dict(one.state_dict())
    require(_same(acts(one, steps[4:]), acts(fresh, steps[4:])), "opponent: a loaded state went on differently.")
    return ["actions", "seeds", "state"]
