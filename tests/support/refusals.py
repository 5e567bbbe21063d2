"""The message for a study that is refused, for the tests of bad input."""

from pathlib import Path

import pytest
import yaml

from ablation.config.load import load_study
from ablation.config.merging import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def refusal(configs, text):
    """The message for a study whose file is `text`."""
    (configs / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_study({"extends": "bad.yaml"}, configs)
    return str(error.value)


def refused(tmp_path, changes):
    """The message for a study whose file holds these keys; it names the file and a line."""
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(changes))
    with pytest.raises(ConfigError) as caught:
        load_study(changes, files=[file])
    assert "mine.yaml:" in str(caught.value)
    return str(caught.value)
