"""The wheel in an empty environment, and the command `jaxreid`."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import jaxreid
from jaxreid.__main__ import COMMANDS, HELP, main

REPOSITORY = Path(__file__).parent.parent
UV, PIP = (sys.executable, "-m", "uv"), (sys.executable, "-m", "pip")
TINY = (
    *("--config.model.dim=16", "--config.model.backbone_layers=1,1,1,1"),
    *("--config.model.backbone_growth=4", "--config.model.backbone_stem=8"),
    *("--config.data.image_size=64,32", "--config.data.num_ids=4"),
    *("--config.data.num_instances=2", "--config.data.source=memory"),
    *("--config.train.steps=3", "--config.eval.batch_size=16"),
)


def call(*command, cwd=REPOSITORY, **environment):
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


def test_the_help_fits_a_screen_and_every_command_is_there():
    lines = HELP.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for name, (module, text) in COMMANDS.items():
        assert f"  {name:<13}{text}" in lines
        spec = importlib.util.find_spec(module)
        assert spec, module
        assert not spec.submodule_search_locations or importlib.util.find_spec(f"{module}.__main__")


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["--help"], 0, HELP, ""),
        (["--version"], 0, f"jaxreid {jaxreid.__version__}", ""),
        ([], 2, "", HELP),
        (["trian", "--help"], 2, "", "'trian': no such command; did you mean 'train'?"),
        (["--config=x"], 2, "", "'--config=x': no such command (jaxreid --help lists them)"),
    ],
)
def test_without_a_command(arguments, code, out, err, capsys):
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert out in printed.out
    assert bool(out) == bool(printed.out)
    assert err in printed.err
    assert bool(err) == bool(printed.err)


def test_the_help_waits_for_no_library():
    names = "jax", "numpy", "matplotlib", "absl"
    code = f"""
import sys
sys.argv = ["jaxreid", "--help"]
from jaxreid.__main__ import main
main()
assert not sys.modules.keys() & set({names})
"""
    done = call(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == HELP + "\n"


def test_a_command_gets_its_flags_and_gives_its_code(tmp_path):
    done = call(sys.executable, "-m", "jaxreid", "synthetic", f"--root={tmp_path}", "--height=-1")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "jaxreid: error: Spec.height must be at least 32 pixels, not -1"
    ]


def test_help_with_a_config_shows_every_key():
    train = (sys.executable, "-m", "jaxreid", "train")
    done = call(*train, "--config=duatm_market:tuned", "--help")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Trains a config, scores it,")
    assert {"--config.data.image_size=256,128", "--config.model.drop=0.4"} <= set(lines)
    assert any(line.startswith("  --workdir: ") for line in lines)


# ---------------------------------------------------------------------------------------------
# The wheel
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # As the Makefile: pip where uv cannot.
    call(*UV, "build", "--wheel", "--quiet", f"--out-dir={folder}", REPOSITORY)
    if not list(folder.glob("*.whl")):
        done = call(*PIP, "wheel", "--no-deps", "--quiet", f"--wheel-dir={folder}", REPOSITORY)
        assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of the programs of an environment that holds the wheel, and what it asks for."""
    folder = tmp_path_factory.mktemp("environment")
    programs, constraints = folder / "bin", f"--constraint={REPOSITORY / 'constraints.txt'}"
    call(sys.executable, "-m", "venv", folder)
    into = f"--python={programs / 'python'}"
    if call(*UV, "pip", "install", "--quiet", into, constraints, wheel).returncode != 0:
        done = call(programs / "python", *PIP[1:], "install", "--quiet", constraints, wheel)
        assert done.returncode == 0, done.stderr
    return programs


@pytest.mark.slow
def test_what_the_wheel_holds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = f"jaxreid-{jaxreid.__version__}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{about}/METADATA").decode())
    assert metadata["Version"] == jaxreid.__version__
    assert {"data", "hf", "search"} <= set(metadata.get_all("Provides-Extra"))
    assert f"{about}/licenses/LICENSE" in names
    assert {name.split("/")[0] for name in names} == {"jaxreid", about}
    here = [p for p in (REPOSITORY / "jaxreid").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    configs = [path for kind in ("*.py", "*.toml") for path in (REPOSITORY / "configs").rglob(kind)]
    assert {name for name in names if name.startswith("jaxreid/")} == {
        *(path.relative_to(REPOSITORY).as_posix() for path in here),
        *(f"jaxreid/{path.relative_to(REPOSITORY).as_posix()}" for path in configs),
    }
    assert "jaxreid/py.typed" in names


@pytest.mark.slow
def test_from_an_empty_folder_in_an_empty_environment(installed, market, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()

    def command(*flags):
        environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        return call(installed / "jaxreid", *flags, cwd=empty, **environment)

    def fails(*flags):
        done = command(*flags)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        return line.removeprefix("jaxreid: error: ")

    done = command("--version")
    assert (done.stdout, done.stderr) == (f"jaxreid {jaxreid.__version__}\n", "")
    done = command("train", "--config=duatm_market:help")
    assert done.returncode == 0, done.stderr
    assert ":tuned " in done.stdout
    train = ("train", "--config=duatm_synthetic", f"--config.data.root={market}")
    missing = "TensorFlow is not installed, which reads the files; install the extra 'data' "
    assert fails(*train, "--config.data.source=files", "--workdir=run").startswith(missing)
    prepare = ("prepare", "--name=synthetic", f"--root={market}")
    assert "install the extra 'data'" in fails(*prepare, "--out=prepared")
    assert not list(empty.iterdir())

    photo = min((market / "query").iterdir())
    search = ("search", "--workdir=run", f"--query={photo}", f"--gallery={photo.parent}")
    for flags, result in (
        ((*train, *TINY, "--workdir=run"), "run/report.md"),
        (search, "run/search/ranked.html"),
        (("export", "--workdir=run", "--out=network.stablehlo"), "network.stablehlo"),
    ):
        done = command(*flags)
        assert done.returncode == 0, done.stderr
        assert (empty / result).is_file()
    left = {path.name for path in empty.iterdir()}
    assert left == {"run", "network.stablehlo", "network.json"}


@pytest.mark.slow
def test_every_module_needs_no_more_than_the_wheel_asks_for(installed, tmp_path):
    code = """
import importlib, pkgutil, jaxreid
names = {module.name for module in pkgutil.walk_packages(jaxreid.__path__, "jaxreid.")}
extras = {"data.builders", "onnx_export", "onnx_graph", "onnx_int8"}
for name in names - {f"jaxreid.{extra}" for extra in extras}:
    importlib.import_module(name)
print(len(names))
"""
    done = call(installed / "python", "-W", "error", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    modules = (REPOSITORY / "jaxreid").rglob("*.py")
    assert int(done.stdout) == len(list(modules)) - 1  # All but jaxreid itself.


@pytest.mark.slow
def test_a_users_types_are_checked(installed, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "from jaxreid.command import load_config\n"
        'size: tuple[int, int] = load_config("duatm_market").data.image_size\n'
        "name: str = size\n"
    )
    mypy = (sys.executable, "-m", "mypy", f"--python-executable={installed / 'python'}")
    done = call(*mypy, "--config-file=", script.name, cwd=tmp_path)
    first, *rest = done.stdout.splitlines()
    assert first.startswith("mine.py:3: error: Incompatible types in assignment (expression has")
    assert rest == ["Found 1 error in 1 file (checked 1 source file)"]
