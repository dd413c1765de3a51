"""Upload what ``logger=wandb`` wrote offline, and with --dashboard the dashboard that shows it.

    python scripts/wandb_sync.py                               every offline run below results/runs
    python scripts/wandb_sync.py --dashboard --entity my-team  and the dashboard

A key is read from WANDB_API_KEY or from `wandb login`. Runs keep their ids, so a second upload adds
nothing twice; tables and figures of results/ go up as an artifact of a run of their own.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from diffusion_dfl.extras import installing
from diffusion_dfl.suite.cli import fail
from diffusion_dfl.suite.pipes import piped


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--project", default="diffusion-dfl")
    parser.add_argument("--entity", help="user or team; your own without it")
    parser.add_argument("--dashboard", action="store_true", help="upload the dashboard too")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded")
    arguments = parser.parse_args()
    try:
        import wandb
    except ImportError:
        return fail(f"the package wandb is not installed; `{installing('wandb')}` adds it")
    folders = sorted(arguments.results.glob("runs/**/wandb/offline-run-*"))
    for folder in folders if arguments.dry_run else ():
        print(folder)
    if arguments.dry_run:
        print(f"{len(folders)} offline runs")
        return 0
    if not folders and not arguments.dashboard:
        return fail(
            f"no offline runs below {arguments.results / 'runs'}; train with logger=wandb", 1
        )
    if not wandb.api.api_key:
        return fail("W&B has no key; set WANDB_API_KEY or run `wandb login`")
    failed = [folder for folder in folders if not _sync(folder, arguments)]
    print(f"{len(folders) - len(failed)} of {len(folders)} runs uploaded")
    for folder in failed:
        print(f"not uploaded: {folder}", file=sys.stderr)
    if not failed and folders:
        _report(arguments)
    if arguments.dashboard and not failed:
        from diffusion_dfl.suite.reporting.dashboard import dashboard

        entity = arguments.entity or wandb.Api().default_entity
        if not entity:
            return fail("W&B knows no user or team of this key; name one with --entity")
        view = dashboard(entity, arguments.project)
        view.save()
        print(view.url)
    return 1 if failed else 0


def _sync(folder: Path, arguments: argparse.Namespace) -> bool:
    command = [sys.executable, "-m", "wandb", "sync", "--project", arguments.project]
    if arguments.entity:
        command += ["--entity", arguments.entity]
    return subprocess.run([*command, str(folder)], check=False).returncode == 0


def _report(arguments: argparse.Namespace) -> None:
    """Tables and figures as an artifact."""
    import wandb

    folders = [arguments.results / name for name in ("tables", "figures")]
    with wandb.init(
        project=arguments.project,
        entity=arguments.entity,
        job_type="table",
        name="tables and figures",
        settings=wandb.Settings(console="off", x_disable_meta=True, x_disable_machine_info=True),
    ) as run:
        artifact = wandb.Artifact("tables-and-figures", type="report")
        for folder in folders:
            if folder.is_dir():
                artifact.add_dir(str(folder), name=folder.name)
        run.log_artifact(artifact)


if __name__ == "__main__":
    sys.exit(piped(main))
