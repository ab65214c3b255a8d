"""What Opik's client can ask for and this store does not keep: said in words, never passed over."""

from __future__ import annotations

import re

ONE = "[^/]+"
UNSERVED = {
    "agent configurations": "v1/private/agent-configs/.+",
    "agent insights": "v1/(private|internal)/agent-insights/.+",
    "alerts": "v1/private/alerts(/.+)?",
    "annotation queues": "v1/private/annotation-queues(/.+)?",
    "online evaluation rules": "v1/private/(automations|manual-evaluation)/.+",
    "model providers": "v1/private/(chat/completions|llm/.+|llm-provider-key(/.+)?|ollama/.+)",
    "dashboards": "v1/(private/(dashboards|insights-views)|internal/dashboard-saved-queries)(/.+)?",
    "exports of datasets made by the server": (
        f"v1/private/datasets/(export-jobs(/.+)?|{ONE}/export)"
    ),
    "dataset items made from files, traces or by a model": (
        f"v1/private/datasets/(items/from-(csv|json)|{ONE}/(expansions|items/from-(spans|traces)))"
    ),
    "experiments run or grouped by the server": (
        "v1/private/(experiments/(execute|groups(/.+)?)"
        f"|datasets/{ONE}/items/experiments/items/output/columns)"
    ),
    "feedback definitions": "v1/private/feedback-definitions(/.+)?",
    "logins": r"(\.well-known/)?oauth(-authorization-server|/.+)|opik/auth-oauth",
    "OpenTelemetry spans": "v1/private/otel/.+",
    "optimizations": "v1/private/optimizations(/.+)?",
    "statistics": (
        "v1/private/((traces|spans|traces/threads|projects)/stats|projects/feedback-scores/names"
        f"|projects/{ONE}/(kpi-cards|metrics|token-usage/names|activities))"
    ),
    "lists by project other than of prompts": (
        f"v1/private/projects/{ONE}/(alerts|dashboards|datasets|experiments|optimizations)"
    ),
    "reports": f"v1/private/(report-failures|projects/{ONE}/reports(/.+)?)",
    "web pages (type: invoke traces.show)": "v1/session/redirect/.+",
    "retention rules": "v1/private/retention/.+",
    "local runners": "v1/private/(local-runners|pairing)(/.+)?",
    "usage counts": "v1/internal/(analytics-queries|usage)(/.+)?",
    "settings of the web page": (
        "v1/private/(ollie/state|toggles|welcome-wizard|workspace-permissions|workspaces/.+)"
    ),
}
_PATTERN = re.compile("|".join(f"(?P<_{n}>{path})" for n, path in enumerate(UNSERVED.values())))
_NAMES = list(UNSERVED)


def missing(path: str) -> str | None:
    """Return what a path is about that this store does not keep, or None."""
    match = _PATTERN.fullmatch(path)
    return _NAMES[int(str(match.lastgroup)[1:])] if match else None
