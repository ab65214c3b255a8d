"""The summary at the end of a training run."""

from __future__ import annotations

from typing import Any

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
        f"model       {trained['parameters'] / 1e6:.1f} M parameters from scratch,"
        f" {trained['cpu_seconds']:.0f} CPU-s; it proves the path, it does not write prose",
        f"language    {language['bits_per_character']:.3f} bits per character held out"
        f" (untrained {language['untrained']:.3f}, unigram {language['unigram']:.3f},"
        f" Kneser-Ney trigram {language['trigram']:.3f})",
        f"retrieval   hit@1 {retrieval['hit@1']:.3f}, hit@5 {retrieval['hit@5']:.3f},"
        f" MRR {retrieval['mrr']:.3f} on {retrieval['n']} questions from held-out headings"
        f"{' and readers' if told.get('questions') else ''}",
        f"gate        {report['verdict']['verdict']}",
        *(f"            {reason}" for reason in report["verdict"]["reasons"]),
        f"cost        {report['wall_seconds']} s wall, {report['cpu_seconds']} CPU-s,"
        f" peak {report['peak_mb']} MB",
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
