"""What is compared: a YAML file, as the runs that it asks for."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from seqdyconv.ranges import Count, Options, Positive, Range, Seed
from seqdyconv.scores.directions import is_lower_better
from seqdyconv.training.arguments import ArgumentsError, from_json

Settings = Mapping[str, Any]

if TYPE_CHECKING:
    Json = Any
else:
    Json = dict[str, Any] | str | None  # a text on the command line, until it is read

EVALUATION = "evaluation_"
"""What the names of metrics of evaluations begin with."""

PLACES = ("output_dir", "resume", "overwrite")
"""Settings that say where a run is, and nothing of what it comes to."""

OWN_SETTINGS = (*PLACES, "seed", "do_predict")
"""Settings of a run that a comparison decides on itself."""

OWN_EVALUATION_SETTINGS = ("model_dir", "evaluation_dir")
"""The same of an evaluation."""


@dataclass
class ComparisonArguments(Options):
    """What is compared, and how."""

    recipe: str = field(metadata={"help": "The recipe whose train.py runs: translation, ..."})
    config: str = field(metadata={"help": "A configuration of the recipe, by its name."})
    variants: Json = field(default=None, metadata={"help": "By name the settings in which each variant differs."})
    metrics: Json = field(default=None, metadata={"help": "By metric of a run the head of its column."})
    title: str = field(default="", metadata={"help": "Title of the table and the picture."})
    settings: Json = field(default=None, metadata={"help": "Settings of all runs."})
    seeds: list[Seed] = field(
        default_factory=lambda: [1, 2, 3], metadata={"help": "Seeds of the runs with the settings that were chosen."}
    )
    baseline: str | None = field(default=None, metadata={"help": "The variant that the others are compared with."})

    evaluation: Json = field(
        default=None,
        metadata={
            "help": "Settings of evaluate.py, with which each of these runs is evaluated once more: a beam search, a "
            "language model. Its metrics are evaluation_test_bleu, ..."
        },
    )

    search_space: Json = field(
        default=None,
        metadata={
            "help": "By setting a list of values to try, all with all; a value that is a mapping stands for several "
            "settings. Without it all variants have the settings of the configuration."
        },
    )
    search_metric: str = field(
        default="validation_loss", metadata={"help": "What a trial is judged by, of the validation set."}
    )
    search_trials: Count | None = field(
        default=None, metadata={"help": "Try so many points, drawn at random, the same for all variants; null: all."}
    )
    search_settings: Json = field(
        default=None, metadata={"help": "Settings of trials: fewer steps, a faster evaluation."}
    )
    search_seed: Seed = field(default=1, metadata={"help": "Seed of the draws and of each trial."})

    output_dir: str = field(default="outputs/comparison", metadata={"help": "Where the runs are."})
    results_dir: str | None = field(
        default=None, metadata={"help": "Where the records, the table and the picture are; null: in output_dir."}
    )
    parallel: Annotated[int, Range(1, 64)] = field(
        default=1, metadata={"help": "Runs side by side, each with its share of the cores."}
    )
    hours: Positive | None = field(default=None, metadata={"help": "Begin no run later than that after the start."})

    def __post_init__(self) -> None:
        for name in ("variants", "metrics", "settings", "evaluation", "search_space", "search_settings"):
            value = from_json(getattr(self, name), name) or {}
            if not isinstance(value, dict):
                raise ArgumentsError(f"{name} must be a mapping, got {value!r:.60}")
            setattr(self, name, value)
        super().__post_init__()
        for name in ("variants", "metrics", "seeds"):
            if not getattr(self, name):
                raise ArgumentsError(f"a comparison needs {name}, got none")
        for name, settings in self.variants.items():
            if not name or set(name) & set('/\\:*?"<>|') or name.startswith((".", "trials")):
                raise ArgumentsError(f"a variant's name becomes that of a folder, which {name!r} can't be")
            if not isinstance(settings, dict):
                raise ArgumentsError(f"the variant {name} must be a mapping of settings to values, got {settings!r}")
        files: dict[str, str] = {}
        for name in self.variants:
            if (other := files.setdefault(file_name(name), name)) != name:
                raise ArgumentsError(f"the variants {other!r} and {name!r} would have the same files: rename one")
        evaluated = next((metric for metric in self.metrics if metric.startswith(EVALUATION)), None)
        if evaluated is not None and not self.evaluation:
            raise ArgumentsError(f"metrics has {evaluated}, which needs evaluation: the settings of evaluate.py")
        if self.baseline is not None and self.baseline not in self.variants:
            raise ArgumentsError(f"baseline must be one of {', '.join(self.variants)}, got {self.baseline!r}")
        if not self.search_metric.startswith("validation_"):
            raise ArgumentsError(
                f"search_metric must be one of the validation set (validation_...), got {self.search_metric!r}"
            )
        if is_lower_better(self.search_metric) is None:
            raise ArgumentsError(f"search_metric must be one whose better end is known, got {self.search_metric!r}")
        for name, values in self.search_space.items():
            if not isinstance(values, list) or not values:
                raise ArgumentsError(f"search_space must have a list of values for {name}, got {values!r}")
        tried = [flat({name: value}) for name, values in self.search_space.items() for value in values]
        given = [*self.variants.values(), self.settings, self.search_settings, *tried]
        own = {name for settings in given for name in settings} & set(OWN_SETTINGS)
        own |= self.evaluation.keys() & set(OWN_EVALUATION_SETTINGS)
        if own:
            raise ArgumentsError(f"{', '.join(sorted(own))} can't be set: a comparison decides on it")
        searched = {name for settings in (self.search_settings, *tried) for name in settings}
        for variant, settings in self.variants.items():
            if both := sorted(settings.keys() & searched):
                raise ArgumentsError(f"the search sets {', '.join(both)} too, in which the variant {variant} differs")
        if len(set(self.seeds)) < len(self.seeds):
            raise ArgumentsError(f"seeds must differ, got {', '.join(map(str, self.seeds))}")

    def points(self) -> list[dict[str, Any]]:
        """The settings that each trial tries; none without a search."""
        space = self.search_space
        grid = [dict(zip(space, values)) for values in itertools.product(*space.values())] if space else []
        if self.search_trials is not None and self.search_trials < len(grid):
            grid = random.Random(self.search_seed).sample(grid, self.search_trials)
        return grid


@dataclass(frozen=True, eq=False)
class Job:
    """A run that a comparison asks for."""

    name: str
    """Its folder, and its place among the results."""
    variant: str
    seed: int
    settings: Settings
    """That differ from the configuration."""
    point: Settings | None = None
    """Of a trial: what is tried."""
    model: "Job | None" = None
    """Of an evaluation: the run whose model it is."""

    @property
    def arguments(self) -> dict[str, Any]:
        """All that train.py is given beside the configuration and the output directory, or evaluate.py."""
        own = {} if self.model else {"seed": self.seed, "do_predict": self.point is None}
        return {**self.settings, **own}


def trials(args: ComparisonArguments) -> list[Job]:
    """The trials, those of all variants in turn."""
    return [
        Job(
            name=f"trials/{variant}/{number}",
            variant=variant,
            seed=args.search_seed,
            settings={**args.settings, **settings, **args.search_settings, **flat(point)},
            point=point,
        )
        for number, point in enumerate(args.points(), start=1)
        for variant, settings in args.variants.items()
    ]


def finals(args: ComparisonArguments, chosen: Mapping[str, Settings]) -> list[Job]:
    """The runs with the settings that were chosen for each variant, all variants of a seed before the next."""
    return [
        Job(
            name=f"{variant}/{seed}",
            variant=variant,
            seed=seed,
            settings={**args.settings, **args.variants[variant], **flat(point)},
        )
        for seed in args.seeds
        for variant, point in chosen.items()
    ]


def evaluations(args: ComparisonArguments, runs: Sequence[Job]) -> list[Job]:
    """The evaluations of some runs; none where there are no settings of one."""
    return [
        Job(f"{job.name}-evaluation", job.variant, job.seed, args.evaluation, model=job)
        for job in runs
        if args.evaluation
    ]


def file_name(name: str) -> str:
    """The name of a run, as that of a file of results.

    Example:
        >>> file_name("dynamic, dilated/1")
        'dynamic,_dilated-1'
    """
    return name.replace("/", "-").replace(" ", "_")


def flat(point: Settings) -> dict[str, Any]:
    """A point's settings, those that a value stands for in its place.

    Example:
        >>> flat({"learning_rate": 1e-3, "positions": {"position_type": "none"}})
        {'learning_rate': 0.001, 'position_type': 'none'}
    """
    settings: dict[str, Any] = {}
    for name, value in point.items():
        settings |= value if isinstance(value, dict) else {name: value}
    return settings
