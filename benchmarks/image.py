"""`invoke build-push` against `docker build && docker push` of the same Dockerfile and context.

Both take turns in one run: cold ones each in an engine and a registry of their own that hold
nothing but the base image; then unchanged sources and a changed line of code in one engine. What is
timed is the whole command of a user. CPU is the client's; the engine's is not in it.

Run as root: ``python benchmarks/image.py --home .twin --base llm-twin-base:test`` with an engine
that has the base image. ``--handbook`` also builds ``handbook.Dockerfile`` and prints its size;
``--markdown`` prints the tables of ``docs/reference/benchmarks.md``. Exit code 1: a bar was missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from flow import machine, markdown, plain  # noqa: E402

from llm_twin.delivery.engine import Engine, find_engine  # noqa: E402
from llm_twin.delivery.reference import Reference  # noqa: E402
from llm_twin.delivery.registry import Registry  # noqa: E402
from llm_twin.delivery.sources import promoted, staged_files  # noqa: E402
from llm_twin.settings import Settings  # noqa: E402
from tests.integration.conftest import started_engine  # noqa: E402
from tests.integration.registry_fixtures import docker_registry  # noqa: E402

OURS, CLI = "invoke build-push", "docker build && docker push"
LIMIT = 900  # seconds
SIZES = (450e6, 170e6)


@dataclass
class Samples:
    """Wall and client's CPU seconds of one command, in the order they were taken."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def words(self, values: list[float]) -> str:
        return f"{median(values):.2f} s ({min(values):.2f} - {max(values):.2f})"


@dataclass(frozen=True)
class Bench:
    """One checkout, one twin, and where both commands deliver to."""

    checkout: Path
    home: Path
    base: str
    network: str
    docker_host: str
    registry: str
    docker: str

    def ours(self) -> list[str]:
        return [str(Path(sys.executable).with_name("invoke")), "build-push"]

    def cli(self) -> list[str]:
        image = f"{self.registry}/cli:latest"
        network = f"--network {self.network} " if self.network else ""
        build = (
            f"{self.docker} build {network}--build-arg BASE={self.base} -t {image} {self.checkout}"
        )
        return ["sh", "-ec", f"{build} && {self.docker} push {image}"]

    def run(self, command: Sequence[str], samples: Samples | None = None) -> None:
        env = {
            **os.environ, "DOCKER_HOST": self.docker_host, "DOCKER_BUILDKIT": "1",
            "PYTHONPATH": str(self.checkout / "src"), "TWIN_HOME": str(self.home),
            "TWIN_BASE_IMAGE": self.base, "TWIN_BUILD_NETWORK": self.network,
            "TWIN_REGISTRY": self.registry,
        }  # fmt: skip
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=self.checkout, env=env, timeout=LIMIT, capture_output=True, text=True
        )
        wall = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{command} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        if samples:
            samples.wall.append(wall)
            samples.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    def change(self, line: str) -> None:
        with (self.checkout / "src" / "llm_twin" / "serving" / "api.py").open("a") as file:
            file.write(f"# {line}\n")


@contextlib.contextmanager
def fresh(folder: Path, options: argparse.Namespace, image: bytes) -> Iterator[Bench]:
    """An engine and a registry that hold nothing but the base image."""
    (folder / "registry").mkdir(exist_ok=True)
    data = tempfile.mkdtemp(dir=folder / "registry")
    with started_engine() as engine, docker_registry(Path(data)) as registry:
        engine.api.load_image(image)
        yield Bench(
            folder / "checkout", folder / "home", options.base, options.network,
            engine.address.host, registry, options.docker,
        )  # fmt: skip


def prepare(folder: Path, home: Path) -> None:
    """A clone of the commit with the staged files beside it, and a state folder of its own."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder / "checkout")], check=True)
    for name in ("models", "embedder"):
        if (home / name).exists():
            shutil.copytree(home / name, folder / "home" / name, symlinks=True)
    settings = Settings.load({"TWIN_HOME": str(folder / "home")})
    for name, source in staged_files(promoted(settings), settings).items():
        target = folder / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def sizes(engine: Engine, bench: Bench, name: str) -> tuple[float, float]:
    """Unpacked bytes in the engine and compressed bytes in the registry."""
    registry = Registry.open(bench.registry)
    ref = Reference.parse(f"{bench.registry}/{name}:latest")
    manifest = registry.manifest(ref)
    image = engine.image(manifest.data["config"]["digest"])
    return image["Size"], registry.verify(ref, manifest.digest)


def cold(folder: Path, options: argparse.Namespace, image: bytes) -> dict[str, Samples]:
    """Each command in an engine that has built nothing yet."""
    found = {OURS: Samples(), CLI: Samples()}
    for number in range(options.cold):
        print(f"cold, {number + 1} of {options.cold}", file=sys.stderr)
        for name in (OURS, CLI) if number % 2 else (CLI, OURS):
            with fresh(folder, options, image) as bench:
                bench.run(bench.ours() if name == OURS else bench.cli(), found[name])
    return found


def warm(
    folder: Path, options: argparse.Namespace, image: bytes
) -> tuple[dict[str, dict[str, Samples]], tuple[float, float]]:
    """Both commands in one engine, and what our image weighs."""
    rows = {kind: {OURS: Samples(), CLI: Samples()} for kind in ("unchanged", "code")}
    with fresh(folder, options, image) as bench:
        commands = {OURS: bench.ours(), CLI: bench.cli()}
        for command in commands.values():
            bench.run(command)
            bench.run(command)
        for number in range(options.repeat):
            print(f"warm, {number + 1} of {options.repeat}", file=sys.stderr)
            for name, command in commands.items():
                # Of its own: what one has built, the other would find in the engine's cache.
                bench.change(f"change {number} for {name}")
                bench.run(command, rows["code"][name])
                bench.run(command, rows["unchanged"][name])
        from llm_twin.delivery.engine import Address

        return rows, sizes(Engine.connect(Address(bench.docker_host)), bench, "llm-twin")


def handbook(folder: Path, options: argparse.Namespace, image: bytes) -> tuple[float, float]:
    """The image in the style of the handbook, as far as it can be built here."""
    context = folder / "handbook"
    (context / "wheels").mkdir(parents=True)
    shutil.copytree(ROOT / "src", context / "src")
    for wheel in options.wheels.glob("torch-*.whl") if options.wheels else ():
        shutil.copy(wheel, context / "wheels")
    with fresh(folder, options, image) as bench:
        name = f"{bench.registry}/handbook:latest"
        network = ["--network", options.network] if options.network else []
        bench.run(
            [options.docker, "build", *network, "--build-arg", f"BASE={options.base}", "-t", name,
             "-f", str(ROOT / "benchmarks" / "handbook.Dockerfile"), str(context)]
        )  # fmt: skip
        bench.run([options.docker, "push", name])
        from llm_twin.delivery.engine import Address

        return sizes(Engine.connect(Address(bench.docker_host)), bench, "handbook")


def table(rows: dict[str, dict[str, Samples]]) -> tuple[list[list[str]], bool]:
    """The lines of the table, and whether every bar was met."""
    times = {name: median(samples.wall) for name, samples in rows["cold"].items()}
    ratio = times[OURS] / times[CLI]
    unchanged, code = (median(rows[kind][OURS].wall) for kind in ("unchanged", "code"))
    bars = {
        "unchanged": (f"≤ 0.5 s wall: {_met(unchanged <= 0.5)}", unchanged <= 0.5),
        "code": (f"≤ 3 s wall: {_met(code <= 3)}", code <= 3),
        "cold": (f"≤ 1.1 times the CLI: {_met(ratio <= 1.1)}", ratio <= 1.1),
    }
    words = {"unchanged": "nothing changed", "code": "a line of code changed", "cold": "cold"}
    lines = [["what", "command", "wall", "client's CPU", "times ours", "bar"]]
    for kind in ("unchanged", "code", "cold"):
        ours = median(rows[kind][OURS].wall)
        for name, samples in rows[kind].items():
            first = name == OURS
            lines.append(
                [
                    words[kind] if first else "",
                    f"`{name}`",
                    samples.words(samples.wall),
                    samples.words(samples.cpu),
                    "" if first else f"{median(samples.wall) / ours:.1f}",
                    bars[kind][0] if first else "",
                ]
            )
    return lines, all(met for _, met in bars.values())


def _met(met: bool) -> str:
    return "met" if met else "not met"


def main() -> int:
    """Measure, print, and say by the exit code whether every bar was met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", type=Path, default=ROOT / ".twin", help="has a promoted twin")
    parser.add_argument("--base", default="python:3.11-slim-bookworm", help="in the engine")
    parser.add_argument("--network", default="", help="of the build, like host")
    parser.add_argument("--docker", default="docker", help="a docker command that has BuildKit")
    parser.add_argument("--cold", type=int, default=3, help="how many cold runs of each")
    parser.add_argument("--repeat", type=int, default=5, help="how many others")
    parser.add_argument("--handbook", action="store_true", help="build that image too")
    parser.add_argument("--wheels", type=Path, help="folder with a build of torch for it")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    image = b"".join(find_engine().api.get_image(options.base))
    show = markdown if options.markdown else plain
    with tempfile.TemporaryDirectory(prefix="twin-bench-", dir="/var/tmp") as text:
        folder = Path(text)
        prepare(folder, options.home.resolve())
        rows, (unpacked, packed) = warm(folder, options, image)
        rows["cold"] = cold(folder, options, image)
        lines, met = table(rows)
        small = unpacked <= SIZES[0] and packed <= SIZES[1]
        bar = f"≤ 450 MB, ≤ 170 MB: {_met(small)}"
        sized = [["image", "unpacked", "compressed", "bar"]]
        sized.append(["ours", f"{unpacked / 1e6:.0f} MB", f"{packed / 1e6:.0f} MB", bar])
        facts = machine()
        note = caption(facts, options) if options.markdown else json.dumps(facts)
        print(show(lines), show(sized), note, sep="\n\n", flush=True)
        if options.handbook:
            big = [f"{size / 1e6:.0f} MB" for size in handbook(folder, options, image)]
            print(show([sized[0][:3], ["handbook's style", *big]]))
    return 0 if met and small else 1


def caption(facts: dict[str, object], options: argparse.Namespace) -> str:
    """What the figures were taken on."""
    described = ", ".join(str(value) for value in facts.values())
    return (
        f"{described}. Medians of {options.repeat}, cold of {options.cold} (smallest - largest), "
        "both in turns."
    )


if __name__ == "__main__":
    raise SystemExit(main())
