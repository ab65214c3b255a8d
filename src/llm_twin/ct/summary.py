"""The summary at the end of a training run."""

from __future__ import annotations

from typing import Any

SCRATCH, EPOCHS = "scratch", "epochs"
EMBEDDERS = {"": "none, words alone"}
MOST_LISTED = 10


def summary(report: dict[str, Any]) -> str:
    """Return the lines a person reads: what went in, how good it is, what is served now."""
    language, retrieval = report["language"], report["retrieval"]
    told = report.get("feedback", {})
    cleaned, indexed, trained = report["cleaned"], report["indexed"], report["trained"]
    lines = [
        "",
        f"corpus      {report['corpus']}",
        f"documents   {cleaned['documents']} of {report['collected']['documents']}"
        f" ({report['collected']['reused']} unchanged), {cleaned['characters']:,} characters",
        *_listed("skipped", report["collected"]["skipped"]),
        *_listed("dropped", cleaned["dropped"]),
        *_feedback(told),
        f"index       {indexed['chunks']} chunks, {indexed['indexed']} of them new;"
        f" embedder: {EMBEDDERS.get(indexed['embedder'], indexed['embedder'])}",
        *_dataset(report.get("dataset", {})),
        *_model(trained),
        f"language    {language['bits_per_character']:.3f} bits per character held out"
        f" ({_untrained(language)}unigram {language['unigram']:.3f},"
        f" Kneser-Ney trigram {language['trigram']:.3f})",
        f"retrieval   hit@1 {retrieval['hit@1']:.3f}, hit@5 {retrieval['hit@5']:.3f},"
        f" MRR {retrieval['mrr']:.3f} on {retrieval['n']} questions from held-out headings"
        f"{' and readers' if told.get('questions') else ''}",
        *_style(report.get("style", {})),
        *_answers(report.get("answers", {}), report.get("refusal", {})),
        f"gate        {report['verdict']['verdict']}",
        *(f"            {reason}" for reason in report["verdict"]["reasons"]),
        f"cost        {report['wall_seconds']} s wall, {report['cpu_seconds']} CPU-s,"
        f" peak {report['peak_mb']} MB",
        *([f"report      {report['report']}"] if report.get("report") else []),
        _served(report["version"]),
    ]
    return "\n".join(lines)


def _feedback(found: dict[str, Any]) -> list[str]:
    if not found:
        return []
    held = f", {found['heldout']} left out: they say held-out texts" if found["heldout"] else ""
    return [
        f"feedback    {found['taken']} corrections and {found['questions']} questions"
        f" of {found['digest'][:8]}{held}"
    ]


def _dataset(made: dict[str, Any]) -> list[str]:
    if not made:
        return []
    return [
        f"dataset     {made['pairs']} instructions, {made['preferences']} preferences,"
        f" {made['heldout']} held-out passages; {made['digest'][:8]}",
        *(f"            {verdict}" for verdict in made.get("verdicts", [])),
    ]


def _model(trained: dict[str, Any]) -> list[str]:
    base = trained.get("base") or {"model": SCRATCH}
    small = base["model"] == SCRATCH
    origin = "from scratch" if small else f"on {base['model']} ({base['license']})"
    how = f", {trained['method']}" if trained.get("method") else ""
    honest = "; it proves the path, it does not write prose" if small else ""
    lines = [
        f"model       {trained['parameters'] / 1e6:.1f} M parameters {origin}{how},"
        f" {trained['cpu_seconds']:.0f} CPU-s{honest}"
    ]
    if trained.get("resumed_from"):
        lines.append(
            "            went on from {phase}, step {step}".format(**trained["resumed_from"])
        )
    if trained.get("stopped_by", EPOCHS) != EPOCHS:
        lines.append(f"            stopped by {trained['stopped_by']}")
    return lines


def _untrained(language: dict[str, Any]) -> str:
    return f"untrained {language['untrained']:.3f}, " if "untrained" in language else ""


def _style(style: dict[str, Any]) -> list[str]:
    if style.get("author") is None:
        return []
    kept = style["reference"].get("author", {}).get("author")
    beside = f", the author's own held-out texts {kept:.2f}" if kept is not None else ""
    return [
        f"style       author's {style['author']:.2f} of 1{beside}; the classifier is right for"
        f" {style['accuracy']:.0%}"
    ]


def _answers(answers: dict[str, Any], refusal: dict[str, Any]) -> list[str]:
    if not answers.get("n"):
        return []
    return [
        f"answers     grounded {answers['groundedness']:.2f}, cited {answers['cited']:.0%},"
        f" right document {answers['right']:.0%}, declined {1 - answers['answered']:.0%} of"
        f" {answers['n']}; of {refusal['n']} foreign questions {refusal['refused']:.0%} declined"
    ]


def _served(version: str | None) -> str:
    if version:
        return f'production  {version}. Ask it: invoke ask "..."'
    return (
        "production  unchanged: the candidate was not promoted."
        " More text or a larger --budget may help"
    )


def _listed(label: str, items: list[dict[str, str]]) -> list[str]:
    lines = [f"{label:<11} {item['uri']}: {item['reason']}" for item in items[:MOST_LISTED]]
    more = len(items) - MOST_LISTED
    return [*lines, f"{label:<11} and {more} more"] if more > 0 else lines
