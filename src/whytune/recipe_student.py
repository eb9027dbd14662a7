"""The knobs of a student: what it reads, how it is trained, how it is asked."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from whytune.settings import Count, Either, Fraction, Positive, Settings, refuse

Attention = Literal["auto", "split", "masked", "flex", "separate"]
"""Ways to compute a bundle."""
Tracker = Literal["tensorboard", "trackio", "wandb", "mlflow"]


class Prompting(Settings):
    """What the student reads before it answers."""

    system: str | None = None
    """A system instruction; without it, the model's template decides (some bring one of their own).
    An empty text says nothing in its place."""
    context_turns: Count | None = None
    """Turns before the judged one that are shown; without it, all. 0 shows the judged turn only."""
    max_length: Annotated[int, Field(ge=32)] = 1024
    """Tokens of the prompt: template, conversation and question; the target comes on top. What
    is too long loses the middle of its conversation (counted and reported); question, label
    and explanation are never cut."""


class Train(Settings):
    """The student's training. Defaults are the paper's (table 1); small models want more."""

    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """Peak learning rate of AdamW. 5e-5 suits 7B; a 135M student wants about 1e-3."""
    tasks: Literal["separate", "joint"] = "separate"
    """`separate` teaches one student per task, as the paper did; `joint` teaches one student all
    tasks of a corpus: each conversation is read once, with the questions as branches of it.
    `lora_dropout` above 0 then draws one mask for the shared conversation, not one a question."""
    num_train_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the lessons; fractions allowed."""
    per_device_train_batch_size: Positive = 4
    """Conversations in one forward pass, each with all its lessons."""
    gradient_accumulation_steps: Positive = 1
    """Forward passes per update; loss and gradient do not depend on how a step is divided."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """How the learning rate falls."""
    warmup_ratio: Fraction = 0.03
    """Share of the updates in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    lora_r: Positive = 16
    """Rank of the adapter."""
    lora_alpha: Positive = 32
    """The adapter's update is scaled by alpha / rank."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout before the adapter. Lessons about one conversation share the mask of what they
    share. On a CPU its masks take two fifths of the time."""
    target_modules: Either[Literal["all-linear"], list[str]] = [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ]  # fmt: skip
    """Which projections get an adapter."""
    layers_to_transform: Annotated[list[Count], Field(min_length=1)] | None = None
    """Blocks that get an adapter, counted from 0; without it, all. Training does not go back below
    the first of them: with the upper half of the blocks it takes a quarter less time."""
    attention: Attention = "auto"
    """How a conversation's branches look back to it. `split`: the conversation causally, then the
    branches under a mask. `masked`: all at once under a mask. `flex`: FlexAttention, which skips
    what nobody sees and wants a GPU. `separate`: nothing is shared, each branch reads the whole
    conversation again. `auto` is flex on a GPU and split elsewhere."""
    load_in_4bit: bool = False
    """QLoRA: the base in NF4 with double quantisation. Saves memory, never time on a CPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; `auto` is bfloat16 on a GPU that has it, float32 elsewhere."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    eval_steps: Positive | None = None
    """Updates between two measurements of the label loss; without it, once an epoch."""
    eval_limit: Positive | None = None
    """Measure the curve on so many examples; without it, on all."""
    keep_adapters: bool = False
    """Keep the adapter as it stands at every measurement, a PEFT folder each, so that `whytune
    analyze` can look back at how a student came to be."""
    report_to: list[Tracker] = []
    """Trackers that are told loss, learning rate and measurements while a student learns, beside
    `history.jsonl`; their packages are installed apart. Local ones write into the run's folder."""
    load_best_model_at_end: bool = False
    """Keep the adapter with the lowest label loss on the validation part, not the last one."""
    early_stopping_patience: Positive | None = None
    """Stop after so many measurements without a better label loss on the validation part."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.layers_to_transform is not None and self.target_modules == "all-linear":
            refuse(["found layers_to_transform with target_modules all-linear, which means every "
                    "block; name the projections"])  # fmt: skip
        return self

    def effective(self) -> dict[str, Any]:
        """The knobs that change a student, as JSON says them: without what is kept or told on the
        way, and without which tasks share a student, which its lessons say.
        """
        return self.model_dump(mode="json", exclude={"tasks", "keep_adapters", "report_to"})


class Predict(Settings):
    """How students are asked."""

    per_device_eval_batch_size: Positive = 16
    """Conversations in one forward pass; the answers do not depend on it."""
    explanations: Count = 10
    """Test examples for which an explanation is generated and shown on the page."""
    max_new_tokens: Positive = 80
    """Longest generated explanation, in tokens."""
    samples: Positive = 1
    """Reasons that a student which explains first writes about each text; its label probabilities
    are averaged over them. 1: the most probable words; of more, each is drawn."""
    temperature: Annotated[float, Field(gt=0)] = 0.7
    """With which they are drawn."""
