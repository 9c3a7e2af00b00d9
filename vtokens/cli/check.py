"""`vtokens check`: what in a response an image does not support."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vtokens.cli.inputs import STANDARD_INPUT, Visual, add_frames, opened, typed
from vtokens.cli.options import add_placement, check_folder, keep_value, listed
from vtokens.cli.output import console, say
from vtokens.cli.run import note_drawn
from vtokens.core.terminal import json_text, printable
from vtokens.loading.context import TooLongError
from vtokens.loading.hardware import check_device

_EXAMPLES = """examples:
  vtokens check scene.png "red circle, blue square"
  vtokens check photo.jpg "A dog sits beside two cats." --prompt "Describe the image." --model llava-hf/llava-1.5-7b-hf
  vtokens check photo.jpg yes --prompt "Is there a dog in the image?" --extractor coco --threshold 0.8 --json
  vtokens check scene.png - --heatmaps maps < answer.txt
  vtokens check clip.mp4 "A man opens a door." --frames 16 --model Qwen/Qwen2.5-VL-7B-Instruct

exit code: 0 if all that is said was judged and nothing is flagged, 1 if something is flagged, 2 after an error, 3 if
nothing is flagged and something, or all of it, could not be judged, which is printed ("not judged: 'dog'")
"""

_IMAGE, _VIDEO = "Describe the image.", "Describe the video."


def add_to(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "check",
        help="say what in a response a picture or video does not support",
        description="Have a model read a response about a picture or video, and mark what that does not support.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("image", help="path or URL of a picture or video")
    command.add_argument("response", help="the text to check; - reads it from the standard input")
    command.add_argument(
        "--prompt",
        help=f'what was asked ("{_IMAGE}", and of a video to a model that sees it as one "{_VIDEO}")',
    )
    add_filter_options(command)
    add_frames(command)
    command.add_argument("--heatmaps", metavar="FOLDER", help="write where the model looked, a picture a mention")
    command.add_argument("--explain", action="store_true", help="say in words which signals spoke")
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    command.set_defaults(run=_run)


def add_filter_options(command: argparse.ArgumentParser) -> None:
    """The options that say which filter is used, and from where on it flags."""
    command.add_argument("--model", default="scenes-llava", help="embedded model, folder or hub id (%(default)s)")
    command.add_argument("--strategy", help='what prunes the model, e.g. todre, "fastv(keep=0.25)"')
    command.add_argument("--keep", type=keep_value, help="a share such as 0.25, or a count such as 64")
    command.add_argument(
        "--filter", metavar="FILE", help="a calibrated filter that was saved, or none; by default the model's own"
    )
    command.add_argument(
        "--signals", type=listed, metavar="A,B", help="fast, full, or names; by default the filter's, or fast"
    )
    command.add_argument("--extractor", metavar="NAME", help="finds mentions: scenes, coco, chunks, lexicon:FILE, ...")
    limit = command.add_mutually_exclusive_group()
    limit.add_argument("--threshold", type=float, metavar="P", help="flag above this probability (0.5)")
    limit.add_argument("--risk", type=float, metavar="ALPHA", help="flag so much that this risk is kept")
    add_placement(command)


def make_filter(options: argparse.Namespace, batch_size: int = 1) -> Any:
    """The filter that these options describe; raises as `HallucinationFilter.from_pretrained`."""
    from vtokens.filter.filter import HallucinationFilter

    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise ValueError(f"--threshold {options.threshold:g} is not allowed: a probability from 0 to 1")
    if options.risk is not None and not 0 < options.risk < 1:
        raise ValueError(f"--risk {options.risk:g} is not allowed: a share between 0 and 1, such as 0.1")
    device = check_device(options.device)
    signals: Any = options.signals
    if signals in (["fast"], ["full"]):
        [signals] = signals
    made: Any = HallucinationFilter.from_pretrained(
        options.model,
        signals=signals,
        extractor=options.extractor,
        calibrator=None if options.filter == "none" else options.filter or "auto",
        batch_size=batch_size,
        strategy=options.strategy,
        keep=options.keep,
        dtype=options.dtype,
    )
    made.model.to(device)
    return made


def _run(options: argparse.Namespace) -> None:
    from vtokens.filter.terminal import show

    if options.image == STANDARD_INPUT:
        raise ValueError("the standard input is for the response: name the picture or video by its path or URL")
    [shown] = opened(options, [options.image])
    if options.heatmaps:
        check_folder(options.heatmaps, "--heatmaps")
    response = typed().strip() if options.response == "-" else options.response
    if not response.strip():
        raise ValueError("the response is empty: there is nothing to check")
    hf = make_filter(options)
    note_drawn(options.model, shown.first())
    given = shown.image if shown.clip is None else shown.clip
    prompt = options.prompt or asked_by_default(hf.processor, shown)
    try:
        report = hf.check(given, prompt, response, risk=options.risk, threshold=options.threshold)
    except TooLongError as error:
        if shown.clip is None or len(shown.clip.frames) == 1:
            raise
        raise TooLongError(f"{error}. {len(shown.clip.frames)} frames are shown: take fewer (--frames)") from error
    reasons = [str(one) for one in hf.explain(report)] if options.explain else []
    pictures = [str(path) for path in report.save_heatmaps(options.heatmaps)] if options.heatmaps else []
    if options.json:
        more = {"image": options.image, "model": options.model, "flagged": len(report.flagged), "heatmaps": pictures}
        more |= {"explained": reasons} if options.explain else {}
        more |= {} if shown.clip is None else {"video": shown.facts()}
        say(json_text(report.to_dict() | more, allow_nan=False))
    else:
        show(report, console())
        for reason in reasons:
            say(printable(reason))
        if shown.clip is not None:
            say(shown.told(), error=True)
        if pictures:
            say(f"{len(pictures)} heat {'map' if len(pictures) == 1 else 'maps'} in {options.heatmaps}")
    if report.flagged or report.unjudged or not report.mentions:
        sys.exit(1 if report.flagged else 3)


def asked_by_default(processor: Any, shown: Visual) -> str:
    """What was asked, where --prompt does not say; frames that a processor takes as pictures are images to a model."""
    moving = shown.clip is not None and getattr(processor, "video_processor", None) is not None
    return _VIDEO if moving else _IMAGE
