"""Bytes to text, and one-line errors that say what is wrong with a file and how to go on."""

from __future__ import annotations

import codecs
import json

from llm_twin.errors import CorpusError

READ_TYPES = ".md .markdown .txt .html .htm .pdf .ipynb"

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def exclude_hint(uri: str) -> str:
    """Return how to get past one bad document."""
    return f"Repair it, or leave it out with --exclude '{uri}'"


def decode(data: bytes, uri: str) -> str:
    """Return the text of a file: UTF-8, or what its byte order mark says.

    Raises:
        CorpusError: it is binary, or in another encoding.

    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    if encoding in ("utf-8", "utf-8-sig") and b"\0" in data:
        at = data.index(b"\0")
        raise CorpusError(
            f"a binary file has the name of a text file (a NUL byte at {at})",
            uri,
            exclude_hint(uri),
        )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        guess = _guess(data)
        raise CorpusError(
            f"the text is not {encoding.upper()} from byte {error.start} on",
            uri,
            f"Convert it with iconv -f {guess} -t utf-8 '{uri}' -o FILE (the encoding is a guess),"
            f" or leave it out with --exclude '{uri}'",
        ) from None


def _guess(data: bytes) -> str:
    from charset_normalizer import from_bytes

    best = from_bytes(data[:50_000]).best()
    return best.encoding.replace("_", "-") if best else "windows-1252"


def check_size(size: int, limit_mb: int, uri: str) -> None:
    """Refuse a document that is larger than the limit, before it is read.

    Raises:
        CorpusError: it is.

    """
    if size > limit_mb * 2**20:
        raise CorpusError(
            f"a document of {size / 2**20:.0f} MB is over the limit of {limit_mb} MB",
            uri,
            f"Leave it out with --exclude '{uri}', or raise TWIN_MAX_DOCUMENT_MB",
        )


def parse_json(text: str, uri: str) -> object:
    """Return parsed JSON.

    Raises:
        CorpusError: it is malformed; the message has the line and column.

    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"malformed JSON at line {error.lineno} column {error.colno} ({error.msg})",
            uri,
            exclude_hint(uri),
        ) from None
    except RecursionError:
        raise CorpusError("JSON is nested too deeply", uri, exclude_hint(uri)) from None


def check_notebook(text: str, uri: str) -> dict[str, object]:
    """Return a notebook's JSON when it has the shape of one.

    Raises:
        CorpusError: it is not JSON, or not a notebook.

    """
    notebook = parse_json(text, uri)
    if not isinstance(notebook, dict) or not ({"cells", "worksheets"} & notebook.keys()):
        raise CorpusError("the JSON is not a Jupyter notebook", uri, exclude_hint(uri))
    return notebook
