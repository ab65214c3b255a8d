"""The projects that the flow benchmark gives to each engine, written as its own users would.

Every stage appends a line to the file ``ledger`` beside it, so that a run can be checked.
"""

from __future__ import annotations

from itertools import pairwise

from flow_runs import OURS, Project

MARK = """
def mark():
    with open("ledger", "a") as file:
        file.write("x\\n")
"""
OURS_HEAD = """
from pathlib import Path

from llm_twin.flow import Registry
from llm_twin.flow.tasks import collection

registry = Registry()
"""
OURS_TAIL = "\nnamespace = collection(registry, Path(__file__).resolve().parent)\n"

# Program, file and text for each tool. A chain of stages that add their line and do nothing else,
# run every time; LENGTH is how many.
CHAINS = {
    OURS: (
        "invoke everything",
        "tasks.py",
        f"""{OURS_HEAD}{MARK}

def declare(name, before):
    @registry.stage(name=name, needs=before)
    def run():
        mark()


names = [f"s{{number}}" for number in range(LENGTH - 1)] + ["everything"]
for number, name in enumerate(names):
    declare(name, names[number - 1 : number] if number else [])
{OURS_TAIL}""",
    ),
    "nox": (
        "nox --allow-parallel -j 2",
        "noxfile.py",
        f"""import nox
{MARK}

for number in range(LENGTH):
    @nox.session(name=f"s{{number}}", python=False, requires=[f"s{{number - 1}}"][: number])
    def run(session):
        mark()
""",
    ),
    "metaflow": (
        "python chain.py --no-pylint run",
        "chain.py",
        f"""from metaflow import FlowSpec, step
{MARK}

class Chain(FlowSpec):
STEPS

if __name__ == "__main__":
    Chain()
""",
    ),
    "dbos": (
        "python chain.py",
        "chain.py",
        f"""from dbos import DBOS

DBOS(
    config={{
        "name": "chain",
        "system_database_url": "sqlite:///dbos.db",
        "run_admin_server": False,
        "log_level": "WARNING",
        "notification_listener_polling_interval_sec": 0.01,
    }}
)
{MARK}

stage = DBOS.step()(mark)


@DBOS.workflow()
def run():
    for _ in range(LENGTH):
        stage()


DBOS.launch()
run()
DBOS.destroy()
""",
    ),
    "prefect": (
        "python chain.py",
        "chain.py",
        f"""from prefect import flow, task
{MARK}

stage = task(mark)


@flow
def run():
    for _ in range(LENGTH):
        stage()


if __name__ == "__main__":
    run()
""",
    ),
    "zenml": (
        "python chain.py",
        "chain.py",
        f"""from zenml import pipeline, step
{MARK}

@step(enable_cache=False)
def stage(before: int) -> int:
    mark()
    return before + 1


@pipeline
def run():
    made = 0
    for _ in range(LENGTH):
        made = stage(made)


if __name__ == "__main__":
    run()
""",
    ),
}
COPY = f"""{MARK}

def copy(number):
    with open(f"in/{{number}}.txt") as source, open(f"out/{{number}}.txt", "w") as target:
        target.write(source.read())
    mark()


def needed(number):
    return list(range(1, 11)) if number == 11 else [0] if number else []

"""

# Twelve cached stages on three levels, 1, 10 and 1, each with a file in and a file out.
GRAPHS = {
    OURS: (
        "invoke s11",
        "tasks.py",
        f"""{OURS_HEAD}{COPY}
def declare(number):
    @registry.stage(
        name=f"s{{number}}",
        needs=[f"s{{before}}" for before in needed(number)],
        inputs=[f"in/{{number}}.txt"],
        outputs=[f"out/{{number}}.txt"],
        cached=True,
    )
    def run():
        copy(number)


for number in range(12):
    declare(number)
{OURS_TAIL}""",
    ),
    "doit": (
        "doit",
        "dodo.py",
        f"""{COPY}
def task_s():
    for number in range(12):
        yield {{
            "name": str(number),
            "actions": [(copy, [number])],
            "file_dep": [f"in/{{number}}.txt", *(f"out/{{one}}.txt" for one in needed(number))],
            "targets": [f"out/{{number}}.txt"],
        }}
""",
    ),
    "snakemake": (
        "snakemake --cores 2",
        "Snakefile",
        """
LINE = "cat {input[0]} > {output}; echo x >> ledger"

rule last:
    input: "in/11.txt", expand("out/{number}.txt", number=range(1, 11))
    output: "out/11.txt"
    shell: LINE

rule first:
    input: "in/0.txt"
    output: "out/0.txt"
    shell: LINE

rule between:
    input: "in/{number}.txt", "out/0.txt"
    output: "out/{number}.txt"
    wildcard_constraints: number="[1-9]|10"
    shell: LINE
""",
    ),
    "zenml": (
        "python graph.py",
        "graph.py",
        f"""from pathlib import Path

from zenml import pipeline, step
{COPY}
@step
def stage(number: int, text: str) -> str:
    copy(number)
    return text


@pipeline
def run():
    for number in range(12):
        text = Path(f"in/{{number}}.txt").read_text()
        after = [f"s{{before}}" for before in needed(number)]
        stage(number, text, id=f"s{{number}}", after=after)


if __name__ == "__main__":
    run()
""",
    ),
}

# Four independent stages that start the command `sleep 1`, four at a time.
SLEEP = "sleep 1; echo x >> ledger"
SLEEPS = {
    OURS: (
        "invoke everything --jobs 4",
        "tasks.py",
        f"""import subprocess
{OURS_HEAD}

def sleep():
    subprocess.run(["sh", "-c", "{SLEEP}"], check=True)


for name in "abcd":
    registry.stage(name=name)(sleep)


@registry.stage(needs=list("abcd"))
def everything():
    pass

{OURS_TAIL}""",
    ),
    "poe": (
        "poe everything",
        "pyproject.toml",
        f"""[tool.poe]
executor = "simple"

[tool.poe.tasks]
a = {{ shell = "{SLEEP}" }}
b = {{ shell = "{SLEEP}" }}
c = {{ shell = "{SLEEP}" }}
d = {{ shell = "{SLEEP}" }}
everything = {{ parallel = ["a", "b", "c", "d"] }}
""",
    ),
    "doit": (
        "doit -n 4",
        "dodo.py",
        f"""
def task_sleep():
    for name in "abcd":
        yield {{"name": name, "actions": ["{SLEEP}"]}}
""",
    ),
    "nox": (
        "nox --allow-parallel -j 4",
        "noxfile.py",
        f"""import nox

for name in "abcd":
    @nox.session(name=name, python=False)
    def run(session):
        session.run("sh", "-c", "{SLEEP}")
""",
    ),
    "invoke": (
        "invoke a b c d",
        "tasks.py",
        f"""from invoke import Collection, Task


def sleep(c):
    c.run("{SLEEP}")


namespace = Collection(*(Task(sleep, name=name) for name in "abcd"))
""",
    ),
}


def chain(tool: str, length: int) -> Project:
    """The tool's chain of that many stages."""
    command, name, text = CHAINS[tool]
    names = ["start", *(f"s{number}" for number in range(length - 2)), "end"]
    steps = "".join(
        f"    @step\n    def {one}(self):\n        mark()\n        self.next(self.{following})\n\n"
        for one, following in pairwise(names)
    )
    steps += "    @step\n    def end(self):\n        mark()\n"
    return Project(
        command, {name: text.replace("LENGTH", str(length)).replace("STEPS", steps)}, length
    )


def graph(tool: str) -> Project:
    """The tool's twelve cached stages."""
    command, name, text = GRAPHS[tool]
    inputs = {f"in/{number}.txt": f"text {number}\n" for number in range(12)}
    return Project(command, {name: text, **inputs, "out/.keep": ""}, 12, cached=True)


def sleep(tool: str) -> Project:
    """The tool's four sleeping stages."""
    command, name, text = SLEEPS[tool]
    return Project(command, {name: text}, 4)
