"""Command lines with one bad value each; words in capital letters stand for files that a test makes."""

import random

DRAWN = 300

LONG, DIGITS, ESCAPE = "a" * 100_000, "9" * 5000, "\x1b[2J\x9b31m\u202e"
WHOLE = ["", " ", "-1", "1.5", "nan", "inf", "1e9", "0x10", "ten", "None", "1;2", DIGITS, "99999999999", ESCAPE, LONG]
COUNT = [*WHOLE, "0"]
NUMBER = ["", "nan", "inf", "-1", "1e999", "half", "None", "1,5", ESCAPE, LONG]
KEEP = ["", "0", "-0.5", "1.5", "nan", "inf", "half", "500", "None", DIGITS, ESCAPE]
STRATEGY = [
    "", "fastw", "fastv(", "fastv(keep=)", "fastv(keep=nan)", "fastv(keep=1e999)", "fastv(layer=-1)", "fastv(layr=2)",
    "fastv(keep='x')", "fastv(keep=True)", "fastv(keep=None)", "fastv(**{})", "fastv(0.5)", "lambda: 0", "fastv()()",
    "__import__('os').getpid()", "fastv(keep=__import__('os'))", "(" * 3000, "fastv+" * 500 + "fastv", "cls(keep=900)",
    "fastv(layer=99)", "var(sinks='none.json')", "var(sinks='/dev/zero')", "var(sinks=TEXT)", "dymu(thresholds='TEXT')",
    "mminference(patterns='FOLDER')", "random(seed=-1)", "\ud800", "狗", ESCAPE, LONG, "fastv;cls",
    "contrast(branch=fastw)",
]  # fmt: skip
MODEL = [
    "",
    "scene-lava",
    "/none",
    "no such model",
    "a/b/c",
    "owner/model",
    "http://x/y",
    "FOLDER",
    "TEXT",
    ESCAPE,
    LONG,
]
DEVICE = ["", "cuda:63", "cuda:x", "tpu", "cpu:1", "meta", "cpu,cuda", ESCAPE, LONG, "0"]
DTYPE = ["", "float8", "int8", "float64", "torch.float16", ESCAPE, LONG]
IMAGE = ["", "none.png", "FOLDER", "TEXT", "CUT", "EMPTY", "BOMB", "PIPE", "/dev/zero", "/dev/null", "/proc/self/mem",
         "https://x/y.png", ESCAPE, LONG]  # fmt: skip
PLACE = ["", "/proc/x.png", "/none/x.png", "TEXT/x.png", "FOLDER", "/dev/full", LONG]
EXTRACTOR = ["", "cocoa", "lexicon:", "lexicon:none.txt", "lexicon:FOLDER", "lexicon:/dev/zero", "spacy:none", "coco@",
             "coco@nothing", ESCAPE, LONG]  # fmt: skip
SIGNALS = ["", ",", "nothing", "fast,full", "surprisal,,", ESCAPE, LONG]
SAVED = ["", "none.json", "FOLDER", "TEXT", "JSON", "LIST", "DEEP", "CUT", "/dev/zero", "PIPE", ESCAPE, LONG]
RISK = ["", "0", "1", "2", "-1", "nan", "half", LONG]
TEXT = ["", " \n\t", "a red circle <image>", "red circle " * 100_000, "red \ud800", "red\0circle"]

RUN = (["run", "SCENE", "is there a red circle?"], {"--model": MODEL, "--strategy": STRATEGY, "--keep": KEEP,
       "--overlay": PLACE, "--max-new-tokens": COUNT, "--device": DEVICE, "--dtype": DTYPE,
       1: IMAGE, 2: TEXT[:2]})  # fmt: skip
CHECK = (["check", "SCENE", "red circle"], {"--model": MODEL, "--strategy": STRATEGY, "--keep": KEEP, "--filter": SAVED,
         "--signals": SIGNALS, "--extractor": EXTRACTOR, "--threshold": NUMBER, "--risk": RISK, "--device": DEVICE,
         "--dtype": DTYPE, "--heatmaps": ["", "/proc/x", "TEXT/x"], 1: IMAGE, 2: TEXT})  # fmt: skip
FILTER = (["filter", "--input", "ROWS", "--images", "FOLDER", "--output", "NEW.jsonl"], {
          "--action": ["", "regenerate", "flagg", ESCAPE, LONG], "--batch-size": COUNT, "--workers": ["1", *COUNT],
          "--risk": RISK, "--threshold": NUMBER, "--input": ["", "none.jsonl", "FOLDER", "EMPTY"],
          "--images": ["", "none", "TEXT"], "--output": ["", "ROWS", "FOLDER", "/proc/x", "/none/x"], "--filter": SAVED,
          "--device": DEVICE, "--strategy": STRATEGY[:9]})  # fmt: skip
PROFILE = (["profile", "--preset", "llava-1.5-7b", "--layers", "2", "--scale", "8"], {
           "--preset": ["", "llava", ",", ESCAPE], "--strategy": STRATEGY[:18], "--keep": [*KEEP, "0.5"],
           "--scale": [*COUNT, "5"], "--layers": COUNT, "--batch": [*COUNT, "1,,2"], "--prompt": COUNT,
           "--image": ["", "x", "0x0", "1x", "336", "100x100", DIGITS + "x1"], "--new-tokens": COUNT, "--rounds": COUNT,
           "--threads": COUNT, "--device": DEVICE, "--dtype": DTYPE, "--attention": ["", "nosuch", ESCAPE],
           "--out": ["", "/proc/x", "/none/x", "FOLDER", "TEXT", "JSON"]})  # fmt: skip
OTHERS = [
    (["bench", "kernels"], {"--kernel": ["", ",", "nosuch", ESCAPE], "--device": [*DEVICE, "mps"], "--dtype": DTYPE,
     "--threads": COUNT, "--seconds": [*NUMBER, "0"], "--limit": [*NUMBER, "0"], "--csv": PLACE}),
    (["demo"], {"--model": MODEL, "--questions": COUNT, "--seed": [w for w in WHOLE if w != "99999999999"],
     "--batch-size": COUNT, "--out": ["", "/proc/x", "TEXT/x"]}),
    (["calibrate", "dymu", "scenes-llava", "--out", "NEW.json"], {"--out": PLACE[:-2],
     "--images": ["", "none", "EMPTY"],
     "--target": [*NUMBER, "0", "2"], "--samples": COUNT, "--batch": COUNT, "--device": DEVICE, "--dtype": DTYPE}),
    (["calibrate", "var", "scenes-llava", "--out", "NEW.json"], {"--samples": COUNT, "--tau": [*NUMBER, "0"]}),
    (["calibrate", "vflowopt", "scenes-llava", "--out", "NEW.json"], {"--samples": COUNT, "--calls": COUNT,
     "--images": ["", "none", "EMPTY"], "--device": DEVICE, "--dtype": DTYPE}),
    (["search-patterns", "scenes-llava", "--out", "NEW.json"], {"--samples": COUNT, "--pictures": [*COUNT, "1,x"],
     "--cost": [*NUMBER, "0"], "--density": [*NUMBER, "0"], "--max-error": [*NUMBER, "0"], "--images": ["", "none"]}),
    (["report", "FOLDER"], {"--out": ["", "/proc/x"], 1: ["", "none", "TEXT", ESCAPE, LONG]}),
    (["strategies"], {1: ["", "fastw", "[", ESCAPE, LONG, "\ud800"]}),
    (["eval", "--tasks", "scenes_vqa", "--strategies", "none", "--out", "NEW"], {
     "--tasks": ["", ",", ESCAPE, "scenes_vqaa"],
     "--strategies": STRATEGY[:14], "--keep": KEEP, "--seeds": [*COUNT, "100000"], "--limit": COUNT,
     "--batch-size": COUNT, "--max-new-tokens": COUNT, "--device": DEVICE, "--dtype": DTYPE, "--model": MODEL[:8],
     "--include-path": ["", "none", "TEXT"]}),
]  # fmt: skip


def cases():
    """Command lines with one bad value each, drawn from all there are."""
    found = []
    for base, options in [RUN, CHECK, FILTER, PROFILE, *OTHERS]:
        for option, values in options.items():
            for value in values:
                line = [*base]
                if isinstance(option, int):
                    line[option:] = [value, *base[option + 1 :]]
                else:
                    line += [option, value]
                found.append(line)
    usage = [[], ["runn"], ["run"], ["run", "a", "b", "c"], ["check"], ["--nosuch"], [ESCAPE], [LONG], ["bench"],
             ["calibrate"], ["profile"], ["run", "a", "b", "--keep"],
             ["filter", "--risk", "1", "--threshold", "1"]]  # fmt: skip
    return usage + random.Random(0).sample(found, DRAWN - len(usage))


def name(line):
    return (
        "-".join(word if len(word) < 30 else word[:10] for word in line[:1] + line[-2:])
        .encode("ascii", "replace")
        .decode()
    )
