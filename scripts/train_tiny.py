"""Train the embedded model, because a default run that needs a model hub is not a default run.

Writes ``src/bitzones/embedded/tiny/``: bf16 safetensors, tokenizer, config and the model card with what was used and what it scores.
Everything is generated (``bitzones.embedded``), every seed is fixed; the same torch build on the same kind of CPU gives the same weights.

    python scripts/train_tiny.py --steps 3600            # about half an hour on two CPU cores
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from embedded_tasks import science_mini, word_problems_mini

SEED = 20261124
VOCABULARY = 768
END = "<|end|>"
EVALUATED = 500
"""Items of each task on which the finished model is scored."""
QUESTION_WEIGHT = 0.03
"""Weight of the loss on question tokens: enough to make the model a language model of them, little enough to spend the steps on answers."""
MIXTURE = (("science", 0.25), ("words", 0.35), ("sums", 0.4))
SUMS = 6
"""Bare sums in one document: short practice is cheap, and carrying takes about a hundred thousand examples to learn."""
POOL = 16
"""Batches drawn together and sorted by length, so that little is spent on padding."""

CONFIG: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "initializer_range": 0.06,
}
"""An initial spread of 0.06, near 1/sqrt(192), learned carrying in 600 steps where 0.02 showed none of it (LOG.md)."""


Document = list[tuple[str, str]]
"""Turns of (prompt, answer)."""


def documents(seed: int) -> Iterator[Document]:
    """Endless documents in the mixture's proportions, in the prompt text of the tasks."""
    science = science_mini.stream(seed, "train")
    words = word_problems_mini.stream(seed, "train")
    sums = word_problems_mini.sums(seed)
    rng = random.Random(f"mixture/{seed}")
    kinds, shares = [kind for kind, _ in MIXTURE], [share for _, share in MIXTURE]
    while True:
        match rng.choices(kinds, shares)[0]:
            case "science":
                item = next(science)
                answer = item["choices"]["text"][item["choices"]["label"].index(item["answerKey"])]
                yield [(f"Question: {item['question']}\nAnswer:", f" {answer}")]
            case "words":
                problem = next(words)
                yield [(f"Question: {problem['Body']} {problem['Question']}\nAnswer:", f" {float(problem['Answer']):.0f}")]
            case _:
                yield list(islice(sums, SUMS))


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with one token per digit, so that numbers never seen are still made of known tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(("".join(p + a for p, a in document) for document in islice(documents(SEED), 20_000)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, bos_token=END)


def encode(tokenizer: PreTrainedTokenizerFast, document: Document) -> tuple[list[int], list[float]]:
    """Token ids and the weight of the loss on each: ``<end> prompt answer <end> prompt answer <end>``."""
    end = tokenizer.eos_token_id
    ids, weights = [end], [0.0]
    for prompt, answer in document:
        question, reply = tokenizer(prompt)["input_ids"], [*tokenizer(answer)["input_ids"], end]
        ids += question + reply
        weights += [QUESTION_WEIGHT] * len(question) + [1.0] * len(reply)
    return ids, weights


def batches(tokenizer: PreTrainedTokenizerFast, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless (input_ids, attention_mask, loss_weights), each of shape (size, length), of ``size`` documents of about one length."""
    stream = documents(SEED)
    rng = random.Random(SEED)
    while True:
        rows = sorted((encode(tokenizer, d) for d in islice(stream, size * POOL)), key=lambda row: len(row[0]))
        groups = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(groups)
        for group in groups:
            length = max(len(ids) for ids, _ in group)
            batch = torch.full((size, length), tokenizer.eos_token_id)
            mask = torch.zeros(size, length, dtype=torch.long)
            loss_weights = torch.zeros(size, length)
            for row, (ids, weights) in enumerate(group):
                batch[row, : len(ids)] = torch.tensor(ids)
                mask[row, : len(ids)] = 1
                loss_weights[row, : len(ids)] = torch.tensor(weights)
            yield batch, mask, loss_weights


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 200 steps, flat, then linear to zero over the last 40% (warm-up-stable-decay)."""
    return peak * min(1.0, (step + 1) / 200, (steps - step) / (0.4 * steps))


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int) -> dict[str, float]:
    """Accuracy on the test split, by likelihood and by greedy generation: a check while training, not the project's measurement."""
    model.eval()
    science = science_mini.generate(0, "test", count)
    hits = 0
    for item in science:
        prompt = tokenizer(f"Question: {item['question']}\nAnswer:")["input_ids"]
        scores = []
        for choice in item["choices"]["text"]:
            answer = tokenizer(f" {choice}")["input_ids"]
            ids = torch.tensor([[tokenizer.eos_token_id, *prompt, *answer]])
            logprobs = model(ids).logits[0].float().log_softmax(-1)
            scores.append(sum(float(logprobs[len(prompt) + n, token]) for n, token in enumerate(answer)))
        hits += item["choices"]["label"][max(range(len(scores)), key=scores.__getitem__)] == item["answerKey"]
    solved = 0
    for problem in word_problems_mini.generate(0, "test", count):
        prompt = tokenizer(f"Question: {problem['Body']} {problem['Question']}\nAnswer:")["input_ids"]
        ids = torch.tensor([[tokenizer.eos_token_id, *prompt]])
        generating: Any = model  # its mixin is typed for another protocol
        out = generating.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=0)
        text = str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
        solved += text.strip() == f"{float(problem['Answer']):.0f}"
    model.train()
    return {"science_mini": hits / count, "word_problems_mini": solved / count}


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(SEED)
    tokenizer = train_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=None, **CONFIG
    )
    model = LlamaForCausalLM(config)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.peak, betas=(0.9, 0.98), fused=True)
    started, tokens, average = time.time(), 0, None
    for step, (ids, mask, weights) in enumerate(islice(batches(tokenizer, args.batch), args.steps)):
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate(step, args.steps, args.peak)
        logits = model(ids, attention_mask=mask).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        loss = (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens += int(mask.sum())
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        if not math.isfinite(average):
            raise SystemExit(f"loss is {average} at step {step}")
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} loss {average:.4f} tokens {tokens} {time.time() - started:.0f} s", flush=True)
        if (step + 1) % args.check == 0:
            print(json.dumps(accuracy(model, tokenizer, 60)), flush=True)
    save(model, tokenizer, args, tokens, time.time() - started)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace, tokens: int, seconds: float) -> None:
    model.bfloat16()
    model.save_pretrained(args.output)
    record = {
        "seed": SEED, "steps": args.steps, "batch": args.batch, "peak_lr": args.peak, "tokens": tokens, "seconds": round(seconds),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "scores": accuracy(model.float(), tokenizer, EVALUATED),
        "parameters": model.num_parameters(), "bytes": (args.output / "model.safetensors").stat().st_size,
    }  # fmt: skip
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, tokenizer.eos_token_id)]
    )  # last: from here on the tokenizer opens every text as the model saw it in training
    tokenizer.save_pretrained(args.output)
    (args.output / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (args.output / "README.md").write_text(model_card(record))
    print(json.dumps(record))


def model_card(record: dict[str, Any]) -> str:
    """The card that lies beside the weights, from what the run recorded."""
    shares = ", ".join(f"{share:.0%} {kind}" for kind, share in MIXTURE)
    scores = "".join(f"| {task} | {score:.1%} | {EVALUATED} |\n" for task, score in record["scores"].items())
    return f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# bitzones tiny

A Llama of {CONFIG["num_hidden_layers"]} layers and {record["parameters"]:,} parameters, made so that a default run of bitzones
has something to lose when weights lose bits, without a model hub. It answers two generated task families and knows nothing
else: **not for any other use**, and its zones say nothing about other models.

- **Data**: generated by `bitzones.embedded` ({shares}; a document is one question with its answer, or {SUMS} bare sums).
  Evaluation templates and the numbers of evaluation problems ({", ".join(map(str, word_problems_mini.TEST_NUMBERS))}) never
  occur in training; the facts of `science_mini` do.
- **Training**: `scripts/train_tiny.py`, seed {record["seed"]}, {record["steps"]:,} steps of {record["batch"]} documents,
  {record["tokens"]:,} tokens, AdamW, peak learning rate {record["peak_lr"]}, warm-up-stable-decay, float32;
  {record["seconds"] / 60:.0f} minutes on {record["threads"]} CPU threads, torch {record["torch"]}.
- **Weights**: bfloat16 safetensors, {record["bytes"]:,} bytes; embeddings tied. 192 and 384 input features, so that quanto
  forms groups of 96 and 128. Byte-level BPE of {VOCABULARY} tokens, one token a digit.

Scores of the bfloat16 weights on the test splits as drawn with another seed than the shipped ones, read by the trainer in float32:

| task | accuracy | n |
|---|---|---|
{scores}
Chance is 25% on `science_mini` and 0% on `word_problems_mini`. What bitzones itself measures on the shipped items stands in its report.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--peak", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--check", type=int, default=500, help="steps between accuracy checks")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "src/bitzones/embedded/tiny")
    train(parser.parse_args())
