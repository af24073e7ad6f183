"""How a training went: losses, metrics and learning rate over its steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqdyconv.pictures.figures import new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_learning_curves(
    log_history: Sequence[Mapping[str, Any]],
    path: str | Path | None = None,
    title: str = "",
    metrics: Mapping[str, str] | None = None,
    training_label: str = "training",
    loss_label: str = "loss (nats per token)",
) -> "Figure":
    """Draw losses, metrics of the validation set and the learning rate over the steps of a training, one panel each.

    Args:
        log_history: ``trainer.state.log_history``.
        path: a file to write, of a type that its suffix names, such as ``.pdf``, ``.svg`` or ``.png``.
        title: above the picture.
        metrics: name in the log → label of its axis, such as ``{"eval_bleu": "validation BLEU"}``. A name that the log
            doesn't have gets no panel.
        training_label: legend of the training loss, which may be another function than the validation loss.
        loss_label: axis of the losses.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        ImportError: matplotlib is not installed.
        InputError: a path that cannot be written.

    Example:
        >>> from seqdyconv.pictures import plot_learning_curves
        >>> log = [{"step": 1, "loss": 2.0, "learning_rate": 0.1}, {"step": 1, "eval_loss": 2.1, "eval_bleu": 3.0}]
        >>> figure = plot_learning_curves(log, title="A run", metrics={"eval_bleu": "validation BLEU"})
        >>> [panel.get_ylabel() for panel in figure.axes]
        ['loss (nats per token)', 'validation BLEU', 'learning rate']
    """

    def series(name: str) -> tuple[list[int], list[float]]:
        rows = [(row["step"], row[name]) for row in log_history if name in row]
        return [step for step, _ in rows], [value for _, value in rows]

    shown = {name: label for name, label in (metrics or {}).items() if series(name)[0]}
    figure = new_figure(path, figsize=(7, 2.6 * (2 + len(shown)) + 0.4), layout="constrained")
    panels = figure.subplots(2 + len(shown), 1, sharex=True)
    figure.suptitle(title, parse_math=False)

    losses = [("loss", training_label, "-", ""), ("eval_loss", "validation", "-", "o")]
    for name, label, line, marker in losses:
        steps, values = series(name)
        if steps:
            panels[0].plot(steps, values, line, marker=marker, markersize=4, label=label)
    panels[0].set_ylabel(loss_label)
    if panels[0].lines:
        panels[0].legend()
    for panel, (name, label) in zip(panels[1:], shown.items()):
        panel.plot(*series(name), "-o", markersize=4, color="tab:green")
        panel.set_ylabel(label)
    panels[-1].plot(*series("learning_rate"), color="tab:gray")
    panels[-1].set_ylabel("learning rate")
    panels[-1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    panels[-1].set_xlabel("step")
    panels[-1].locator_params(axis="x", integer=True, nbins=8, steps=[1, 2, 5, 10])
    for panel in panels:
        panel.grid(alpha=0.3)
    save(figure, path)
    return figure
