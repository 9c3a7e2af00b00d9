"""`vtokens strategies` and `vtokens models`."""

from __future__ import annotations

import argparse
from typing import Any

from vtokens.cli.output import say


def add_to(commands: Any) -> None:
    """Add both commands."""
    listed = commands.add_parser(
        "strategies",
        help="list strategies, or describe one",
        description="List the strategies that match a name or wildcard; a single match is described in full.",
        epilog='examples:\n  vtokens strategies\n  vtokens strategies "*v"\n  vtokens strategies fastv\n',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listed.add_argument("pattern", nargs="?", default="*", help='a name or a wildcard such as "fast*"')
    listed.set_defaults(run=_strategies)
    models = commands.add_parser(
        "models",
        help="list model families and embedded models",
        description="List the supported model families with hub ids, and the models that ship with the package.",
        epilog="examples:\n  vtokens models\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    models.set_defaults(run=_models)


def _strategies(options: argparse.Namespace) -> None:
    from vtokens.strategies import describe, list_strategies

    names = list_strategies(options.pattern)
    if not names:
        names = [describe(options.pattern).name]  # an alias; else it raises, naming the nearest
    if len(names) == 1:
        say(describe(names[0]))
        return
    width = max(map(len, names))
    for name in names:
        card = describe(name)
        say(f"{name:<{width}}  {'+'.join(card.stages):<12}  {card.summary}")


def _models(options: argparse.Namespace) -> None:
    from vtokens.adapters import brought_by, examples, models
    from vtokens.scenes import embedded_models

    say("embedded: " + ", ".join(embedded_models()))
    width = max(map(len, models()))
    for family in models():
        whose = brought_by(family)
        say(f"{family:<{width}}  {', '.join(examples(family)) if whose is None else f'brought by {whose}'}")
