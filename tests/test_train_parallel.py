"""Two processes teach the same student as one does."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
from pathlib import Path

from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from whytune.recipe_student import Prompting, Train
from whytune.student import models
from whytune.student.encode import Branch, Bundle
from whytune.student.targets import Part
from whytune.student.train import train

folder, out, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
settings = Train(learning_rate=1e-2, per_device_train_batch_size=size, lora_dropout=0.0)
student = models.adapt(models.load(models.find(str(folder)), Prompting()), settings, 0)
bundles = [
    Bundle(prefix=tuple(range(10, 14 + n)), branches=(Branch(
        ids=tuple(range(30, 32 + n % 3)), parts=(Part.PROMPT, *[Part.LABEL] * (1 + n % 3))),))
    for n in range(12)
]
train(student, bundles, settings, seed=0, folder=out, measure=lambda: {"t": 0.0})
state = {k: v.contiguous() for k, v in get_peft_model_state_dict(student.adapted).items()}
save_file(state, f"{out}.{__import__('os').environ.get('RANK', '0')}.safetensors")
"""


def taught(tmp_path: Path, model: Path, processes: int) -> list[dict[str, torch.Tensor]]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    out = tmp_path / f"processes-{processes}"
    arguments = [str(script), str(model), str(out), str(4 // processes)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *arguments], check=True, timeout=240,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )  # fmt: skip
    return [load_file(f"{out}.{rank}.safetensors") for rank in range(processes)]


def test_two_processes_teach_the_student_that_one_teaches(
    tmp_path: Path, tiny_folder: Path
) -> None:
    (alone,) = taught(tmp_path, tiny_folder, 1)
    first, second = taught(tmp_path, tiny_folder, 2)
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-5)
