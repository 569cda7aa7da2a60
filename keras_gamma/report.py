"""Tables, printed with rich as `model.summary()` does. No decisions are made here."""

import io
import shutil


def table(header, rows, caption):
    """Renders rows as text.

    Args:
        header: sequence of column titles.
        rows: iterable of rows, each as long as `header`.
        caption: string, one line below the table.

    Returns:
        A string without a newline at the end, as wide as the terminal (or 120 columns).
    """
    # Imported here: a table is a rare event, and `import keras_gamma` should stay fast.
    import rich.box
    import rich.console
    import rich.markup
    import rich.table

    grid = rich.table.Table(box=rich.box.SQUARE, pad_edge=True)
    for i, title in enumerate(header):
        last = i == len(header) - 1
        # The path and the reason may wrap; what lies between is short and stays whole.
        grid.add_column(title, overflow="fold", no_wrap=not last and i > 0, ratio=None)
    for row in rows:
        grid.add_row(*(rich.markup.escape(str(cell)) for cell in row))
    width = max(80, shutil.get_terminal_size(fallback=(120, 24)).columns)
    stream = io.StringIO()
    console = rich.console.Console(file=stream, width=width, highlight=False, color_system=None)
    console.print(grid)
    text = "\n".join(line.rstrip() for line in stream.getvalue().rstrip("\n").split("\n"))
    return f"{text}\n{caption}"
