"""The W&B dashboard, defined in code: learning curves, cost against memory, the table's numbers."""

from typing import TYPE_CHECKING, Any

from diffusion_dfl.suite.loggers.wandb import COMPARED
from diffusion_dfl.suite.reporting.layout import LAYOUTS, layout_of
from diffusion_dfl.suite.reporting.paper import ROWS

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

#: Name of the view in its project.
NAME = "Diffusion-DFL"


def dashboard(entity: str, project: str = "diffusion-dfl") -> "Workspace":
    """The workspace; ``.save()`` uploads it.

    Args:
        entity: user or team.
        project: where the runs are.

    Raises:
        ImportError: wandb-workspaces is not installed.
    """
    from wandb_workspaces import workspaces

    sections = [section for task in LAYOUTS for section in (_curves(task), _numbers(task))]
    sections.append(_rows())
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=sections,
        runset_settings=workspaces.RunsetSettings(
            groupby=[
                workspaces.Config("task.name"),
                workspaces.Config("model.name"),
                workspaces.Config("grad.name"),
            ],
            order=[workspaces.Ordering(workspaces.Summary("test/task"), ascending=True)],
            pinned_columns=["summary:test/task", "summary:test/rmse_scenario"],
        ),
    )


def _curves(task: str) -> "Section":
    """Validation scores of a task against the epoch: every cell a line with a band over seeds."""
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports import v2 as reports

    panels: list[Any] = [
        reports.LinePlot(
            title=f"{task}: {title}",
            x=f"{stage}/epoch",
            y=[f"{task}/{stage}/validation_score"],
            title_x="epoch",
            title_y="validation score",
            groupby="group",
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
        )
        for stage, title in (("fit", "two-stage fit"), ("train", "decision-focused training"))
    ]
    return workspaces.Section(name=f"{layout_of(task).title}: learning curves", panels=panels)


def _numbers(task: str) -> "Section":
    """Test numbers of a task by cell, and its cost against memory and time."""
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports import v2 as reports

    bars: list[Any] = [
        reports.BarPlot(
            title=f"{task}: {metric}",
            metrics=[f"{task}/test/{metric}"],
            groupby="group",
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
        )
        for metric in COMPARED
    ]
    clouds = [
        reports.ScatterPlot(
            title=f"{task}: {layout_of(task).quantity} against {title}",
            x=reports.SummaryMetric(metric),
            y=reports.SummaryMetric(f"{task}/test/task"),
            log_x=True,
        )
        for metric, title in (
            ("resources/saved_for_backward_bytes", "bytes saved for backward"),
            ("timing/total", "seconds"),
        )
    ]
    return workspaces.Section(name=f"{layout_of(task).title}: results", panels=[*bars, *clouds])


def _rows() -> "Section":
    """The rows of the paper's table in words."""
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports import v2 as reports

    rows = "\n".join(f"- {section}: {name}" for section, name, _, _ in ROWS)
    text = f"Rows of Table 1; `make table1` prints it with intervals.\n\n{rows}"
    return workspaces.Section(name="Table 1", panels=[reports.MarkdownPanel(markdown=text)])
