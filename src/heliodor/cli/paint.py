"""Paint pictures from words.

For example:

  heliodor paint "a red apple left of a blue car" --out apple.png
  heliodor paint "a red apple" "a green pear" --count 4 --out fruit --sheet fruit.png
  heliodor paint --like apple.png --seed 7
  heliodor paint "the same in winter" --image photo.png --strength 0.6

--out is a .png for one picture, and a folder for several; what a picture was made from is written
into its file, and --like reads it: prompt, size, seed and settings are those of that picture unless
others are given. A prompt is used exactly as it is typed, in any language.

Before anything is loaded it is said how much memory it will take. Ctrl-C stops between two steps
and writes the pictures that are finished; a second one stops at once.
"""

from __future__ import annotations

import argparse
import signal
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from heliodor.cli.options import UsageError, add_json, positive, read_picture
from heliodor.cli.output import emit, save_picture, say

if TYPE_CHECKING:
    from heliodor.paint import Painter, Painting, Record, Snapshot

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to paint")
    parser.add_argument("--out", default="painting.png", metavar="PATH", help="a .png, or a folder")
    parser.add_argument("--like", metavar="PNG", help="take everything not given from this picture")
    parser.add_argument("--size", type=_size, metavar="WxH", help="multiples of 16, as 1024x768")
    parser.add_argument("--seed", type=int, help="of the first picture; the next ones count up")
    parser.add_argument("--negative", metavar="TEXT", help="what to lead away from")
    parser.add_argument("--count", type=positive, default=1, help="pictures of each prompt")
    parser.add_argument("--image", metavar="IMAGE", help="a picture to paint over, or -")
    parser.add_argument("--strength", type=float, help="how much of it goes (default: 0.6)")
    parser.add_argument("--sheet", metavar="PNG", help="write all pictures on one sheet too")
    parser.add_argument("--preview", metavar="PNG", help="write a small picture while painting")
    parser.add_argument(
        "--every", type=positive, default=5, metavar="N", help="steps between previews"
    )
    _add_sampling(parser)
    add_json(parser)
    _add_painter(parser)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling", "defaults are those of the published demos")
    group.add_argument("--steps", type=int, help="as the grid's reference counts (default: 30)")
    group.add_argument("--solver", help="midpoint (default), euler, heun, rk4")
    group.add_argument("--grid", help="official (default) or diffusers")
    group.add_argument("--shift", type=float, help="of the grid (default: 4, diffusers 1)")
    group.add_argument("--guidance", type=float, help="how far from no prompt (default: 4)")
    group.add_argument(
        "--guide-all", action="store_true", help="guide all channels, not the first three"
    )
    group.add_argument(
        "--guidance-interval", nargs=2, type=float, metavar=("FROM", "TO"), help="times in 0..1"
    )
    group.add_argument("--scaling", help="of positions: released (default), paper, diffusers, off")
    group.add_argument("--no-proportional", action="store_true", help="attention as in training")
    group.add_argument(
        "--skipping", type=float, metavar="X", help="an approximation: leave out steps, 0.1 and up"
    )
    group.add_argument(
        "--batch", type=positive, default=4, metavar="N", help="pictures at once (default: 4)"
    )


def _add_painter(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="tiny",
        help="the shipped 'tiny' (default), a diffusers folder, an official "
        "consolidated*.safetensors, or a hub id",
    )
    group.add_argument("--text-encoder", metavar="GEMMA", help="where the model has none")
    group.add_argument("--tokenizer", metavar="FILE", help="where the text encoder has none")
    group.add_argument("--vae", metavar="FOLDER", help="where the model has none")
    group.add_argument("--vae-dtype", choices=["float32", "bfloat16"], help="default: float32")
    group.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="type of the weights in memory"
    )
    group.add_argument("--variant", metavar="NAME", help="of diffusers' file names, as fp16")
    group.add_argument(
        "--merge", choices=["self", "caption"], help="which queries count where two copies differ"
    )
    group.add_argument("--quantize", metavar="RECIPE", help="int8 or int4")
    group.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    group.add_argument("--revision", help="branch, tag or commit of a hub id")
    group.add_argument(
        "--memory",
        choices=["auto", "all", "staged"],
        help="hold all parts, or one at a time (default: by what the machine has)",
    )


def run(args: argparse.Namespace) -> int:
    """Paint, and write each picture with its record."""
    from heliodor.errors import CancelledError
    from heliodor.paint import PromptCutWarning, contact_sheet, read_record

    record = None if args.like is None else read_record(args.like)
    prompts: list[str] = args.prompts or ([] if record is None else [record.prompt])
    if not prompts:
        raise UsageError("say what to paint, or --like a picture")
    places = _places(args, len(prompts) * args.count)
    sheet = None if args.sheet is None else _png(args.sheet, "--sheet")
    preview = None if args.preview is None else _png(args.preview, "--preview")
    options = _options(args, record)
    painter = _load(args)
    _say_memory(painter, options, len(places), args.batch, previews=preview is not None)
    with warnings.catch_warnings():
        warnings.simplefilter("always", PromptCutWarning)
        warnings.showwarning = _say_warning
        try:
            with _Stop() as stop:
                found: list[Painting] = painter.paint(
                    prompts,
                    output="image",
                    count=int(args.count),
                    batch_size=args.batch,
                    progress=_Watch(args, preview),
                    cancelled=stop,
                    **options,
                )
        except CancelledError as error:
            done = dict(sorted(error.finished.items()))
            _write(args, list(done.values()), [places[number] for number in done])
            say(f"heliodor: {error}; {len(done)} of {len(places)} pictures were finished")
            return 130
    _write(args, found, places)
    if sheet is not None:
        save_picture(contact_sheet([each.image for each in found]), sheet)
        say(f"heliodor: all {len(found)} on {sheet}")
    return 0


class _Stop:
    """Turns the first Ctrl-C into a wish that the painter asks for between its steps."""

    def __init__(self) -> None:
        self._wished = False
        self._before: Any = None
        self._main = threading.current_thread() is threading.main_thread()

    def __call__(self) -> bool:
        """Whether to stop."""
        return self._wished

    def __enter__(self) -> Self:
        if self._main:  # Python lets no other thread have a say in signals
            self._before = signal.signal(signal.SIGINT, self._wish)
        return self

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _wish(self, *_: object) -> None:
        self._wished = True
        signal.signal(signal.SIGINT, self._before)
        say("heliodor: stopping after this step; once more to stop at once")


class _Watch:
    """Says how far it is, and writes previews."""

    def __init__(self, args: argparse.Namespace, preview: Path | None) -> None:
        self._every: int = args.every
        self._preview = preview

    def __call__(self, now: Snapshot) -> None:
        which = f"picture {', '.join(str(number + 1) for number in now.pictures)}"
        if now.step % self._every and now.step != now.steps:
            return
        say(f"heliodor: {which}: step {now.step} of {now.steps}, {now.progress.seconds:.1f} s")
        if self._preview is not None:
            save_picture(now.preview()[0], self._preview)


def _options(args: argparse.Namespace, record: Record | None) -> dict[str, Any]:
    """What the painter is asked for: what was given, else what the picture says."""
    found: dict[str, Any] = {} if record is None else _like(record)
    given = {
        "size": args.size,
        "seed": args.seed,
        "negative": args.negative,
        "steps": args.steps,
        "solver": args.solver,
        "grid": args.grid,
        "shift": args.shift,
        "scaling": args.scaling,
        "skipping": args.skipping,
        "strength": args.strength,
        "image": None if args.image is None else read_picture(args.image),
    }
    if args.shift is not None and args.grid is None and record is not None:
        given["grid"] = record.settings.grid.name
    if given["grid"] is not None and given["grid"] != getattr(found.get("grid"), "name", ""):
        found.pop("shift", None)
    found |= {name: value for name, value in given.items() if value is not None}
    if args.no_proportional:
        found["proportional"] = False
    if args.image is None and args.strength is None:
        found.pop("strength", None)  # of the picture that was like it: there is none here
    guidance = _guidance(args, record)
    return found if guidance is None else {**found, "guidance": guidance}


def _like(record: Record) -> dict[str, Any]:
    settings = record.settings
    return {
        "size": record.size,
        "seed": record.seed,
        "negative": record.negative,
        "steps": settings.steps,
        "solver": settings.solver,
        "grid": settings.grid,
        "scaling": settings.scaling,
        "proportional": settings.proportional,
        "skipping": settings.skipping,
        "strength": settings.strength,
    }


def _guidance(args: argparse.Namespace, record: Record | None) -> Any:
    from heliodor.paint import Guidance

    base = Guidance() if record is None else record.settings.guidance
    interval = args.guidance_interval
    return Guidance(
        scale=base.scale if args.guidance is None else args.guidance,
        channels=None if args.guide_all else base.channels,
        interval=base.interval if interval is None else (interval[0], interval[1]),
    )


def _load(args: argparse.Namespace) -> Painter:
    import heliodor

    names = (
        "text_encoder",
        "tokenizer",
        "vae",
        "vae_dtype",
        "dtype",
        "variant",
        "merge",
        "quantize",
        "device",
        "revision",
        "memory",
    )
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return heliodor.load_painter(args.model, **given)


def _say_memory(
    painter: Painter, options: dict[str, Any], total: int, batch: int, *, previews: bool
) -> None:
    plan = painter.plan(
        options.get("size"),
        pictures=min(total, batch),
        guided=options["guidance"].ever,
        previews=previews,
    )
    say(f"heliodor: painting takes {plan.describe()}")


def _places(args: argparse.Namespace, total: int) -> list[Path]:
    """Where each picture goes, checked before any work is done."""
    path = Path(args.out)
    if path.suffix.lower() == ".png":
        if total > 1:
            raise UsageError(
                f"--out {args.out} holds one picture, and {total} are painted: name a folder"
            )
        return [_png(args.out, "--out")]
    if path.suffix and not path.is_dir():
        raise UsageError(f"--out {args.out}: give a .png, which keeps the record, or a folder")
    path.mkdir(parents=True, exist_ok=True)
    return [path / f"{number + 1:03d}.png" for number in range(total)]


def _png(text: str, option: str) -> Path:
    if Path(text).suffix.lower() != ".png":
        raise UsageError(f"{option} {text}: the name must end in .png")
    if not Path(text).parent.is_dir():
        raise UsageError(f"{option} {text}: there is no folder {Path(text).parent}")
    return Path(text)


def _write(args: argparse.Namespace, found: list[Painting], places: list[Path]) -> None:
    for painting, place in zip(found, places, strict=True):
        painting.save(place)
        if args.json:
            emit({"image": str(place), **painting.to_dict()})
        else:
            print(f"{place}  seed {painting.seed}  {painting.seconds:.1f} s", flush=True)


def _say_warning(message: Warning | str, *_: object) -> None:
    say(f"heliodor: {message}")


def _size(text: str) -> tuple[int, int]:
    """An argparse type: 640x480 or 512."""
    width, cross, height = text.lower().partition("x")
    return (int(width), int(height if cross else width))
