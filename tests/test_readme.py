"""What the README and its list of claims tell people to type has to work."""

import re
from pathlib import Path

from jaxreid.command import load_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CLAIMS = (ROOT / "docs" / "claims.md").read_text()


def test_the_example_of_single_functions_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    [example] = [block for block in blocks if "dual_attention_distmat" in block]
    exec(example, {})
    loss, rank1, mean_ap = map(float, capsys.readouterr().out.split())
    assert loss > 0
    assert 0 <= rank1 <= 1
    assert 0 <= mean_ap <= 1


def test_its_configs_variants_and_tests_exist():
    configs = re.findall(r"--config=(\S+?\.py)(?::(\w+))?[\s`]", README)
    assert len(configs) >= 3
    for path, variant in configs:
        if variant != "help":
            load_config(Path(path), *filter(None, [variant]))
    paths = re.findall(r"tests/[\w/.]+", README + CLAIMS)
    assert len(paths) >= 8
    assert all(Path(path).exists() for path in paths)


def test_every_override_is_a_key():
    config = load_config(Path("configs/duatm_market.py"))
    keys = re.findall(r"--config\.(\w+)\.(\w+)=", README)
    assert len(keys) >= 3
    for section, field in keys:
        assert hasattr(getattr(config, section), field)


def test_the_files_that_it_links_to_exist():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) >= 3
    headings = {
        "#" + re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    assert all(link in headings or (ROOT / link.partition("#")[0]).exists() for link in links)
