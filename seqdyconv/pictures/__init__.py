"""Pictures: kernels, where taps read, alignments, learning curves, errors. Drawing needs matplotlib."""

from seqdyconv.pictures.alignment import plot_alignment
from seqdyconv.pictures.comparisons import plot_comparison
from seqdyconv.pictures.confusion_matrix import plot_confusion_matrix
from seqdyconv.pictures.errors import plot_errors
from seqdyconv.pictures.kernels import plot_kernels
from seqdyconv.pictures.learning_curves import plot_learning_curves
from seqdyconv.pictures.mixtures import plot_mixtures
from seqdyconv.pictures.sampling import plot_sampling

__all__ = [
    "plot_alignment",
    "plot_comparison",
    "plot_confusion_matrix",
    "plot_errors",
    "plot_kernels",
    "plot_learning_curves",
    "plot_mixtures",
    "plot_sampling",
]
