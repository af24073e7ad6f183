"""What an exported folder holds, without torch: see ``seqdyconv.commands.info``."""

import sys
from collections.abc import Sequence

from seqdyconv.commands.plain_arguments import ExportedArguments, parse_plain
from seqdyconv.errors import exit_on_error
from seqdyconv.runtime.folder import open_folder


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_plain(ExportedArguments, sys.argv[1:] if argv is None else argv, ("model_dir",), __doc__)
    with exit_on_error():
        exported = open_folder(args.model_dir)
        rows = [("exported for", exported.task), ("precision", exported.precision)]
        for name in exported.graphs:
            graph = exported.graph(name)
            size = graph.file.stat().st_size / 1e6
            rows.append((f"graph {name}", f"{size:.1f} MB, {len(graph.inputs)} inputs, {len(graph.outputs)} outputs"))
        width = max(len(name) for name, _ in rows) + 2
        print("\n".join(f"{name:{width}}{value}" for name, value in rows))
