"""Pretrains the bases of many worlds at once on one GPU, by the recipe of `world.pretrain`.

The pipeline pretrains one world at a time on a CPU. Here the weights of all worlds are stacked, so
that one kernel serves all of them, and each world stops by its own development items, as in
`ablation.micro_world.pretrain`. A test compares both.

    python benchmarks/pretrain_worlds.py prepare config/worlds.yaml FOLDER SEED ...
    python benchmarks/pretrain_worlds.py train FOLDER SEED ...      # needs torch, tokenizers, numpy
    python benchmarks/pretrain_worlds.py save config/worlds.yaml FOLDER SEED ...

`save` writes FOLDER/SEED/base, which a study takes as `base:`.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu

from ablation.micro_world.corpus import documents, primer
from ablation.micro_world.muon import orthogonalize
from ablation.micro_world.scenes import World
from ablation.model.packing import Example, pack
from ablation.vocabulary.micro_tasks import TASKS

CHUNK = 50  # batches in a file
CHECK_ROWS = 32  # rows of development items in one forward, for each world
CHECK_WIDTH = 128
ADAM = (0.9, 0.98, 1e-8)
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def prepare(config: str, folder: Path, seeds: Sequence[int]) -> None:
    """Write the recipe, and each world's tokenizer, initial weights and development items."""
    from ablation.config.load import load_study
    from ablation.micro_world.pretrain import build_model
    from ablation.micro_world.tasks import items, requests
    from ablation.model.bpe_tokenizer import train_tokenizer

    block = load_study(yaml.safe_load(Path(config).read_text()), files=[config]).world
    recipe = block.pretrain
    for seed in seeds:
        world = World(seed, block.eval_percent, block.dev_percent)
        torch.manual_seed(seed)
        sample = documents(world, Random(f"tokenizer {seed}"), recipe.documents)
        texts = [next(sample) for _ in range(recipe.tokenizer.documents)]
        tokenizer = train_tokenizer(texts, recipe.tokenizer.vocabulary)
        model = build_model(len(tokenizer), recipe.model)
        examples, first, choices, gold, task_of = [], [], [], [], []
        for number, task in enumerate(TASKS):
            for item in items(world, task, recipe.check.items, seed, "dev"):
                pairs = requests(item)
                first.append(len(examples))
                choices.append(len(pairs))
                gold.append(item["gold"])
                task_of.append(number)
                for context, answer in pairs:
                    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
                    examples.append(Example(tokenizer(context)["input_ids"], [ids]))
        rows = pack(examples, capacity=CHECK_WIDTH, keep_last=False, width=CHECK_WIDTH)
        target = torch.full_like(rows.doc, -1)
        owner = torch.zeros_like(rows.doc)
        target[rows.target_row, rows.target_position] = rows.target_id
        owner[rows.target_row, rows.target_position] = rows.target_owner
        packed = {"ids": rows.input_ids, "doc": rows.doc, "position": rows.position_ids}
        packed |= {"target": target, "owner": owner}
        home = folder / str(seed)
        home.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(home / "tokenizer")
        weights = {n: w.numpy() for n, w in model.state_dict().items() if n != "lm_head.weight"}
        np.savez(home / "initial.npz", **weights)
        np.savez_compressed(
            home / "dev.npz",
            **{name: tensor.numpy().astype(np.int16) for name, tensor in packed.items()},
            **{"first": first, "choices": choices, "gold": gold, "task": task_of},
        )
    shape = block.model_dump(mode="json")
    (folder / "world.json").write_text(json.dumps(shape, indent=1))


def write_batches(folder: Path, seed: int, block: Mapping[str, Any], steps: int) -> None:
    """Write the packed batches of one world, `CHUNK` in a file, as `pretrain` draws them."""
    recipe, home = block["pretrain"], folder / str(seed)
    tokenizer = Tokenizer.from_file(str(home / "tokenizer" / "tokenizer.json"))
    world = World(seed, block["eval_percent"], block["dev_percent"])
    order, lists = Random(f"order {seed}"), primer(Random(f"primer {seed}"))
    texts = documents(world, Random(f"corpus {seed}"), recipe["documents"])
    alone, faded = recipe["primer"]["alone_until"], recipe["primer"]["faded_at"]
    eos, width = tokenizer.token_to_id("</s>"), recipe["row_tokens"]
    for begin in range(0, steps, CHUNK):
        batches = []
        for step in range(begin, begin + CHUNK):
            fading = max(recipe["primer"]["kept_share"], (faded - step) / (faded - alone))
            share = 1.0 if step < alone else fading
            batch = [
                next(lists) if order.random() < share else next(texts)
                for _ in range(recipe["batch_documents"])
            ]
            ids = [tokenizer.encode(text).ids for text in batch]
            batches.append(pack([Example([], [[*i, eos]]) for i in ids], width, width=width))
        rows = max(len(batch.doc) for batch in batches)
        arrays = {
            "ids": np.zeros((CHUNK, rows, width), np.int16),
            "doc": np.full((CHUNK, rows, width), -1, np.int16),
            "position": np.zeros((CHUNK, rows, width), np.int16),
        }
        for k, batch in enumerate(batches):
            arrays["ids"][k, : len(batch.doc)] = batch.input_ids
            arrays["doc"][k, : len(batch.doc)] = batch.doc
            arrays["position"][k, : len(batch.doc)] = batch.position_ids
        scratch = home / ".batches.npz"
        np.savez(scratch, **arrays)
        scratch.rename(home / f"batches{begin}.npz")


class Stack:
    """The bases of several worlds: each weight is [worlds, *shape], the vocabulary is padded."""

    def __init__(
        self, worlds: Sequence[Mapping[str, np.ndarray]], recipe: Mapping[str, Any], device: str
    ) -> None:
        self.recipe, self.count = recipe, len(worlds)
        self.heads, self.head_dim = recipe["model"]["heads"], recipe["model"]["head_dim"]
        self.vocabulary = [len(world["model.embed_tokens.weight"]) for world in worlds]
        rows = max(self.vocabulary)
        self.weights: dict[str, Tensor] = {}
        for name in worlds[0]:
            stacked = [torch.from_numpy(world[name]) for world in worlds]
            if name == "model.embed_tokens.weight":
                stacked = [torch.nn.functional.pad(w, (0, 0, 0, rows - len(w))) for w in stacked]
            self.weights[name.removeprefix("model.")] = torch.stack(stacked).to(device)
        for weight in self.weights.values():
            weight.requires_grad_()
        bias = torch.zeros(self.count, 1, rows)
        for number, size in enumerate(self.vocabulary):
            bias[number, :, size:] = -1e9
        self.bias = bias.to(device)
        self.matrices = [n for n in self.weights if n.split(".")[-2] in MATRICES]
        self.state = {n: [torch.zeros_like(w) for _ in range(2)] for n, w in self.weights.items()}

    def logits(self, ids: Tensor, doc: Tensor, position: Tensor) -> Tensor:
        """[worlds, rows x tokens, vocabulary], from three tensors [worlds, rows, tokens]."""
        weights, (worlds, rows, tokens) = self.weights, ids.shape
        device, dim = ids.device, self.head_dim
        column = torch.arange(tokens, device=device)
        own = torch.where(doc < 0, -1 - column, doc)  # each padding token sees itself alone
        seen = (own[..., :, None] == own[..., None, :]) & (column[:, None] >= column)
        mask = torch.zeros(seen.shape, device=device).masked_fill_(~seen, float("-inf"))
        mask = mask.view(worlds * rows, 1, tokens, tokens).expand(-1, self.heads, -1, -1)
        frequencies = 1e4 ** -(torch.arange(0, dim, 2, device=device) / dim)
        angles = (position[..., None] * frequencies).repeat(1, 1, 1, 2).view(-1, 1, tokens, dim)
        cos, sin = angles.cos(), angles.sin()

        def turned(x: Tensor) -> Tensor:
            return x * cos + torch.cat((-x[..., dim // 2 :], x[..., : dim // 2]), -1) * sin

        def normed(x: Tensor, name: str) -> Tensor:
            scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
            return weights[f"{name}.weight"][:, None] * (x * scale)

        def linear(x: Tensor, name: str) -> Tensor:
            return torch.bmm(x, weights[f"{name}.weight"].mT)

        embedding = weights["embed_tokens.weight"]
        width = embedding.shape[-1]
        x = embedding.gather(1, ids.reshape(worlds, -1, 1).expand(-1, -1, width))
        for number in range(self.recipe["model"]["layers"]):
            layer = f"layers.{number}"
            h = normed(x, f"{layer}.input_layernorm")
            q, k, v = (
                linear(h, f"{layer}.self_attn.{kind}_proj")
                .view(worlds * rows, tokens, self.heads, dim)
                .transpose(1, 2)
                for kind in "qkv"
            )
            out = scaled_dot_product_attention(turned(q), turned(k), v, attn_mask=mask)
            out = out.transpose(1, 2).reshape(worlds, rows * tokens, -1)
            x = x + linear(out, f"{layer}.self_attn.o_proj")
            h = normed(x, f"{layer}.post_attention_layernorm")
            gate = silu(linear(h, f"{layer}.mlp.gate_proj"))
            x = x + linear(gate * linear(h, f"{layer}.mlp.up_proj"), f"{layer}.mlp.down_proj")
        return torch.baddbmm(self.bias, normed(x, "norm"), embedding.mT)

    def loss(self, ids: Tensor, doc: Tensor, position: Tensor) -> Tensor:
        """The mean loss [worlds] over all tokens after the first of a document."""
        predicts = (doc[..., 1:] == doc[..., :-1]) & (doc[..., 1:] >= 0)
        logits = self.logits(ids, doc, position).view(*ids.shape, -1)[:, :, :-1]
        target = torch.where(predicts, ids[..., 1:], -100)
        losses = cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
        return losses.view(self.count, -1).sum(1) / predicts.flatten(1).sum(1)

    @torch.no_grad()
    def update(self, step: int, rate: Tensor) -> None:
        """Update with learning rates multiplied by `rate` [worlds]; `step` is from 1."""

        def each(values: Tensor, like: Tensor) -> Tensor:
            return values.view(-1, *[1] * (like.ndim - 1))

        grads = {name: weight.grad for name, weight in self.weights.items()}
        norm = sum(grad.flatten(1).pow(2).sum(1) for grad in grads.values()).sqrt()
        clipped = (self.recipe["max_grad_norm"] / (norm + 1e-6)).clamp(max=1.0)
        for grad in grads.values():
            grad.mul_(each(clipped, grad))
        by_shape = defaultdict(list)
        for name in self.matrices:
            self.state[name][0].lerp_(grads[name], 0.05)
            by_shape[self.weights[name].shape[1:]].append(name)
        for shape, names in by_shape.items():
            nesterov = [grads[name].lerp(self.state[name][0], 0.95) for name in names]
            updates = orthogonalize(torch.stack(nesterov, 1).flatten(0, 1))
            size = rate * (self.recipe["lr_muon"] * 0.2 * max(shape) ** 0.5)
            each_matrix = updates.view(self.count, -1, *shape).unbind(1)
            for name, update in zip(names, each_matrix, strict=True):
                self.weights[name].sub_(update * each(size, update))
        beta1, beta2, epsilon = ADAM
        for name in self.weights.keys() - set(self.matrices):
            weight, grad, (mean, square) = self.weights[name], grads[name], self.state[name]
            mean.lerp_(grad, 1 - beta1)
            square.lerp_(grad * grad, 1 - beta2)
            direction = (mean / (1 - beta1**step)) / ((square / (1 - beta2**step)).sqrt() + epsilon)
            weight.sub_(direction * each(rate * self.recipe["lr_adamw"], weight))
        for weight in self.weights.values():
            weight.grad = None

    @torch.no_grad()
    def scores(self, dev: Mapping[str, Tensor], continuations: int) -> np.ndarray:
        """The summed log-likelihood [worlds, continuations] of development continuations."""
        total = torch.zeros(self.count, continuations + 1, device=self.bias.device)
        for start in range(0, dev["ids"].shape[1], CHECK_ROWS):
            part = {name: t[:, start : start + CHECK_ROWS].long() for name, t in dev.items()}
            logits = self.logits(part["ids"], part["doc"], part["position"])
            target, owner = part["target"].flatten(1), part["owner"].flatten(1)
            chosen = logits.gather(2, target.clamp(min=0)[..., None])[..., 0]
            logprobs = torch.where(target < 0, 0.0, chosen - logits.logsumexp(-1))
            total.scatter_add_(1, torch.where(target < 0, continuations, owner), logprobs)
        return total.cpu().numpy()

    def state_dict(self, number: int) -> dict[str, Tensor]:
        """The weights of one world under their names in the model."""
        own = {f"model.{n}": w[number].detach().cpu().clone() for n, w in self.weights.items()}
        name = "model.embed_tokens.weight"
        own[name] = own[name][: self.vocabulary[number]].clone()
        return own


def train(folder: Path, seeds: Sequence[int], device: str) -> None:
    """Train the worlds of `seeds`; write each one's weights and summary when it has ended."""
    block = json.loads((folder / "world.json").read_text())
    recipe = block["pretrain"]
    check, cooldown, most = recipe["check"], recipe["cooldown_steps"], recipe["max_steps"]
    for seed in seeds:
        for leftover in (folder / str(seed)).glob("batches*.npz"):
            leftover.unlink()
    writers = [
        get_context("fork").Process(target=write_batches, args=(folder, s, block, most))
        for s in seeds
    ]
    for writer in writers:
        writer.start()
    torch.backends.cuda.matmul.allow_tf32 = True
    stack = Stack([dict(np.load(folder / str(s) / "initial.npz")) for s in seeds], recipe, device)
    checks = [dict(np.load(folder / str(s) / "dev.npz")) for s in seeds]
    dev, continuations = _stacked_items(checks, device)
    last = torch.full((len(seeds),), most, device=device)
    ends, learned, ended = [most] * len(seeds), [False] * len(seeds), [False] * len(seeds)
    accuracy: list[dict[str, float]] = [{} for _ in seeds]
    recent: deque[Tensor] = deque(maxlen=100)
    begun = time.monotonic()
    for step in range(most):
        if step % CHUNK == 0:
            chunk = _chunk(folder, seeds, step, device, writers)
        rows = int((chunk["doc"][step % CHUNK, :, :, 0] >= 0).sum(1).max())
        batch = [chunk[n][step % CHUNK, :, :rows].long() for n in ("ids", "doc", "position")]
        loss = stack.loss(*batch)
        loss.sum().backward()
        recent.append(loss.detach())
        rate = 1.0 if step < recipe["primer"]["alone_until"] else recipe["rate_after_primer"]
        rate *= min(1.0, (step + 1) / recipe["warmup_steps"])
        stack.update(step + 1, rate * ((last - step) / cooldown).clamp(0.0, 1.0))
        done = step + 1
        due = done >= check["from_step"] and done % check["every"] == 0
        if due or done == most or done in ends:
            mean = torch.stack(tuple(recent)).mean(0)
            accuracy_now = _accuracies(stack.scores(dev, continuations), checks)
            for number, seed in enumerate(seeds):
                if ended[number]:
                    continue
                good = min(accuracy_now[number].values()) >= recipe["stop_accuracy"]
                accuracy[number] = accuracy_now[number]
                if due and good and not learned[number] and done + cooldown < most:
                    learned[number], ends[number] = True, done + cooldown
                    last[number] = ends[number]
                elif done == ends[number]:
                    ended[number] = True
                    summary = {"steps": done, "final_loss": round(float(mean[number]), 4)}
                    summary |= {"learned": good, "dev_accuracy": accuracy[number], "seed": seed}
                    summary |= {"seconds": round(time.monotonic() - begun)}
                    torch.save(stack.state_dict(number), folder / str(seed) / "trained.pt")
                    text = json.dumps(summary, indent=1)
                    (folder / str(seed) / "summary.json").write_text(text)
            worst = " ".join(f"{min(a.values()):.2f}" for a in accuracy)
            print(f"step {done}, the worst task of each world: {worst}", flush=True)
        if all(ended):
            break
    for writer in writers:
        writer.terminate()


def _chunk(
    folder: Path, seeds: Sequence[int], step: int, device: str, writers: Sequence[Any]
) -> dict[str, Tensor]:
    """The next `CHUNK` batches of all worlds, each [steps, worlds, rows, tokens]."""
    loaded = []
    for seed, writer in zip(seeds, writers, strict=True):
        file = folder / str(seed) / f"batches{step}.npz"
        while not file.exists():
            if writer.exitcode:
                sys.exit(f"world {seed}: its batches ended before step {step}")
            time.sleep(0.05)
        loaded.append(dict(np.load(file)))
        file.unlink()
    rows = max(one["ids"].shape[1] for one in loaded)
    result = {}
    for name, fill in (("ids", 0), ("doc", -1), ("position", 0)):
        steps, _, width = loaded[0][name].shape
        whole = np.full((steps, len(seeds), rows, width), fill, np.int16)
        for number, one in enumerate(loaded):
            whole[:, number, : one[name].shape[1]] = one[name]
        result[name] = torch.from_numpy(whole).to(device)
    return result


def _stacked_items(
    checks: Sequence[Mapping[str, np.ndarray]], device: str
) -> tuple[dict[str, Tensor], int]:
    rows = -(-max(len(one["ids"]) for one in checks) // CHECK_ROWS) * CHECK_ROWS
    stacked = {}
    for name in ("ids", "doc", "position", "target", "owner"):
        fill = -1 if name in ("doc", "target") else 0
        whole = np.full((len(checks), rows, CHECK_WIDTH), fill, np.int16)
        for number, one in enumerate(checks):
            whole[number, : len(one[name])] = one[name]
        stacked[name] = torch.from_numpy(whole).to(device)
    return stacked, max(int(one["first"][-1] + one["choices"][-1]) for one in checks)


def _accuracies(
    scores: np.ndarray, checks: Sequence[Mapping[str, np.ndarray]]
) -> list[dict[str, float]]:
    """{task: accuracy} of each world; the choice with the highest log-likelihood wins."""
    result = []
    for own, one in zip(scores, checks, strict=True):
        right = defaultdict(list)
        for first, choices, gold, task in zip(
            *(one[name].tolist() for name in ("first", "choices", "gold", "task")), strict=True
        ):
            right[TASKS[task]].append(int(own[first : first + choices].argmax()) == gold)
        result.append({task: sum(hits) / len(hits) for task, hits in right.items()})
    return result


def save(config: str, folder: Path, seeds: Sequence[int]) -> None:
    """Write each trained base as the folder of a checkpoint."""
    from ablation.config.load import load_study
    from ablation.micro_world.pretrain import build_model
    from ablation.model.checkpoints import read_tokenizer
    from ablation.model.checkpoints import save as save_checkpoint

    study = load_study(yaml.safe_load(Path(config).read_text()), files=[config])
    for seed in seeds:
        home = folder / str(seed)
        tokenizer = read_tokenizer(home / "tokenizer")
        model = build_model(len(tokenizer), study.world.pretrain.model)
        weights = torch.load(home / "trained.pt", weights_only=True)
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        model.load_state_dict(weights)
        save_checkpoint(model, tokenizer, home / "base")


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "train":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        train(Path(rest[0]), [int(seed) for seed in rest[1:]], device)
    else:
        chosen = {"prepare": prepare, "save": save}[command]
        chosen(rest[0], Path(rest[1]), [int(seed) for seed in rest[2:]])
