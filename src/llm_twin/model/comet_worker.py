"""The process that talks to Comet: ``python -m llm_twin.model.comet_worker < points``.

It sends what it is given and nothing of the machine; the SDK adds how many seconds this process
lived. When Comet cannot be reached or refuses, it
writes an archive that can be sent later. It prints one line, never what Comet's SDK prints.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from comet_ml import CometExperiment

START_SECONDS = 8
END_SECONDS = 10
ALIVE_SECONDS = 3
MEASURED = ("loss", "evaluation", "rate")
QUIET = {
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_DISABLE_ANNOUNCEMENT": "true",
    "COMET_ERROR_TRACKING_ENABLE": "false",
    "COMET_INTERNAL_REPORTING": "false",
    "COMET_TIMEOUT_HTTP": "5",
    "COMET_TIMEOUT_CLEANING": str(END_SECONDS),
    "COMET_TIMEOUT_UPLOAD": str(END_SECONDS),
    "COMET_HTTP_SESSION_RETRY_TOTAL": "1",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL": "1",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_CONNECT": "1",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_READ": "0",
    # Of a server that goes away in the middle the SDK does not always say so, see _took_all.
    "COMET_FALLBACK_STREAMER_KEEP_OFFLINE_ZIP": "true",
    # The SDK signs its notification at the end with the user's name.
    "LOGNAME": "llm-twin",
}
NOTHING_OF_ITS_OWN: dict[str, Any] = dict.fromkeys(
    (
        "log_code", "log_graph", "parse_args", "log_git_metadata", "log_git_patch",
        "log_env_details", "log_env_gpu", "log_env_host", "log_env_cpu", "log_env_network",
        "log_env_disk", "auto_output_logging", "auto_param_logging", "auto_metric_logging",
        "auto_log_co2",
    ),
    False,
)  # fmt: skip


def main(lines: Iterator[str], out: TextIO) -> None:
    """Send everything; print where it is.

    Args:
        lines: of JSON: first ``name``, ``key``, ``project``, ``online``, ``folder`` and
            ``parameters``, then any number of ``{"point": ...}`` and ``{"figures": ...}``.
        out: for the one line.

    """
    begin = json.loads(next(lines))
    before = archives(begin)
    experiment, why = _open(begin)
    if experiment.url:
        print(f"  curves go to {experiment.url}", file=out, flush=True)
    experiment.log_parameters(begin["parameters"])
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:  # The process that wrote it was killed.
            continue
        _tell(experiment, said)
    experiment.end()
    made = [path for path in archives(begin) if path not in before]
    if not why and _took_all():
        for path in made:
            path.unlink()
        return
    reason = why or "warning: Comet went away"
    for path in made:
        print(
            f"  {reason}: the curves are in {path}. Send them with: comet upload {path}",
            file=out,
            flush=True,
        )


def archives(begin: dict[str, Any]) -> list[Path]:
    """What waits to be sent of this experiment."""
    return sorted(Path(begin["folder"]).glob(f"{begin['key']}*.zip"))


def _took_all() -> bool:
    """Whether the server is there at the end, as it was at the beginning."""
    from comet_ml.config import get_backend_address, get_config  # type: ignore[attr-defined]

    address = get_backend_address(get_config())
    try:
        with urllib.request.urlopen(f"{address}isAlive/ver", timeout=ALIVE_SECONDS):  # noqa: S310
            return True
    except (OSError, ValueError):
        return False


def _tell(experiment: CometExperiment, said: dict[str, Any]) -> None:
    if point := said.get("point"):
        for name in MEASURED:
            if point.get(name) is not None:
                experiment.log_metric(f"{point['phase']}/{name}", point[name], step=point["step"])
    for name, value in said.get("figures", {}).items():
        if isinstance(value, int | float) and math.isfinite(value):
            experiment.log_metric(name, value)


def _open(begin: dict[str, Any]) -> tuple[CometExperiment, str]:
    """An experiment, and why it is not Comet's own but an archive, if it is one."""
    import comet_ml

    def start(online: bool) -> CometExperiment:
        return comet_ml.start(
            project_name=begin["project"],
            experiment_key=begin["key"],
            mode="get_or_create",
            online=online,
            experiment_config=comet_ml.ExperimentConfig(
                **NOTHING_OF_ITS_OWN,
                display_summary_level=0,
                offline_directory=begin["folder"],
                name=begin["name"],
            ),
        )

    if not begin["online"]:
        return start(online=False), "COMET_START_ONLINE is off"
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(START_SECONDS)
    try:
        return start(online=True), ""
    except Exception as error:
        signal.alarm(0)
        # Not the message: it may hold the key.
        return start(online=False), f"warning: Comet cannot be used ({type(error).__name__})"
    finally:
        signal.alarm(0)


def _too_slow(*_: object) -> None:
    raise TimeoutError


def _own_output() -> TextIO:
    """What goes to standard output from now on; what Comet's SDK prints goes nowhere."""
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return out


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The training ends first, and then the pipe.
    own = _own_output()
    os.environ.update(QUIET)
    try:
        main(sys.stdin, own)
    except ModuleNotFoundError:
        print('  warning: Comet needs: pip install "llm-twin[comet]"', file=own, flush=True)
    except Exception as error:
        print(f"  warning: Comet's SDK failed ({type(error).__name__})", file=own, flush=True)
    os._exit(0)  # The SDK's own farewell waits for its server.
