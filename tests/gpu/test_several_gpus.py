"""Promises on two CUDA devices: ranks that share weights out train as one GPU does.

python -m pytest -m gpu -k ranks -s
"""

import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from workload import TOY, make_model

from ablation.model.checkpoints import compile_layers
from ablation.parallel.collectives import rank
from ablation.parallel.launch import RankFailed
from ablation.training.callbacks import Watch
from ablation.training.finetune import finetune
from tests.support.small_training import HARDWARE, recipe, write_records
from tests.support.tiny import tiny_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
RUN = {
    "max_steps": 12,
    "learning_rate": 1e-3,
    "micro_batch_examples": 4,
    "save_steps": 4,
    "row_tokens": 128,
    "max_seq_len": 128,
}


def load(dtype, attention, compiled):
    torch.backends.cuda.matmul.allow_tf32 = False
    hardware = TOY.hardware.model_copy(update={"gpu": 1, "dtype": dtype})
    shape = TOY.shape.model_copy(update={"vocabulary": 512})
    model = make_model(replace(TOY, shape=shape, hardware=hardware), attention)
    if compiled:
        compile_layers(model)
    return model, tiny_tokenizer()


@pytest.mark.parametrize(
    "dtype, attention, compiled, tolerance",
    [
        ("float32", "sdpa", False, 1e-4),
        ("bfloat16", "sdpa", False, 2e-2),
        ("bfloat16", "flex_attention", True, 2e-2),
    ],
)
@pytest.mark.parametrize("optimizer", ["adafactor", "adafactor_bf16", "adamw_torch_fused"])
def test_two_ranks_on_two_gpus_train_as_one(
    tmp_path, optimizer, dtype, attention, compiled, tolerance
):
    write_records(tmp_path / "data.jsonl")
    trained = []
    for gpus in (1, 2):
        changes = {"optimizer": optimizer, "micro_batch_examples": 4 // gpus}
        keeps = compiled and gpus > 1  # one of the two ways to share weights for each of the dtypes
        hardware = HARDWARE.model_copy(update={"gpu": gpus, "keep_gathered": keeps})
        loads = partial(load, dtype, attention, compiled)
        state = tmp_path / str(gpus)
        chosen = recipe(**RUN | changes)
        trained.append(finetune(loads, tmp_path / "data.jsonl", chosen, 1, hardware, "t", state))
    alone, both = trained
    assert both.record["ranks"] == 2 and both.model.dtype == alone.model.dtype
    for ours, theirs in zip(both.curve, alone.curve, strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance)
    assert both.summary["eval_loss"] == pytest.approx(alone.summary["eval_loss"], rel=tolerance)

    again = finetune(loads, tmp_path / "data.jsonl", chosen, 1, hardware, "t", tmp_path / "2")
    assert again.record["resumes"] == [12]  # the last checkpoint gives back the saved weights
    weights = both.model.state_dict()
    assert all(torch.equal(w, weights[name]) for name, w in again.model.state_dict().items())


def load_and_die(death):
    """A model whose training is killed on rank 1 at step 7; `death` is the file of the time."""
    on_step_end = Watch.on_step_end

    def dying(self, args, state, control, **kwargs):
        on_step_end(self, args, state, control, **kwargs)
        if rank() == 1 and state.global_step == 7:
            death.write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)

    Watch.on_step_end = dying
    return load("bfloat16", "sdpa", False)


def test_a_killed_rank_frees_both_gpus_within_a_minute_and_the_training_resumes(tmp_path):
    def train(loads):
        hardware = HARDWARE.model_copy(update={"gpu": 2})
        chosen = recipe(**RUN | {"optimizer": "adafactor_bf16", "micro_batch_examples": 2})
        where = tmp_path / "data.jsonl", chosen, 1, hardware, "t", tmp_path / "state"
        return finetune(loads, *where)

    write_records(tmp_path / "data.jsonl")
    used = [torch.cuda.device_memory_used(number) for number in range(2)]
    death = tmp_path / "death"
    with pytest.raises(RankFailed, match="rank 1 died of SIGKILL"):
        train(partial(load_and_die, death))
    told = time.time() - float(death.read_text())
    while any(torch.cuda.device_memory_used(n) > before + 2**28 for n, before in enumerate(used)):
        assert time.time() - float(death.read_text()) < 60
        time.sleep(0.1)
    freed = time.time() - float(death.read_text())
    print(f"\nthe job ended {told:.1f} s after the kill, both GPUs were free after {freed:.1f} s")
    assert told < 60
    again = train(partial(load, "bfloat16", "sdpa", False))
    assert again.record["resumes"] == [4] and again.summary["steps"] == 12
