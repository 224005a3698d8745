"""The command line of ``scfl-green share``; each command imports only what it needs."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

SEARCHED = {"tissue": "tissue", "species": "species", "types": "cell_types"}
TO = "a folder, mlflow:URI or hf:OWNER; by default SCFL_MODELS, or the folder models"
HEADS = ("model", "accuracy", "F1", "g CO2e", "types", "tissue", "species", "licence")


def add(commands: Any) -> None:
    """Add ``share`` to the commands of the program."""
    share: ArgumentParser = commands.add_parser("share", help="push, pull and list trained models")
    actions = share.add_subparsers(metavar="ACTION", required=True)
    push = actions.add_parser("push", help="share the model of a finished run, without names of cells, donors or sites")
    push.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    push.add_argument("name", metavar="NAME", help="of the model")
    push.add_argument("--to", metavar="TARGET", help=TO)
    _add_terms(push)
    push.set_defaults(does=_push)
    card = actions.add_parser("card", help="print the card that a push would write")
    card.add_argument("run", type=Path, metavar="RUN")
    _add_terms(card)
    card.set_defaults(does=_card)
    pull = actions.add_parser("pull", help="fetch a model, checked, into a folder")
    pull.add_argument("model", metavar="NAME[@VERSION]")
    pull.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="a new folder; by default NAME")
    pull.add_argument("--from", dest="source", metavar="TARGET", help=TO)
    pull.add_argument("--trust", action="append", default=[], metavar="MODULE", help="whose code the model may use")
    pull.set_defaults(does=_pull)
    _add_list(actions)
    seen = actions.add_parser("seen", help="for its owner: whether a shared model was trained on a file")
    seen.add_argument("model", metavar="MODEL", help="a pulled folder, or NAME[@VERSION]")
    seen.add_argument("file", type=Path, metavar="FILE")
    seen.add_argument("--run", type=Path, required=True, help="folder of the run that was pushed")
    seen.set_defaults(does=_seen)


def _add_terms(parser: ArgumentParser) -> None:
    parser.add_argument("--licence", "--license", default="unknown", help="an SPDX identifier, such as MIT")
    parser.add_argument("--tissue", help="of the cells, such as pancreas")
    parser.add_argument("--species", help="of the cells; by default as Ensembl gene ids say")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="KEY", help="a text of the model that may leave"
    )
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help="whose code the run may use")


def _add_list(actions: Any) -> None:
    models = actions.add_parser("list", help="models in a registry; all that is asked for must fit")
    models.add_argument("--from", dest="source", metavar="TARGET", help=TO)
    for option in ("--tissue", "--species"):
        models.add_argument(option, action="append", default=[])
    models.add_argument("--types", nargs="+", default=[], metavar="TYPE", help="cell types that the model tells")
    models.set_defaults(does=_list)


def _terms(options: Namespace) -> Any:
    from scfl_green.share.card import Terms

    return Terms(options.licence, options.tissue, options.species, options.allow)


def _push(options: Namespace) -> None:
    from scfl_green.share.names import default_target
    from scfl_green.share.registry import push
    from scfl_green.terminal import wrapped

    target = options.to or default_target()
    pushed = push(options.run, options.name, target, _terms(options), options.trust)
    print(wrapped(f"kept here: {', '.join(pushed.kept)}"))
    if options.licence == "unknown":
        print("without a licence nobody may use it: push again with --licence MIT, or another")
    print(f"pushed {options.name}@{pushed.version} to {target}")


def _card(options: Namespace) -> None:
    import tempfile

    from scfl_green.share.release import CARD, release

    with tempfile.TemporaryDirectory() as folder:
        release(options.run, Path(folder), "NAME", _terms(options), options.trust)
        print((Path(folder) / CARD).read_text(), end="")


def _pull(options: Namespace) -> None:
    from scfl_green.share.names import parse
    from scfl_green.share.registry import pull

    print(pull(parse(options.model, options.source), options.output, options.trust))


def _list(options: Namespace) -> None:
    from scfl_green.share.names import default_target
    from scfl_green.share.registry import registry
    from scfl_green.terminal import drawn

    target = options.source or default_target()
    wanted = {key: getattr(options, option) for option, key in SEARCHED.items()}
    found = [entry for entry in registry(target).entries() if entry.matches(wanted)]
    if found:
        print(drawn(HEADS, [entry.row() for entry in found]))
    print(f"{len(found)} model{'s' * (len(found) != 1)} in {target}")


def _seen(options: Namespace) -> None:
    from scfl_green.share.find import find
    from scfl_green.share.seen import has_seen

    answer = "has been trained on" if has_seen(find(options.model), options.file, options.run) else "has not seen"
    print(f"{options.model} {answer} {options.file}")
