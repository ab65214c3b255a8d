"""Order of stages: what a flow consists of, each after what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_twin.errors import FlowError

if TYPE_CHECKING:
    from llm_twin.flow.stage import Registry, Stage


def order(registry: Registry, *targets: str) -> list[Stage]:
    """Return the targets and everything they need, dependencies first, each once.

    Ties are kept in the order of declaration, so the result is stable.

    Raises:
        FlowError: a name is unknown, or stages need each other in a circle.

    """
    done: dict[str, Stage] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise FlowError(f"stages need each other in a circle: {circle}")
        path.append(name)
        found = registry[name]
        for need in found.needs:
            visit(need)
        path.pop()
        done[name] = found

    for target in targets:
        visit(target)
    return list(done.values())
