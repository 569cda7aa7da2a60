"""Pictures of results, as files."""

from pathlib import Path

import numpy as np

from examples.files import write_atomic


def confusion_matrix(counts: np.ndarray, path: Path) -> None:
    """Draws how many examples of each class were taken for each.

    Args:
        counts: shape `(classes, classes)`: true class, class found.
        path: the PNG file to write.
    """
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    classes = len(counts)
    size = min(3.0 + 0.35 * classes, 12.0)
    figure, axes = pyplot.subplots(figsize=(size, size), layout="constrained")
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    if classes <= 20:
        axes.set_xticks(range(classes))
        axes.set_yticks(range(classes))
        for (row, column), number in np.ndenumerate(counts):
            if number:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=8)
    accuracy = np.trace(counts) / max(counts.sum(), 1)
    title = f"{counts.sum()} test images, {accuracy:.2%} right"
    axes.set(xlabel="found", ylabel="true", title=title)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    pyplot.close(figure)
    write_atomic(path, content.getvalue())
