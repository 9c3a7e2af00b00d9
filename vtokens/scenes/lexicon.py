"""The words that are printed into scenes: everyday ones of three to six letters, and each belongs to one split.

No word names anything else of the world, and no two splits of training, calibration and the rest share one: who reads
the words of the test split has learnt to read, not to tell some words apart.
"""

from __future__ import annotations

_WORDS = """
    act age aim air ant arm art bag bat bay bed bee bell belt bench bird bite boat body bone book boot bowl box bread
    bride brush bug bus cab cable cake camp candle cap car carpet castle cat chain chair cheese chef child city clay
    clock cloth cloud coat coffee coin cook copper corn cow cream crew crown cup curtain dance desk dinner doctor dog
    doll door dress drum duck dust eagle ear earth egg engine exit eye face farm father feast fence field film finger
    fire fish flag floor flour flower fly foot forest fork fox friend frog fruit game garden gate ghost gift glass
    glove goat gold grape grass guest guitar gym hair hall ham hammer hand harbor hat heart helmet hen hill home honey
    hook horse hotel house ice ink iron island jacket jam jar jazz jelly jewel job joke judge juice jungle key king
    kite knee knife lake lamp law leaf lemon letter lid light lion lip lock lunch magic mail map market mask meal
    melon metal milk mirror money monkey moon mother motor mouse movie mud museum music nail neck needle nest net news
    night noise nose nurse nut oak ocean office oil onion open oven owl page paint palace pan paper park parrot party
    path peach pear pen pencil pepper pet phone piano pie pig pillow pilot pipe pizza plane plant plate pocket poem
    pond pony potato prince pump puzzle queen quilt quiz rabbit radio rain rat rice river road robot rock roof rope
    rose rug sack sail salad salt sand scarf school sea seat seed shark sheep shelf ship shirt shoe shop sink skirt sky
    snake snow soap sock sofa soup spice spider spoon spring stamp star stone storm stove street sugar suit summer sun
    table tail tax taxi tea tent tiger toast tomato tool tooth towel tower town toy train tree truck tunnel turtle
    uncle valley van vase violin voice wagon walk wall wasp watch water wave wax whale wheat wheel wind window wine
    wing winter wolf wood wool worm yard yeast yogurt zebra zoo
"""
_PARTS = ("train", "train", "train", "test", "train", "train", "calibration", "train", "test", "train")


def words(split: str) -> tuple[str, ...]:
    """The words that a split may use: seven in ten are for training, one for calibration, two for all other splits."""
    part = split if split in ("train", "calibration") else "test"
    every = [word for word in dict.fromkeys(_WORDS.split()) if 3 <= len(word) <= 6]
    return tuple(word for number, word in enumerate(every) if _PARTS[number % len(_PARTS)] == part)
