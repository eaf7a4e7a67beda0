"""Claim (cMIM, Livne 2025): a contrastive term without a second view, whose number of negatives does not matter.

An autoencoder of handwritten digits has a code of 16 coordinates. Its term pushes codes of other images away; the mean
over M of them in place of InfoNCE's sum is to make M unimportant. One labelled image in four (300) reads the code: the
nearest neighbour by cosine, and a linear probe, also of the decoder's hidden layer. Beside it: MIM (no such term),
InfoNCE of the codes without augmentation (the positive is the code itself) and without a decoder, MIM with InfoNCE of
augmented images.

That cMIM reads better than MIM is the paper's claim. In this set-up the term is small beside the reconstruction, which
is summed over pixels; so it is tried in three other ways, and reported: reconstruction averaged over pixels, codes of
length 1, and more and larger images.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.objectives.cmim_learners import Autoencoder, CmimClaimConfig, Found, Method
from rl_contrastive.claims.objectives.digits import Digits, split_digits
from rl_contrastive.claims.stacked import centres, least, most, shown
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

KEYS = ("1-NN", "probe", "layer", "untrained layer", "layer, 1-NN", "MSE", "rank")


def methods_of(config: CmimClaimConfig) -> dict[str, Method]:
    """Name -> method, of the main setting."""
    M = config.batch - 1
    return {
        "MIM": Method(M, contrast="none"),
        "cMIM, M = 1": Method(1),
        f"cMIM, M = {M}": Method(M),
        "InfoNCE, M = 1": Method(1, decoder=False, contrast="infonce"),
        f"InfoNCE, M = {M}": Method(M, decoder=False, contrast="infonce"),
        f"MIM + InfoNCE, augmented, M = {M}": Method(M, contrast="infonce", augmented=True),
    }


def measure(config: CmimClaimConfig, method: Method, data: Digits) -> Found:
    """Train and judge."""
    model = Autoencoder(config, method, data)
    model.fit()
    return model.judge()


def other_settings(config: CmimClaimConfig, data: Digits, context: Context) -> dict[str, tuple[Found, Found]]:
    """Setting -> what MIM and cMIM give there."""
    M = config.batch - 1
    ways: dict[str, tuple[dict[str, bool], Digits, CmimClaimConfig]] = {
        "averaged reconstruction": ({"mean_pixels": True}, data, config),
        "unit codes": ({"unit_code": True}, data, config),
        "larger images": ({}, split_digits(config.seeds, "mnist"), replace(config, steps=2 * config.steps)),
    }
    out = {}
    for name in context.each("setting", ways):
        options, images, own = ways[name]
        pair = [measure(own, Method(M, contrast=kind, **options), images) for kind in ("none", "cmim")]
        out[name] = (pair[0], pair[1])
        context.say(f"{name}: 1-NN {pair[0]['1-NN'].mean():.3f} -> {pair[1]['1-NN'].mean():.3f}")
    return out


@register("claim", "objectives/cmim", CmimClaimConfig)
def cmim(config: CmimClaimConfig, context: Context) -> Report:
    """cMIM needs no second view and hardly depends on the number of negatives; whether it helps is reported."""
    data, found = split_digits(config.seeds), {}
    methods = methods_of(config)
    for name in context.each("method", methods):
        found[name] = measure(config, methods[name], data)
        context.say(f"{name}: 1-NN {found[name]['1-NN'].mean():.3f}")
    pairs = {"summed reconstruction": (found["MIM"], found[f"cMIM, M = {config.batch - 1}"])}
    pairs |= other_settings(config, data, context) if config.settings else {}
    gain = {name: {key: b[key] - a[key] for key in KEYS} for name, (a, b) in pairs.items()}
    return report(config, context, found, gain)


def bars_of(config: CmimClaimConfig, found: dict[str, Found]) -> list[Bar]:
    """What was drawn beforehand."""
    M = config.batch - 1
    ours, one, info, info_one = (found[n] for n in (f"cMIM, M = {M}", "cMIM, M = 1", f"InfoNCE, M = {M}",
                                                    "InfoNCE, M = 1"))  # fmt: skip
    still, moves = ours["1-NN"] - one["1-NN"], info["1-NN"] - info_one["1-NN"]
    error = ours["MSE"] / found["MIM"]["MSE"]
    return [
        _small(f"cMIM: 1-NN(M = {M}) - 1-NN(M = 1)", still, 0.01),
        Bar(f"InfoNCE: 1-NN(M = {M}) - 1-NN(M = 1)", "|mean| >= 0.03", shown(moves), abs(float(moves.mean())) >= 0.03),
        least("1-NN: cMIM - InfoNCE without augmentation", ours["1-NN"] - info["1-NN"], 0.05),
        most("reconstruction error: cMIM / MIM", error, 1.1),
        least("linear probe: decoder's layer - code", ours["layer"] - ours["probe"], 0.02),
        _small(f"control: InfoNCE: 1-NN(M = {M}) - 1-NN(M = 1)", moves, 0.01, control=True),
    ]


def _small(what: str, values: FloatArray, bound: float, *, control: bool = False) -> Bar:
    return Bar(what, f"|mean| <= {bound:g}", shown(values), abs(float(values.mean())) <= bound, control)


def report(config: CmimClaimConfig, context: Context, found: dict[str, Found], gain: dict[str, Found]) -> Report:
    """Bars, tables, picture."""
    keys = KEYS
    digits = {"MSE": 4, "rank": 1}
    rows = [(n, *(shown(of[k], digits.get(k, 3)) if k in of else "" for k in keys)) for n, of in found.items()]
    more = [(name, *(shown(of[k], digits.get(k, 3)) for k in keys)) for name, of in gain.items()]

    def paint(axis: Any) -> None:
        for i, key in enumerate(keys[:3]):
            some = [j for j, of in enumerate(found.values()) if key in of]
            centre, error = centres([list(found.values())[j][key] for j in some])
            label = {"1-NN": "nearest neighbour", "probe": "linear probe", "layer": "probe of the decoder's layer"}[key]
            axis.errorbar(centre, np.array(some) + 0.2 * (i - 1), xerr=error, fmt="o", color=colour(i), label=label)
        axis.set_yticks(range(len(found)), [name.replace("augmented, ", "\naugmented, ") for name in found])
        axis.invert_yaxis()
        axis.set(xlabel="accuracy")

    def paint_gain(axis: Any) -> None:
        for i, (key, label) in enumerate((("1-NN", "nearest neighbour"), ("probe", "linear probe"))):
            centre, error = centres([of[key] for of in gain.values()])
            axis.errorbar(centre, np.arange(len(gain)) + 0.2 * i - 0.1, xerr=error, fmt="o", color=colour(i),
                          label=label)  # fmt: skip
        axis.axvline(0.0, color="#555555", linewidth=0.8)
        axis.set_yticks(range(len(gain)), [name.replace(" ", "\n") for name in gain])
        axis.invert_yaxis()
        axis.set(xlabel="change of accuracy")

    ours, moves = found[f"cMIM, M = {config.batch - 1}"], found[f"InfoNCE, M = {config.batch - 1}"]["1-NN"]
    more_negatives = "better" if moves.mean() > found["InfoNCE, M = 1"]["1-NN"].mean() else "worse"
    helps = "; ".join(f"{name} {shown(of['1-NN'])}, probe {shown(of['probe'])}" for name, of in gain.items())
    return Report(
        claim="cMIM's contrastive term hardly depends on the number of negatives, beats InfoNCE without augmentation "
        "and keeps the reconstruction; the decoder's hidden layer reads better than the code",
        bars=bars_of(config, found),
        answer=f"InfoNCE without augmentation reads {more_negatives} with more negatives. The decoder's layer reads "
        f"{shown(ours['layer'] - ours['probe'])} better than the code, the layer of an untrained decoder "
        f"{shown(ours['untrained layer'] - ours['probe'])}, and the nearest neighbour in the layer "
        f"{shown(ours['layer, 1-NN'] - ours['1-NN'])}. Does the term help? Change of 1-NN and of the "
        f"probe from MIM to cMIM: {helps}.",
        tables=[
            Table("Codes of digits", ("Method", *keys), rows,
                  f"{config.labels} labels, mean over {len(config.seeds)} seeds, 95% t-interval. layer: linear probe "
                  "of the decoder's hidden layer; untrained layer: of a decoder that was not trained; rank: "
                  "effective rank of the codes.", 1),
            Table("cMIM - MIM", ("Setting", *keys), more,
                  "Paired by seed. Reported, no bar. Larger images: 5000 of 14x14, twice the steps.", 1),
        ],
        plots=[draw(context.out, "cmim", {"What is read": paint, "cMIM - MIM": paint_gain},
                    f"Digits, {config.labels} labels, {len(config.seeds)} seeds; lines: 95% t-intervals.")],
        numbers={"main": found, "gain": gain},
    )  # fmt: skip
