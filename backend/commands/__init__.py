"""One file for each command: `add_parser(subparsers)` and `run(arguments) -> exit code`."""
