"""LAION's aesthetic head: against a network written out, on CLIP's own image embeddings."""

import hashlib
import pickle

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPModel

from interp import metrics
from interp.errors import InterpError
from interp.sweep.measures import measured


class Improved(nn.Module):
    """The published layout, its sizes made small."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, 6), nn.Dropout(0.2), nn.Linear(6, 5), nn.Dropout(0.2),
            nn.Linear(5, 4), nn.Dropout(0.1), nn.Linear(4, 3), nn.Linear(3, 1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def heads():
    torch.manual_seed(0)
    return {"improved": Improved().eval(), "linear": nn.Linear(8, 1)}


@pytest.mark.parametrize("kind", ["improved", "linear"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@torch.no_grad()
def test_the_score_is_the_heads_of_the_normalised_embedding(
    images,
    clip_folder,
    tmp_path,
    kind,
    suffix,
):
    head, path = heads()[kind], tmp_path / f"head{suffix}"
    if suffix == ".pth":
        torch.save(head.state_dict(), path)
    else:
        save_file(head.state_dict(), path)
    metric = metrics.Aesthetic(clip_folder, path)
    square = images[..., 8:40, 16:48]
    small = F.interpolate(square, (16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in (metric.clip.mean, metric.clip.std))
    model = CLIPModel.from_pretrained(clip_folder)
    features = model.visual_projection(
        model.vision_model(pixel_values=(small - mean) / std).pooler_output
    )
    expected = head(features / features.norm(dim=1, keepdim=True))[:, 0]
    torch.testing.assert_close(metric(square), expected, atol=1e-5, rtol=1e-4)
    facts = metric.provenance()
    assert facts["head_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts["clip"]["sha256"] == metrics.CLIPScore(clip_folder).sha256
    again = pickle.loads(pickle.dumps(metric))
    assert torch.equal(again(square, "a prompt is not looked at"), metric(square))


def test_a_sweep_measures_it_once_for_each_image(images, clip_folder, tmp_path):
    torch.save(heads()["linear"].state_dict(), tmp_path / "head.pth")
    metric = metrics.Aesthetic(clip_folder, tmp_path / "head.pth")
    grid = (images.reshape(2, 2, 3, 48, 64).permute(0, 1, 3, 4, 2) * 255).to(torch.uint8).numpy()
    dims, values = measured({"aesthetic": metric}, grid, "a", None)["aesthetic"]
    assert dims == ("patch", "seed")
    assert values[1, 0] == pytest.approx(float(metric(grid[1, 0])[0]), abs=1e-5)
    with pytest.raises(InterpError, match="the score of one image"):
        metrics.Diversity(metric)(images)


def test_what_is_no_head_is_refused(clip_folder, tmp_path):
    relu = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, 1))
    other = {
        "relu": {f"layers.{key}": value for key, value in relu.state_dict().items()},
        "two": nn.Linear(8, 2).state_dict(),
        "wide": nn.Linear(768, 1).state_dict(),
        "list": [1, 2],
        "code": nn.Linear(8, 1),
    }
    said = {
        "relu": r"its weights are layers.0.bias",
        "two": "8 -> 2 numbers",
        "wide": "takes embeddings of 768 numbers, and this CLIP gives 8",
        "list": "holds a list",
        "code": "no file of weights",
        "text": "no file of weights",
    }
    for name, content in other.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "text").write_text("<html>not found</html>")
    for name, message in said.items():
        with pytest.raises(InterpError, match=message):
            metrics.Aesthetic(clip_folder, tmp_path / name)
    with pytest.raises(InterpError, match="There is no such file"):
        metrics.Aesthetic(clip_folder, tmp_path / "nowhere")
