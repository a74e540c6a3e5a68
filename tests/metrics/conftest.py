"""Images, and a CLIP model of two layers with a vocabulary of three letters."""

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer


@pytest.fixture(scope="module")
def images():
    return torch.rand(4, 3, 48, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    vocab = {token: i for i, token in enumerate(["a", "b", "c", "a</w>", "b</w>", "c</w>"])}
    vocab |= {"<|startoftext|>": 6, "<|endoftext|>": 7}
    CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(folder)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2}
    text = tower | {"vocab_size": 8, "bos_token_id": 6, "eos_token_id": 7}
    vision = tower | {"image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    return folder
