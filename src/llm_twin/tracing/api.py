"""Opik's API as a caller sees it: JSON in and out, a refusal in words, here or on a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_twin.errors import RemoteError

if TYPE_CHECKING:
    import httpx

    from llm_twin.settings import Settings
    from llm_twin.tracing.store.store import Store

HERE = "http://localhost/api/"
SECONDS = 30.0


class Api:
    """Asks one Opik."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    @classmethod
    def here(cls, store: Store) -> Api:
        """Ask a store in this process."""
        import httpx

        from llm_twin.tracing.store.mounts import transport

        return cls(httpx.Client(base_url=HERE, transport=transport(store)))

    @classmethod
    def remote(cls, settings: Settings) -> Api:
        """Ask the Opik of ``TWIN_OPIK_URL``."""
        import httpx

        headers = {"comet-workspace": settings.opik_workspace}
        if settings.opik_key:
            headers["authorization"] = settings.opik_key
        return cls(httpx.Client(base_url=settings.opik_url, headers=headers, timeout=SECONDS))

    def ask(self, method: str, path: str, body: object = None, **query: str) -> Any:
        """Send a request below ``/api/v1/private/``; return the answer's JSON, if it has any.

        Raises:
            RemoteError: there was no answer, or it is a refusal.

        """
        return self._read(self._send(method, path, body, query))

    def find(self, path: str, body: object) -> Any:
        """Look something up; None when there is no such thing.

        Raises:
            RemoteError: there was no answer, or it is another refusal.

        """
        answer = self._send("POST", path, body, {})
        return None if answer.status_code == 404 else self._read(answer)

    def _send(self, method: str, path: str, body: object, query: dict[str, str]) -> httpx.Response:
        import httpx

        try:
            return self._client.request(method, f"v1/private/{path}", json=body, params=query)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RemoteError(
                f"Opik does not answer ({type(error).__name__})",
                self._client.base_url,
                "Check TWIN_OPIK_URL",
            ) from None

    def _read(self, answer: httpx.Response) -> Any:
        if not answer.is_error:
            return answer.json() if answer.content else None
        shut_out = answer.status_code in (401, 403)
        raise RemoteError(
            f"Opik answered {answer.status_code}: {answer.text[:200]}",
            answer.request.url,
            "Check TWIN_OPIK_KEY and TWIN_OPIK_WORKSPACE" if shut_out else "",
        )
