"""The five experiments as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from apl_trainer.evaluation.titles import CONDITION_TITLES, RESEEDED
from apl_trainer.report.page import Table
from apl_trainer.statistics import Mean

from .plan import ROUTES, VARIANTS, BenchmarkPlan
from .prompts import VARIATIONS

Figures = Mapping[str, Mean]
Numbers = Mapping[str, float]

CONDITIONS = {
    **{name: title for name, title in CONDITION_TITLES.items() if name != "floor"},
    "eraser": "weights edited (listed names)",
    "floor": CONDITION_TITLES["floor"],
}


def _percent(figures: Figures, key: str) -> str:
    found = figures.get(key)
    return "-" if found is None or math.isnan(found.value) else found.percent()


def _plain(figures: Figures, key: str, digits: int = 4) -> str:
    found = figures.get(key)
    if found is None or math.isnan(found.value):
        return "-"
    if math.isnan(found.low):
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def _number(numbers: Numbers, key: str, unit: str) -> str:
    return f"{numbers[key]:,.{1 if unit == 's' else 0}f} {unit}" if key in numbers else "-"


def _table(
    title: str,
    about: str,
    head: Sequence[str],
    columns: Sequence[tuple[str, str]],
    rows: Mapping[str, str],
    figures: Figures,
) -> Table:
    """Rows of percentages; a column's key has `{}` where the row's key goes."""
    cells = [
        [shown, *(_percent(figures, key.format(name)) for _, key in columns)]
        for name, shown in rows.items()
    ]
    return Table(title, about, [*head, *(title for title, _ in columns)], cells)


def _identity(figures: Figures, numbers: Numbers) -> Table:
    columns = [
        ("trained", "identity_top1.trained.{}"),
        ("held-out", "identity_top1.heldout.{}"),
        ("held-out top-5", "identity_top5.heldout.{}"),
        ("held-out cosine", "identity_cosine.heldout.{}"),
        ("largest cosine", "identity_cosine_max.heldout.{}"),
        ("face found", "face_found.{}"),
        ("scene", "scene.{}"),
    ]
    table = _table(
        "1. Identity",
        "Percent with 95 % intervals over names; pictures without a face are left out of the first "
        "five columns. Lower is more anonymous. Trained names are those that the prefix learned "
        "from and that the edited weights list; held-out names are on no list. Seconds and bytes "
        "are what it takes to make and to ship.",
        [""],
        columns,
        CONDITIONS,
        figures,
    )
    rows = [
        [*row, _number(numbers, f"{name}.seconds", "s"), _number(numbers, f"{name}.bytes", "bytes")]
        for name, row in zip(CONDITIONS, table.rows, strict=True)
    ]
    return Table(table.title, table.about, [*table.columns, "seconds", "bytes"], rows)


def _change(figures: Figures) -> Table:
    rows = [
        [
            title,
            *(
                _plain(figures, f"change.{kind}.{name}")
                for kind in ("pixels", "features", "fid", "kid")
            ),
        ]
        for name, title in {**CONDITIONS, "reseeded": RESEEDED}.items()
        if f"change.pixels.{name}" in figures
    ]
    return Table(
        "2b. How far name-free pictures move",
        "Against the pictures without prefix, same seeds: mean squared pixel difference, distance "
        "of feature maps, and FID and KID of the recognizer's features (comparable within this "
        "table only).",
        ["", "pixels", "features", "FID", "KID"],
        rows,
    )


def tables(figures: Figures, numbers: Numbers, plan: BenchmarkPlan) -> list[Table]:
    """All tables of the report, in the order of the experiments."""
    ablations = {"none": "no prefix", **{a: a for a in plan.ablations}}
    found = [
        _identity(figures, numbers),
        _table(
            "1b. Prompts that people type",
            "Identity top-1 and faces found. Weights are what a host would strip, here plain text; "
            "of two people the likelier counts; the model itself hardly reads non-Latin scripts.",
            ["prompt"],
            [
                ("held-out, no prefix", "variation.{}.heldout.none"),
                ("held-out, prefix", "variation.{}.heldout.prefix"),
                ("trained, no prefix", "variation.{}.trained.none"),
                ("trained, prefix", "variation.{}.trained.prefix"),
                ("face found, no prefix", "variation_face.{}.heldout.none"),
                ("face found, prefix", "variation_face.{}.heldout.prefix"),
            ],
            {k: k for k in VARIATIONS},
            figures,
        ),
        _table(
            "2. Name-free prompts",
            "Share of what was asked that is drawn.",
            [""],
            [
                ("people", "fidelity.people.{}"),
                ("gender", "fidelity.people.gender.{}"),
                ("hair", "fidelity.people.hair.{}"),
                ("things", "fidelity.things.{}"),
                ("objects", "fidelity.objects.{}"),
                ("colours", "fidelity.colours.{}"),
            ],
            {
                **{k: CONDITIONS[k] for k in ("none", "prefix", "random", "eraser")},
                "reseeded": "no prefix, another seed",
            },
            figures,
        ),
        _change(figures),
        _table(
            "3. Transfer",
            "The prefix, unchanged, on fine-tuned variants of the model with the same text "
            "encoder. The recognizer's own accuracy on renders of that style is in the last "
            "column.",
            ["variant"],
            [
                ("held-out, no prefix", "transfer.{}.heldout.none"),
                ("held-out, prefix", "transfer.{}.heldout.prefix"),
                ("face found", "transfer.{}.face_found.prefix"),
                ("people, no prefix", "transfer.{}.people.none"),
                ("people, prefix", "transfer.{}.people.prefix"),
                ("things, no prefix", "transfer.{}.things.none"),
                ("things, prefix", "transfer.{}.things.prefix"),
                ("recognizer on renders", "transfer.{}.reads"),
            ],
            {v: v for v in VARIANTS},
            figures,
        ),
        _table(
            "4. People taught after the prefix was learned",
            "Fine-tuning of the U-Net with pictures and names (in the manner of DreamBooth), and "
            "textual inversion of a new word.",
            ["route"],
            [
                ("before teaching", "personalized.{}.untaught"),
                ("taught, no prefix", "personalized.{}.before"),
                ("taught, prefix", "personalized.{}.after"),
                ("“a person”", "personalized.{}.floor"),
                ("face found, prefix", "personalized.{}.face_found.after"),
            ],
            {r: r for r in ROUTES},
            figures,
        ),
        _table(
            "5. Name in the second chunk of a long prompt",
            "The prefix in every chunk, and in the first chunk only, as a plain embedding stands.",
            [""],
            [("held-out", "chunks.{}"), ("face found", "chunks.face_found.{}")],
            {"none": "no prefix", "every": "every chunk", "first_only": "first chunk only"},
            figures,
        ),
    ]
    table = _table(
        "5b. What each setting is worth",
        "One setting changed against the recipe, which is shortened here; the last step is kept.",
        ["setting"],
        [
            ("held-out", "ablation.{}.heldout"),
            ("face found", "ablation.{}.face_found"),
            ("people", "ablation.{}.people"),
            ("things", "ablation.{}.things"),
        ],
        ablations,
        figures,
    )
    rows = [
        [*row, _number(numbers, f"ablation.{name}.seconds", "s")]
        for name, row in zip(ablations, table.rows, strict=True)
    ]
    heads = [k.removeprefix("reader.") for k in figures if k.startswith("reader.")]
    return [
        *found,
        Table(table.title, table.about, [*table.columns, "seconds"], rows),
        _table(
            "The recognizer itself",
            "Its accuracy on renders that it never saw.",
            ["what"],
            [("right", "reader.{}")],
            {h: h for h in heads},
            figures,
        ),
    ]


def markdown(found: Sequence[Table]) -> str:
    """The tables for a document."""
    parts: list[str] = []
    for table in found:
        lines = [table.columns, ["---", *["---:"] * (len(table.columns) - 1)], *table.rows]
        shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"## {table.title}\n\n{table.about}\n\n{shown}\n")
    return "\n".join(parts)
