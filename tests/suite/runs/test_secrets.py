"""What lets in a user is in no file of a run."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.compose import identify
from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.publishing import content_of
from diffusion_dfl.suite.runs.directory import stored_config
from diffusion_dfl.suite.runs.run import run
from tests.configs import composed
from tests.suite.runs.test_deployed import SMALL

USER, PASSWORD, TOKEN = "mallory", "hunter2-secret", "t0ken-planted"
_REAL = [word for word in SMALL if not word.startswith("data")]
URL = f"https://{USER}:{PASSWORD}@example.org:8443/data?token={TOKEN}&day=1"


def _told(root: Path) -> str:
    """Everything in every file."""
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) > 3
    names = " ".join(path.as_posix() for path in files)
    return names + " ".join(path.read_bytes().decode("latin-1") for path in files)


def _check(told: str) -> None:
    for secret in (USER, PASSWORD, TOKEN):
        assert secret not in told


@pytest.mark.skipif(
    "DIFFUSION_DFL_DATA" not in os.environ, reason="needs the loads in DIFFUSION_DFL_DATA"
)
@pytest.mark.parametrize(
    ("given", "logger"),
    [
        ("${oc.env:PLANTED_URL}", ""),
        *(pytest.param(URL, logger, marks=pytest.mark.slow) for logger in ("wandb", "tensorboard")),
    ],
)
@pytest.mark.slow
def test_a_finished_run_holds_no_secret(
    given: str, logger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_URL", URL)
    words = [*_REAL, "model=gaussian", "grad=two_stage", f"output.root={tmp_path}"]
    if logger:
        pytest.importorskip(logger)
        words.append(f"logger={logger}")
    config = composed(words)
    OmegaConf.update(config, "data.url", given)
    run(config)
    _check(_told(tmp_path))
    path = tmp_path / "runs" / identify(config).path
    _check(str(content_of(path)))
    assert len(collect(tmp_path).records) == 1
    kept = OmegaConf.load(path / "config.yaml")
    stored = OmegaConf.to_container(kept)
    assert isinstance(stored, dict)
    wanted = given if given.startswith("$") else "https://example.org:8443/data"
    assert stored["data"]["url"] == wanted
    # Read again the name of a variable is no value, and asks for none.
    monkeypatch.delenv("PLANTED_URL")
    read = stored_config(path / "config.yaml", None)
    assert read.data.url in (None, wanted)


@pytest.mark.parametrize("given", [URL, "${oc.env:PLANTED_URL}"])
def test_a_download_that_fails_tells_no_secret(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_URL", URL.replace("example.org:8443", "localhost:9"))
    monkeypatch.delenv("DIFFUSION_DFL_DATA", raising=False)
    config = composed([*_REAL, "model=gaussian", "grad=two_stage", f"output.root={tmp_path}"])
    OmegaConf.update(config, "data.url", given.replace("example.org:8443", "localhost:9"))
    OmegaConf.update(config, "data.directory", str(tmp_path / "data"))
    with pytest.raises(UserError, match=r"data\.url=.*cannot be reached") as refusal:
        run(config)
    _check(str(refusal.value))
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(
    "DIFFUSION_DFL_DATA" not in os.environ, reason="needs the loads in DIFFUSION_DFL_DATA"
)
def test_the_traceback_of_a_failed_run_tells_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*parts: object) -> None:
        raise OSError(f"{URL} cannot be reached")

    monkeypatch.setattr("diffusion_dfl.suite.runs.execution.learn", fail)
    config = composed([*_REAL, "model=gaussian", "grad=two_stage", f"output.root={tmp_path}"])
    OmegaConf.update(config, "data.url", URL)
    with pytest.raises(OSError, match="cannot be reached"):
        run(config)
    told = _told(tmp_path)
    assert "cannot be reached" in told
    _check(told)
