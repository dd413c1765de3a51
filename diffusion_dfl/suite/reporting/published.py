"""Other people's costs on the days of ``task=restaurant``.

Source: d3group/A-structured-evaluation-of-data-driven-newsvendor-approaches, Results/best_results_yaz.csv:
an item, a service level and a set of features each, hyperparameters by a grid search with ten folds of
the first 75 % of the days, cost of a day on the last 25 %. Here is the mean over the seven items. Its lag
features end with the target day and so know the demand (:mod:`diffusion_dfl.data.restaurant`); what has
them is no yardstick for decisions made the day before.
"""

from collections.abc import Iterable, Mapping
from typing import Any

#: The levels of the study.
LEVELS = (0.9, 0.75, 0.5, 0.25, 0.1)

#: The sample average of the days before the test, which has no features.
SAMPLE_AVERAGE = (14.457, 24.073, 27.807, 21.168, 11.574)

MODELS = {
    "linear": "linear rule",
    "tree": "decision-tree weights",
    "forest": "random-forest weights",
    "neighbours": "nearest-neighbour weights",
    "kernel": "kernel weights",
    "network": "network of the cost",
}

#: (features, model) -> mean cost at each of `LEVELS`.
COSTS: dict[tuple[str, str], tuple[float, ...]] = {
    ("calendar", "linear"): (14.621, 22.215, 25.859, 20.411, 12.007),
    ("calendar", "tree"): (13.094, 22.961, 27.591, 21.255, 11.993),
    ("calendar", "forest"): (13.221, 21.782, 26.290, 20.465, 11.625),
    ("calendar", "neighbours"): (12.610, 20.712, 25.282, 19.562, 11.002),
    ("calendar", "kernel"): (14.370, 21.998, 26.919, 20.560, 11.037),
    ("calendar", "network"): (13.878, 23.180, 27.276, 21.528, 11.574),
    ("lag", "linear"): (12.125, 19.028, 23.062, 18.181, 9.417),
    ("lag", "tree"): (10.825, 18.035, 22.502, 19.398, 11.372),
    ("lag", "forest"): (9.460, 15.994, 20.031, 16.365, 9.262),
    ("lag", "neighbours"): (10.827, 18.859, 23.691, 18.934, 10.246),
    ("lag", "kernel"): (10.802, 18.459, 23.023, 18.307, 10.107),
    ("lag", "network"): (11.056, 18.558, 22.996, 21.142, 11.223),
    ("special", "linear"): (11.506, 18.888, 23.321, 18.929, 10.627),
    ("special", "tree"): (10.382, 18.098, 22.514, 18.763, 10.849),
    ("special", "forest"): (9.447, 15.859, 20.015, 16.253, 9.383),
    ("special", "neighbours"): (10.772, 19.268, 24.266, 19.544, 10.290),
    ("special", "kernel"): (10.581, 18.855, 23.429, 18.836, 10.391),
    ("special", "network"): (11.194, 18.589, 23.523, 19.279, 11.493),
}

#: What a reader must know of the rows.
NOTE = (
    "Rows `Published` are other people's (diffusion_dfl/suite/reporting/published.py): same days, same "
    "costs, a model an item. Those with † have lag features that contain the demand of the target day "
    "itself; nobody can decide with them the day before."
)


def published(task: str, config: Mapping[str, Any]) -> dict[str, float]:
    """Title -> published cost for a task's configuration; none where it is not that of the study.

    Args:
        task: as in ``task=``.
        config: key -> value.
    """
    level = config.get("task.service_level")
    if task != "restaurant" or level not in LEVELS or config.get("task.storage") is not None:
        return {}
    place = LEVELS.index(level)
    found = {"Published, sample average": SAMPLE_AVERAGE[place]}
    for (features, model), costs in COSTS.items():
        if features == "calendar":
            found[f"Published, calendar: {MODELS[model]}"] = costs[place]
        if features == "special":
            found[f"Published, all features†: {MODELS[model]}"] = costs[place]
    return found


def published_of(task: str, configs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """:func:`published` of runs whose configurations have the same; nothing of others."""
    found = [published(task, config) for config in configs]
    return found[0] if found and all(one == found[0] for one in found) else {}
