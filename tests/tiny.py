"""Random tiny bundles on disk: three architectures, two kinds of tokenizer."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedTokenizerFast, Qwen2Config

D = 32
TEXTS = [
    "fly from Boston to Seattle next Friday",
    'the points "(-1, -2)" and (3, 4) are $20 apart',
    "send naïve café-owners a 日本 email at 6:45, ok?",
    "Function: book slots origin destination date\n\n",
]
SCHEMAS = {"book": {"name": "book", "slots": {slot: {"type": "string"} for slot in ("origin", "destination", "date")}}}
CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "mistral": MistralConfig}


def tokenizer(kind):
    """Train a byte-level BPE or a Unigram tokenizer with Metaspace on a few sentences."""
    if kind == "bpe":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        )
    made.train_from_iterator(TEXTS * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def make(folder: Path, *, architecture="llama", kind="bpe", seed=0, max_tokens=256):
    """Write a bundle as upstream would leave it, with a bundle.toml of five lines."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    words = tokenizer(kind)
    config = CONFIGS[architecture](
        vocab_size=len(words),
        hidden_size=D,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.ndim > 1 else parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder / "base")
    words.save_pretrained(folder / "base")
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    adapted.save_pretrained(folder / "adapter")
    heads = {
        "null_head": {"classifier.weight": torch.randn(2, D), "classifier.bias": torch.zeros(2)},
        "pointer_head": {"W_start.weight": torch.randn(D, D) / 4, "W_end.weight": torch.randn(D, D) / 4},
    }
    torch.save(heads, folder / "probe_heads.pt")
    (folder / "function_schemas.json").write_text(json.dumps(SCHEMAS))
    (folder / "bundle.toml").write_text(
        f'base = "base"\nadapter = "adapter"\n[prompt]\nmax_tokens = {max_tokens}\n'
        '[[runtime]]\nname = "hf-fp32"\ndtype = "float32"\n'
    )
    return folder
