"""Finds circles among a package's imports, those inside functions included:

python tests/imports.py keras_encnet
"""

import ast
import collections
import pathlib
import sys

TYPES_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def import_graph(directory: str | pathlib.Path) -> dict[str, set[str]]:
    """The modules of a package, each with those modules of the package that it imports.

    Importing `a.b.c` also imports the package `a.b`, unless the importing module is inside it. The
    root package `a` counts only where it is imported itself. Imports under `if TYPE_CHECKING:` are
    left out.

    Args:
        directory: the root package's directory.
    """
    root = pathlib.Path(directory).resolve()
    files = {}
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return {module: _imports(module, file, files) for module, file in files.items()}


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """A shortest circle through each module that is on one, without repetitions.

    >>> circles({"a": {"b"}, "b": {"a", "c"}, "c": set()})
    [('a', 'b', 'a')]
    """
    found = {}
    for module in sorted(graph):
        circle = _way_back(graph, module)
        if circle:
            found.setdefault(frozenset(zip(circle, circle[1:], strict=False)), circle)
    return list(found.values())


def _imports(module, file, files):
    imported = set()
    for name in _imported_names(module, file):
        if name not in files:
            name = name.rpartition(".")[0]
        if name in files:
            imported.add(name)
        package = name.rpartition(".")[0]
        while "." in package:
            if package in files and not f"{module}.".startswith(f"{package}."):
                imported.add(package)
            package = package.rpartition(".")[0]
    return imported


def _imported_names(module, file):
    """The dotted names that a file imports: `a.b.c` for `from a.b import c`."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    todo = [ast.parse(file.read_text("utf-8"), str(file))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in TYPES_ONLY:
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = package.split(".")
                above = parts[: len(parts) - node.level + 1]
                source = ".".join(filter(None, [*above, source]))
            yield from (f"{source}.{alias.name}" for alias in node.names)
        todo += ast.iter_child_nodes(node)


def _way_back(graph, module):
    """A shortest path from a module to itself, or `None`."""
    before, queue = {}, collections.deque([module])
    while queue:
        at = queue.popleft()
        for target in sorted(graph[at]):
            if target == module:
                path = [module]
                while at != module:
                    path.append(at)
                    at = before[at]
                return (module, *reversed(path[1:]), module)
            if target not in before:
                before[target] = at
                queue.append(target)
    return None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = circles(import_graph(sys.argv[1]))
    for circle in found:
        print(" -> ".join(circle))
    sys.exit(bool(found))
