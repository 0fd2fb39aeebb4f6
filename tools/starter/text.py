"""The starter's tokenizer and text encoder.

The tokenizer is a CLIP tokenizer (byte-level BPE, lower case) with a small vocabulary learned from emoji names,
keywords and captions; a few rare made-up words are single tokens, for subjects that a user teaches later. The encoder
is a small CLIPTextModel, trained to tell from a caption which subject, hue, background, size and position it asks for;
the UNet then learns from its frozen states, which may be computed once per caption.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import data
from subjects import BACKGROUNDS, HUES, LAYOUTS

VOCABULARY, WIDTH, LENGTH = 2600, 192, 77
RARE = ("sks", "ohwx", "zwx", "qvx", "jkzz")
START, END = "<|startoftext|>", "<|endoftext|>"


def _bytes_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes that byte-level BPE uses (GPT-2's table), in CLIP's order."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + i) for i in range(len(hidden))]


def _corpus(root: Path) -> Counter[str]:
    words: Counter[str] = Counter()
    for entry in json.loads((root / "emojibase-data" / "en" / "data.json").read_text()):
        for word in [*entry["label"].lower().split(), *entry.get("tags", [])]:
            if word.isascii() and word.isalpha():
                words[word] += 1
    for subject in data.known(root):
        for word in (*subject.name.lower().split(), *subject.aliases):
            words[word] += 30
    for word in (*BACKGROUNDS, *HUES, "background", "on", "a", "an", "the", "with", "at", "of", "small", "large",
                 "left", "right", "top", "bottom", "photo", "picture", "in", "style", *RARE):
        words[word] += 500
    return words


def _merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Byte-pair encoding as published by Sennrich et al. (2016): join the most frequent pair, again and again."""
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for parts in pieces.values():
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == best:
                    parts[i:i + 2] = ["".join(best)]
                i += 1
    return merges


def write_tokenizer(root: Path, folder: Path) -> CLIPTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = _bytes_alphabet()
    merges = _merges(_corpus(root), VOCABULARY - 2 * len(alphabet) - 2)
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), START, END]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=LENGTH,
        unk_token=END, bos_token=START, eos_token=END, pad_token=END)
    tokenizer.save_pretrained(folder)
    return tokenizer


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=WIDTH,
        num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=LENGTH, hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id))


class Labels:
    """A scene as numbers: one class per question."""

    def __init__(self, subjects: int) -> None:
        self.tables = (["", *HUES], list(BACKGROUNDS), list(LAYOUTS))
        self.sizes = (subjects, *(len(table) for table in self.tables))

    def of(self, scene: data.Scene) -> list[int]:
        hues, backgrounds, layouts = self.tables
        return [scene.subject, hues.index(scene.hue), backgrounds.index(scene.background),
                layouts.index((scene.size, scene.position))]


def train(work: Path, steps: int, batch: int, rate: float) -> None:
    torch.manual_seed(0)
    root = data.fetch(work)
    tokenizer = write_tokenizer(root, work / "tokenizer")
    renderer, rng = data.Renderer(data.known(root), 64), random.Random(0)
    labels = Labels(len(renderer.subjects))
    model = build(tokenizer)
    heads = nn.ModuleList(nn.Linear(WIDTH, size) for size in labels.sizes)
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        scenes = [renderer.random_scene(rng) for _ in range(batch)]
        captions = [data.caption(scene, renderer.subjects, rng, alias=0.35) for scene in scenes]
        ids = tokenizer(captions, padding="max_length", max_length=40, truncation=True, return_tensors="pt").input_ids
        states = model(ids).last_hidden_state
        ends = (ids == tokenizer.eos_token_id).int().argmax(1)
        # The end token and one of the padding tokens after it: the UNet attends to all of them.
        later = torch.minimum(ends + torch.randint(0, 30, ends.shape), torch.tensor(39))
        target = torch.tensor([labels.of(scene) for scene in scenes])
        rows = torch.arange(batch)
        loss = sum((nn.functional.cross_entropy(head(states[rows, at]), target[:, i])
                    for i, head in enumerate(heads) for at in (ends, later)), torch.zeros(()))
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            right = [float((head(states[rows, ends]).argmax(1) == target[:, i]).float().mean())
                     for i, head in enumerate(heads)]
            print(f"text step {step + 1} loss {loss.item():.3f} right {[round(r, 3) for r in right]}", flush=True)
    model.save_pretrained(work / "text_encoder")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--rate", type=float, default=1e-3)
    args = parser.parse_args()
    train(args.work, args.steps, args.batch, args.rate)
