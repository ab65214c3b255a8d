"""What goes into an image: .dockerignore, the tag and the tar."""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import tarfile

import pytest

from llm_twin.delivery.context import context_tar, source_tag
from llm_twin.errors import ConfigError


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    write(root, {"Dockerfile": "FROM base", "src/app.py": "print()", "README.md": "Hello"})
    return root


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@contextlib.contextmanager
def unprivileged():
    """Nobody special: root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def members(root, **arguments):
    archive = io.BytesIO(b"".join(context_tar(root, **arguments)))
    with tarfile.open(fileobj=archive, mode="r:") as tar:
        return {member.name: (member, tar) for member in tar.getmembers()}


def files(root, **arguments):
    return [name for name, (info, _) in members(root, **arguments).items() if not info.isdir()]


def content(root, name, **arguments):
    info, _ = members(root, **arguments)[name]
    data = b"".join(context_tar(root, **arguments))
    return data[info.offset_data : info.offset_data + info.size].decode()


def ignoring(root, *lines):
    (root / ".dockerignore").write_text("\n".join(lines) + "\n")
    return sorted(set(files(root)) - {".dockerignore", "Dockerfile"})


def test_everything_is_sent_with_normal_owners_modes_and_times(root):
    (root / "src/app.py").chmod(0o600)
    (root / "run").write_text("#!/bin/sh")
    (root / "run").chmod(0o700)

    sent = {name: info for name, (info, _) in members(root).items()}

    assert list(sent) == ["Dockerfile", "README.md", "run", "src", "src/app.py"]
    assert {info.mtime for info in sent.values()} == {315532800}
    assert {(info.uid, info.gid) for info in sent.values()} == {(0, 0)}
    modes = {name: oct(info.mode) for name, info in sent.items()}
    assert modes["src/app.py"] == "0o644"
    assert modes["run"] == modes["src"] == "0o755"
    assert content(root, "README.md") == "Hello"


def test_the_first_header_is_a_plain_one_even_for_long_and_foreign_names(root):
    long = "päth/" + "x" * 150
    write(root, {long: "deep"})

    assert b"".join(context_tar(root))[257:265] == b"ustar  \0"
    assert content(root, long) == "deep"


def test_a_name_that_is_no_text_is_sent_as_it_is(root):
    (root / os.fsdecode(b"caf\xe9")).write_text("latin")

    assert b"caf\xe9\0" in b"".join(context_tar(root))
    assert source_tag(root) != source_tag_without(root, os.fsdecode(b"caf\xe9"))


def source_tag_without(root, name):
    (root / name).unlink()
    return source_tag(root)


def test_links_are_sent_as_links_and_other_things_not_at_all(root):
    (root / "link").symlink_to("src/app.py")
    (root / "folder").symlink_to("/etc")
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "s"))
        sent = members(root)

    links = {name: info.linkname for name, (info, _) in sent.items() if info.issym()}
    assert links == {"link": "src/app.py", "folder": "/etc", "dangling": "nowhere"}
    assert not {"pipe", "s"} & set(sent)


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        (["*.md"], ["a/b/c.md", "a/x.py", "src/app.py"]),
        (["**/*.md"], ["a/x.py", "src/app.py"]),
        (["**.md"], ["a/x.py", "src/app.py"]),
        (["a"], ["README.md", "src/app.py"]),
        (["/a/"], ["README.md", "src/app.py"]),
        (["./a/../a/b"], ["README.md", "a/x.py", "src/app.py"]),
        (["a/**"], ["README.md", "src/app.py"]),
        (["a/*"], ["README.md", "src/app.py"]),
        (["*/b"], ["README.md", "a/x.py", "src/app.py"]),
        (["a/?.py"], ["README.md", "a/b/c.md", "src/app.py"]),
        (["[a-r]*"], ["README.md", "src/app.py"]),
        (["[^a-r]*"], ["a/b/c.md", "a/x.py"]),
        (["*", "!src"], ["src/app.py"]),
        (["*", "!a/b/*.md"], ["a/b/c.md"]),
        (["a", "!**/*.md"], ["README.md", "a/b/c.md", "src/app.py"]),
        (["*", "!a", "a/b"], ["a/x.py"]),
        (["# a", "", "  src  "], ["README.md", "a/b/c.md", "a/x.py"]),
        (["."], ["README.md", "a/b/c.md", "a/x.py", "src/app.py"]),
        (["**"], []),
        (["**/b/**"], ["README.md", "a/x.py", "src/app.py"]),
        ([r"READM\E.md"], ["a/b/c.md", "a/x.py", "src/app.py"]),
        (["src/app.p", "rc", "(a)", "a\\"], ["README.md", "a/b/c.md", "a/x.py", "src/app.py"]),
    ],
)
def test_dockerignore_means_what_it_means_to_docker(root, lines, left):
    write(root, {"a/b/c.md": "", "a/x.py": ""})

    assert ignoring(root, *lines) == left


def test_the_dockerfile_is_always_sent_and_its_own_ignore_file_counts_first(root):
    write(root, {"deploy/Dockerfile": "FROM x", ".dockerignore": "src\n"})
    write(root, {"deploy/Dockerfile.dockerignore": "*\n!README.md\n"})

    assert files(root, dockerfile="deploy/Dockerfile") == ["README.md", "deploy/Dockerfile"]


def test_a_byte_order_mark_is_no_part_of_the_first_pattern(root):
    (root / ".dockerignore").write_bytes(b"\xef\xbb\xbfsrc\r\n")

    assert "src/app.py" not in files(root)


@pytest.mark.parametrize("line", ["[a", "!", "a[z-a]"])
def test_a_line_that_is_no_pattern_is_named(root, line):
    (root / ".dockerignore").write_text(f"src\n{line}\n")

    with pytest.raises(ConfigError, match=r"is no pattern: .*\.dockerignore:2\. Correct or delete"):
        source_tag(root)


def test_a_fresh_clone_has_the_same_tag(root, tmp_path):
    write(root, {"päth/ü.txt": "ü", ".dockerignore": ".git\n"})
    (root / "link").symlink_to("README.md")
    (root / "run").write_text("")
    (root / "run").chmod(0o755)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], cwd=root, check=True, timeout=30)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(root), str(clone)], check=True, timeout=30)
    (root / "empty").mkdir()
    os.utime(root / "README.md", (1, 1))
    (root / "README.md").chmod(0o666)

    assert source_tag(clone) == source_tag(root)
    assert b"".join(context_tar(clone)) == b"".join(context_tar(root))


def test_whatever_decides_the_image_changes_the_tag(root, tmp_path):
    other = tmp_path / "other"
    write(tmp_path, {"other": "x"})
    base = source_tag(root)
    tags = {
        base,
        source_tag(root, build_args={"A": "1"}),
        source_tag(root, build_args={"A": "2"}),
        source_tag(root, target="build"),
        source_tag(root, platform="linux/arm64"),
        source_tag(root, base_digest="sha256:1"),
        source_tag(root, extra_files={"bundle/x": other}),
        source_tag(root, extra_files={"bundle/y": other}),
    }
    (root / "README.md").chmod(0o755)
    tags.add(source_tag(root))
    (root / "README.md").unlink()
    (root / "README.md").symlink_to("Hello")
    tags.add(source_tag(root))
    (root / "README.md").unlink()
    tags.add(source_tag(root))
    shutil.copy(root / "src/app.py", root / "README.md")
    tags.add(source_tag(root))
    write(root, {"x/Dockerfile": "FROM base"})
    tags |= {source_tag(root), source_tag(root, dockerfile="x/Dockerfile")}

    assert len(tags) == 14
    assert base.startswith("src-")
    assert len(base) == len("src-") + 64


def test_what_is_ignored_does_not_change_the_tag(root):
    (root / ".dockerignore").write_text(".env\n")
    before = source_tag(root)
    (root / ".env").write_text("TOKEN=1")

    assert source_tag(root) == before


def test_files_from_elsewhere_come_in_under_their_own_name_and_win(root, tmp_path):
    write(tmp_path, {"models/v1/index.db": "new", "models/v1/data/.env": "kept", "one": "1"})
    (tmp_path / "models/production").symlink_to("v1")
    write(root, {"bundle/old.db": "old", ".dockerignore": "**/.env\nbundle\n"})
    extra = {"bundle": tmp_path / "models/production", "src/app.py": tmp_path / "one"}

    assert [name for name in files(root, extra_files=extra) if name != ".dockerignore"] == [
        "Dockerfile",
        "README.md",
        "bundle/data/.env",
        "bundle/index.db",
        "src/app.py",
    ]
    assert content(root, "src/app.py", extra_files=extra) == "1"


def test_missing_parts_are_named(root, tmp_path):
    with pytest.raises(ConfigError, match=r"no Dockerfile: .*/root/Containerfile"):
        source_tag(root, dockerfile="Containerfile")
    with pytest.raises(ConfigError, match=r"is not there: .*/nowhere"):
        source_tag(root, extra_files={"bundle": tmp_path / "nowhere"})


def test_a_file_that_vanishes_or_shrinks_meanwhile_is_an_error(root):
    write(root, {"z1": "x" * 600_000, "z2": "x"})
    pieces = context_tar(root)
    next(pieces)
    (root / "z2").unlink()
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file.*: .*/z2\. Make it"):
        list(pieces)

    pieces = context_tar(root)
    next(pieces)
    os.truncate(root / "z1", 10)
    with pytest.raises(ConfigError, match=r"changed while it was read: .*/z1\. Try again"):
        list(pieces)


def test_a_folder_or_file_that_may_not_be_read_is_named(root, tmp_path):
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    write(root, {"locked/a": "", "secret": ""})
    (root / "secret").chmod(0)
    with unprivileged(), pytest.raises(ConfigError, match=r"Permission denied.*: .*/secret"):
        source_tag(root)
    (root / "locked").chmod(0)
    with unprivileged(), pytest.raises(ConfigError, match=r"Permission denied.*: .*/locked"):
        source_tag(root)
    (root / "locked").chmod(0o755)
