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
        A string without a newline at the end, as wide as the terminal (or 120 columns), or wider
        where the paths are long: they are not broken.
    """
    # Imported here: a table is a rare event, and `import keras_gamma` should stay fast.
    import rich.box
    import rich.console
    import rich.markup
    import rich.table

    rows = [tuple(str(cell) for cell in row) for row in rows]
    grid = rich.table.Table(box=rich.box.SQUARE, pad_edge=True)
    *short, last = header
    for title in short:
        grid.add_column(title, overflow="fold", no_wrap=True)
    grid.add_column(last, overflow="fold")
    for row in rows:
        grid.add_row(*(rich.markup.escape(cell) for cell in row))
    # Only the last column, the reason, wraps: it gets what the terminal leaves, or 36 characters.
    taken = sum(max(len(row[i]) for row in [header, *rows]) + 3 for i in range(len(short)))
    width = max(shutil.get_terminal_size(fallback=(120, 24)).columns, taken + 40)
    stream = io.StringIO()
    console = rich.console.Console(file=stream, width=width, highlight=False, color_system=None)
    console.print(grid)
    text = "\n".join(line.rstrip() for line in stream.getvalue().rstrip("\n").split("\n"))
    return f"{text}\n{caption}"
