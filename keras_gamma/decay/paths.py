"""Finding a variable again by its path, after a model was rebuilt or reloaded."""


def match(wanted, present):
    """Pairs paths that were written down with the paths that a model has now.

    Keras drops the name of a Sequential from its variables' paths when it is reloaded
    (`s/bn/gamma` becomes `bn/gamma`), so a path also matches the one path that ends with it,
    or that it ends with.

    Args:
        wanted: iterable of paths to find.
        present: iterable of paths to find them among.

    Returns:
        A tuple `(found, missing)`: a dict from each wanted path to the present one, and the
        list of the wanted paths that have no match, or more than one.

    Example:

    >>> from keras_gamma.decay.paths import match
    >>> match(["s/bn/gamma", "out/bias"], ["bn/gamma"])
    ({'s/bn/gamma': 'bn/gamma'}, ['out/bias'])
    """
    wanted, present = list(wanted), list(present)
    free = set(present)
    found = {path: path for path in wanted if path in free}
    free -= set(found)
    missing = []
    for path in wanted:
        if path in found:
            continue
        alike = [p for p in free if p.endswith(f"/{path}") or path.endswith(f"/{p}")]
        if len(alike) == 1:
            found[path] = alike[0]
            free.discard(alike[0])
        else:
            missing.append(path)
    return found, missing
