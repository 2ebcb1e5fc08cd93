"""The verbs `inspect`, `convert` and `doctor`: what a file or this machine is good for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from apl_core.errors import AplError, FitError
from apl_core.metadata import PrefixCard, printable

from . import arguments
from .common import Verbs, add_model, verb

if TYPE_CHECKING:
    from torch import Tensor

    from apl_core.fit import FitReport
    from apl_core.formats import FileReport
    from apl_core.prefix import Prefix


def add(verbs: Verbs) -> None:
    """Register the verbs of this group."""
    inspect = verb(
        verbs,
        "inspect",
        _inspect,
        "say what is in a prefix or textual-inversion file, or which prefixes a folder offers; "
        "1 if something is broken, left out or does not fit",
        "apl inspect my.safetensors --checkpoint sd15.safetensors",
    )
    inspect.add_argument(
        "file", type=Path, metavar="FILE", help="any file, or a folder of prefixes"
    )
    against = inspect.add_mutually_exclusive_group()
    against.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="checkpoint to compare it with: safetensors file or diffusers folder",
    )
    add_model(against)
    inspect.add_argument("--json", action="store_true", help="print JSON")

    convert = verb(
        verbs,
        "convert",
        _convert,
        "turn a textual inversion (safetensors, or a .pt that you trust) into a prefix, or back",
        "apl convert APL-v1.1-9999.pt apl.safetensors",
    )
    convert.add_argument("file", type=Path, metavar="IN", help="prefix, embedding or .pt")
    convert.add_argument(
        "out", type=arguments.new_safetensors, metavar="OUT", help="new .safetensors file"
    )
    convert.add_argument(
        "--to", choices=("prefix", "embedding"), default="prefix", help="what OUT will be"
    )
    convert.add_argument(
        "--key",
        choices=("clip_l", "clip_h"),
        help="text encoder that the vectors of IN are for (a .pt for one encoder: clip_l)",
    )
    convert.add_argument(
        "--placeholder",
        metavar="NAME",
        help="whose vectors of IN, if it holds several embeddings; in an embedding that is "
        "written, the token for diffusers",
    )

    doctor = verb(
        verbs,
        "doctor",
        _doctor,
        "say what is installed, which device there is and what would not work",
        "apl doctor",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")


@dataclass(frozen=True)
class _Norms:
    """Lengths of a prefix's rows, and the least, middle and greatest of real token embeddings."""

    rows: tuple[float, ...]
    real: tuple[float, float, float] | None

    @property
    def too_long(self) -> tuple[int, ...]:
        """Rows, counted from 1, that are longer than any real token embedding."""
        if self.real is None:
            return ()
        return tuple(i for i, norm in enumerate(self.rows, 1) if norm > self.real[2])


def _inspect(given: argparse.Namespace) -> int:
    from apl_core.fit import check_fit
    from apl_core.formats import inspect_file

    from ..checkpoints.embedding_tables import faces_of, read_tables

    if given.file.is_dir():
        return _inspect_folder(given)
    report = inspect_file(given.file)
    source = given.checkpoint or given.model or _own_model(report.prefix)
    tables = read_tables(source) if source and report.prefix else {}
    fit: FitReport | FitError | None = None
    if report.prefix and tables:
        try:
            fit = check_fit(report.prefix, faces_of(tables))
        except FitError as error:
            fit = error
    norms = _norms(report.prefix, tables) if report.prefix else {}
    if given.json:
        print(json.dumps(_as_json(report, source, norms, fit), indent=1))
    else:
        print("\n".join(_in_words(report, source, norms, fit)))
    return int(report.prefix is None or isinstance(fit, FitError))


def _inspect_folder(given: argparse.Namespace) -> int:
    """What hosts would list of a folder, and what they would leave out."""
    from apl_core.library import Library
    from apl_core.names import spelled

    why = "only one prefix is compared with a model"
    arguments.refuse_ignored(given, ("checkpoint", "model"), why, "give a prefix file")
    library = Library([given.file])
    found: list[dict[str, object]] = []
    for name in library.names():
        try:
            prefix = library.load(name)
            facts = {"family": prefix.family, "vectors": prefix.n, "digest": prefix.digest}
            words = f"{prefix.n} vectors for {prefix.described}, {prefix.short_digest}"
            found.append({"name": name, "usable": True, "words": words, **facts})
        except AplError as error:
            found.append({"name": name, "usable": False, "words": f"not usable: {error.found}"})
    left_out = library.left_out()
    if given.json:
        gone = [{"file": file, "reason": reason} for file, reason in left_out]
        print(
            json.dumps({"folder": str(given.file), "prefixes": found, "left_out": gone}, indent=1)
        )
    else:
        lines = [f"{spelled(str(one['name']))[1:-1]}: {one['words']}" for one in found]
        lines += [f"{spelled(file)[1:-1]}: left out, {reason}" for file, reason in left_out]
        print("\n".join(lines or [f"There is no prefix yet in {printable(str(given.file))}."]))
    return int(not found or bool(left_out) or not all(one["usable"] for one in found))


def _own_model(prefix: Prefix | None) -> Path | None:
    """The built-in model's folder for a prefix that can only be for a pocket model."""
    from ..run_paths import BUILT_IN

    ours = prefix is not None and prefix.keys == ("pocket",)
    return BUILT_IN if ours and BUILT_IN.is_dir() else None


def _norms(prefix: Prefix, tables: Mapping[str, Tensor]) -> dict[str, _Norms]:
    found: dict[str, _Norms] = {}
    for key, rows in prefix.vectors.items():
        real = None
        if key in tables:
            lengths = tables[key].norm(dim=1)
            real = (float(lengths.min()), float(lengths.median()), float(lengths.max()))
        found[key] = _Norms(tuple(rows.norm(dim=1).tolist()), real)
    return found


def _in_words(
    report: FileReport,
    source: Path | None,
    norms: Mapping[str, _Norms],
    fit: FitReport | FitError | None,
) -> list[str]:
    from apl_core.names import SUFFIX, name_fault

    lines = [report.text()]
    fault = name_fault(report.path.name[: -len(SUFFIX)])
    if report.prefix and fault and report.path.name.lower().endswith(SUFFIX):
        lines.append(f"Under this name no host lists it: {fault}")
    for key, norm in norms.items():
        lengths = ", ".join(f"{length:.3g}" for length in norm.rows)
        lines.append(f"Lengths of its rows, {key}: {lengths}")
        if norm.real:
            low, middle, high = norm.real
            lines.append(
                f"Real token embeddings, {key}: {low:.3g} to {high:.3g}, half of them below "
                f"{middle:.3g}"
            )
            lines.append(f"Longer than any real one, {key}: {_rows_in_words(norm.too_long)}")
    if fit is not None:
        said = str(fit) if isinstance(fit, FitError) else fit.sentence
        lines.append(f"With {printable(str(source))}: {said}")
    elif report.prefix:
        lines.append("Give --checkpoint FILE to compare its rows with real token embeddings.")
    return lines


def _rows_in_words(numbers: Sequence[int]) -> str:
    if not numbers:
        return "none"
    return f"row{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _as_json(
    report: FileReport,
    source: Path | None,
    norms: Mapping[str, _Norms],
    fit: FitReport | FitError | None,
) -> dict[str, object]:
    prefix = report.prefix
    table: dict[str, object] = {
        "file": str(report.path),
        "bytes": report.size,
        "kind": report.kind,
        "usable": prefix is not None,
        "problem": str(report.problem) if report.problem else None,
        "tensors": dict(report.tensors),
    }
    if prefix is None:
        return table
    table |= {
        "family": prefix.family,
        "encoders": prefix.widths,
        "vectors": prefix.n,
        "in_front": prefix.rows_in_front,
        "behind": prefix.behind,
        "digest": prefix.digest,
        "card": _card(prefix.card),
    }
    table["norms"] = {
        key: {
            "rows": norm.rows,
            "real": norm.real and dict(zip(("min", "median", "max"), norm.real, strict=True)),
            "longer_than_any_real": norm.too_long,
        }
        for key, norm in norms.items()
    }
    table["fit"] = None
    if isinstance(fit, FitError):
        table["fit"] = {"with": str(source), "fits": False, "sentence": str(fit)}
    elif fit is not None:
        table["fit"] = {"with": str(source), "fits": True, **asdict(fit)}
    return table


def _card(card: PrefixCard) -> dict[str, object]:
    flat = {field.name: getattr(card, field.name) for field in fields(card)}
    return {name: dict(v) if isinstance(v, Mapping) else v for name, v in flat.items()}


def _convert(given: argparse.Namespace) -> int:
    from apl_core.formats import PICKLE, inspect_file, write_prefix
    from apl_core.kinds import BY_WIDTH

    from ..models.textual_inversion import read_pickle, write_embedding

    report = inspect_file(given.file)
    if given.placeholder and (given.to == "prefix" or given.placeholder in report.tensors):
        report = inspect_file(given.file, given.placeholder)
    if report.kind == PICKLE:
        prefix = read_pickle(given.file, given.key, given.placeholder)
    elif report.prefix is None:
        raise report.problem or AplError("convert", "there is no prefix in it", "use another file")
    else:
        prefix = report.prefix
    if given.key and prefix.keys != (given.key,):
        asked = f"convert {printable(str(given.file))} for {given.key}"
        raise AplError(asked, f"it is for {prefix.described}", "leave --key out")
    if not prefix.card.family and not set(prefix.keys) <= set(BY_WIDTH.values()):
        raise AplError(
            f"convert {printable(str(given.file))}",
            f"it is for {prefix.described}, and does not say what it was learned through; the same "
            "text encoders serve several families",
            "learn a prefix on a model of the family instead",
        )
    if given.to == "embedding":
        write_embedding(prefix, given.out, given.placeholder)
    else:
        write_prefix(prefix, given.out)
    stands = f", {prefix.behind} of them behind the text" if prefix.behind else ""
    count = f"{prefix.n} vectors for {prefix.described}{stands}"
    print(f"{printable(str(given.out))}: {given.to}, {count}")
    return 0


def _doctor(given: argparse.Namespace) -> int:
    from ..doctor import demo_works, examine

    findings = examine(Path.cwd())
    works = demo_works(findings)
    if given.json:
        print(
            json.dumps({"demo_works": works, "findings": [asdict(f) for f in findings]}, indent=1)
        )
        return int(not works)
    for finding in findings:
        mark = "ok" if finding.ok else "MISSING" if finding.needed else "absent"
        print(f"{mark:8}{finding.name:14}{printable(finding.found)}")
        if not finding.ok:
            print(f"{'':8}does not work: {finding.without}\n{'':8}Fix: {finding.fix}")
    print("`apl demo` works." if works else "`apl demo` does not work yet: see MISSING above.")
    return int(not works)
