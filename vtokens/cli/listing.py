"""`vtokens strategies` and `vtokens models`."""

from __future__ import annotations

import argparse
from typing import Any

from vtokens.cli.options import listed as parts
from vtokens.cli.output import note, say
from vtokens.strategies.needed import WORDS
from vtokens.strategies.stages import STAGES

_EXAMPLES = """examples:
  vtokens strategies
  vtokens strategies "*v"
  vtokens strategies fastv
  vtokens strategies --stage prompt --needs cls --family qwen3_vl
  vtokens strategies --family mllama --why
"""


def add_to(commands: Any) -> None:
    """Add both commands."""
    listed = commands.add_parser(
        "strategies",
        help="list strategies, or describe one",
        description="List the strategies that match a name or wildcard, with all that is asked of them; a single match "
        "is described in full: where it acts, what it needs and costs, its settings, its paper, and what shows that it "
        "is the method (docs/strategies has a page of each).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listed.add_argument("pattern", nargs="?", default="*", help='a name or a wildcard such as "fast*"')
    listed.add_argument("--stage", help=f"those that act there: {', '.join(STAGES)}")
    listed.add_argument(
        "--needs", type=parts, default=[], metavar="WHAT",
        help=f"those that read all of this, separated by commas: cls, keys, or {', '.join(sorted(WORDS))}",
    )  # fmt: skip
    listed.add_argument("--family", help="those that models of this family do not refuse (`vtokens models` lists them)")
    listed.add_argument("--why", action="store_true", help="say of each strategy that the family refuses why it does")
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
    from vtokens.core.refusals import refusal
    from vtokens.strategies import describe, list_strategies

    if options.why and options.family is None:
        raise ValueError("--why says why a family refuses strategies: name it by --family, as in --family qwen3_vl")
    asked = {"stage": options.stage, "needs": options.needs}
    names = list_strategies(options.pattern, **asked)
    if not names and not list_strategies(options.pattern):
        names = [describe(options.pattern).name]  # an alias; else it raises, naming the nearest
        names = [name for name in list_strategies(**asked) if name in names]
    refused = {name: why for name in names if (why := refusal(name, options.family))} if options.family else {}
    found = [name for name in names if name not in refused]
    if len(names) == 1 and not (options.stage or options.needs):
        say(describe(names[0]))
        if options.family:
            say(f"  on {options.family}: {f'refused, {refused[names[0]]}' if refused else 'runs'}")
        return
    width = max(map(len, names), default=0)
    for name in found:
        card = describe(name)
        where = "composition" if card.composes else "+".join(card.stages)
        say(f"{name:<{width}}  {where:<12}  {card.summary}")
    if not names:
        note("no strategy has all that is asked for")
    for name, why in refused.items() if options.why else ():
        say(f"{name:<{width}}  refused by {options.family}: {why}")
    if refused:
        many = f"{len(refused)} more" if found else "all of them"
        told = "" if options.why else f": {', '.join(refused)} (--why says why)"
        note(f"{options.family} refuses {many}{told}")


def _models(options: argparse.Namespace) -> None:
    from vtokens.adapters import brought_by, examples, models
    from vtokens.scenes import embedded_models

    say("embedded: " + ", ".join(embedded_models()))
    width = max(map(len, models()))
    for family in models():
        whose = brought_by(family)
        say(f"{family:<{width}}  {', '.join(examples(family)) if whose is None else f'brought by {whose}'}")
