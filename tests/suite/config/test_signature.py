"""What is read from sources as text is what Python sees, and every word of it is said once."""

import inspect
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object

from diffusion_dfl.suite.config.schema import MADE, SUPPLIED, target_of
from diffusion_dfl.suite.config.signature import REQUIRED, attributes, constant, knobs
from diffusion_dfl.suite.places import CONFIG_DIRECTORY
from diffusion_dfl.training.settings import FIT, TRAIN, TrainingSettings

OPTIONS = [path for group in MADE for path in sorted((CONFIG_DIRECTORY / group).glob("*.yaml"))]
TARGETS = sorted({str(target_of(path.read_text(encoding="utf-8"))) for path in OPTIONS})


@pytest.mark.parametrize(
    "target",
    [
        *TARGETS,
        "diffusion_dfl.training.rule.DecisionRule",
        "diffusion_dfl.training.settings.TrainingSettings",
        "diffusion_dfl.training.experiment.Stages",
    ],
)
def test_arguments_and_defaults_are_those_that_python_sees(target: str) -> None:
    read, seen = knobs(target), {}
    for name, parameter in inspect.signature(get_object(target)).parameters.items():
        if name in read:
            seen[name] = parameter.default
        else:
            seen.update(vars(parameter.default))
    assert list(read) == list(seen)
    for name, knob in read.items():
        default = seen[name]
        if knob.default is REQUIRED:  # A default that is no plain value is nobody's key.
            plain = isinstance(default, str | int | float | bool | None)
            assert default is inspect.Parameter.empty or not plain
        else:
            assert knob.default == (list(default) if isinstance(default, tuple) else default)


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_a_file_says_what_it_chooses_and_repeats_no_default(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    node = yaml.safe_load(text)
    group = path.parent.name
    node = node.get(group, node)
    taken = knobs(str(target_of(text)))
    for key, value in node.items():
        if key not in ("name", "_target_", "defaults"):
            assert key in taken and key not in SUPPLIED[group]
            assert value != taken[key].default or type(value) is not type(taken[key].default)


@pytest.mark.parametrize("target", [name for name in TARGETS if ".predictors." in name])
def test_what_a_class_says_of_itself_is_what_python_sees(target: str) -> None:
    kind = get_object(target)
    for name, value in attributes(target).items():
        assert getattr(kind, name) == value


def test_constants_are_what_they_are_made_from() -> None:
    module = "diffusion_dfl.training.settings"
    assert TrainingSettings(**constant(module, "FIT")) == FIT
    assert TrainingSettings(**constant(module, "TRAIN")) == TRAIN
    with pytest.raises(LookupError, match="has no NOTHING"):
        constant(module, "NOTHING")
    with pytest.raises(LookupError, match="there is no module"):
        knobs("diffusion_dfl.nowhere.Thing")
