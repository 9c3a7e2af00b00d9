"""Genuine tokenizers of the kinds that vision-language models have, trained on a few lines, and odd ways to spell."""

import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from vtokens.scenes.model import build_tokenizer

CORPUS = [
    "A dog and a cat are sitting on a wooden bench near the traffic light.",
    "There is a red fire hydrant, a stop sign and two people with umbrellas in the background.",
    "The image shows a kitchen with a refrigerator; an oven, a sink and a dining table.",
    "Ein Hund läuft über die Straße. Une fenêtre était ouverte à côté. 犬が走っている。 собака бежит.",
    "a e i o u n t r s 0 1 2 3 4 5 6 7 8 9 \n\n - it's don't ( ) [ ]",
] * 3
BYTES = [f"<0x{value:02X}>" for value in range(256)]
SPECIAL = ["<unk>", "<s>", "</s>", "<image>"]


def _wrapped(core):
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_level():
    """As GPT-2, Qwen and Llama 3."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False),
    )
    core.add_tokens(["日本", "[tool]"])  # not special: written out, and not in the byte alphabet
    return _wrapped(core)


def byte_fallback():
    """As Llama 2 and Mistral: words begin with a bar, unknown characters are spelt in bytes."""
    trained = Tokenizer(models.BPE())
    trained.train_from_iterator(
        ("▁" + word for line in CORPUS for word in line.split()),
        trainers.BpeTrainer(vocab_size=350, special_tokens=SPECIAL, limit_alphabet=70, show_progress=False),
    )
    model = json.loads(trained.to_str())["model"]
    vocabulary = model["vocab"] | {byte: len(model["vocab"]) + i for i, byte in enumerate(BYTES)}
    merges = [tuple(pair) for pair in model["merges"]]
    core = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    core.add_special_tokens(SPECIAL)
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrapped(core)


def metaspace():
    """As T5 and Gemma's ancestors: a unigram model, spaces as bars, what is unknown is <unk>."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    )
    return _wrapped(core)


def word_piece():
    """As BERT and BLIP: its decoder tidies punctuation up, which no step here follows."""
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    )
    return _wrapped(core)


MADE = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "metaspace": metaspace,
    "word level": build_tokenizer,
    "word piece": word_piece,
    "slow, bytes": ByT5Tokenizer,
}


def respelt(tokenizer, ids, random):
    """The ids with about a third of the tokens split at random into other tokens of the vocabulary."""
    vocabulary, out = tokenizer.get_vocab(), []
    for number in ids:
        token = tokenizer.convert_ids_to_tokens([number])[0]
        cut = random.randrange(1, len(token)) if len(token) > 1 else 0
        halves = [token[:cut], token[cut:]]
        if cut and random.random() < 0.35 and number not in tokenizer.all_special_ids:
            if all(half in vocabulary for half in halves):
                out += [vocabulary[half] for half in halves]
                continue
            if "<0x41>" in vocabulary and not token.startswith("<0x"):
                out += [vocabulary[f"<0x{byte:02X}>"] for byte in token.replace("▁", " ").encode()]
                continue
        out.append(number)
    return out
