"""Structural duplication: how like the end token the 77 embeddings are, under different paddings.

SD 1 pads with the end-of-text token, so that its pads are near copies of eot; `!` undoes that.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from interp.plot.style import PAGE, canvas, legend, literal
from interp.text.categories import CATEGORIES
from interp.text.html import INK
from interp.text.prompt import Prompt

Paddings = Mapping[str, Prompt | Sequence[Prompt]]
MARKERS = dict(zip(CATEGORIES, ("s", "o", "D", "."), strict=True))


def pad_similarity(prompts: Paddings) -> Figure:
    """Cosine similarity of every embedding to `v_eot`, a panel for each padding.

    Example:
        >>> texts = read_prompts("memorized.csv").texts
        >>> bang = encode(pipe, texts, pad_token="!")
        >>> plot.pad_similarity({"padded with <eot>": encode(pipe, texts), "padded with !": bang})

    Positions are counted from eot, where all prompts meet; one line for each prompt.

    Args:
        prompts: encoded prompts, one or several, by the name of their padding.
    """
    with canvas(1, len(prompts), PAGE, 2.2, sharey=True, sharex=True) as (figure, axes):
        for ax, (name, each) in zip(axes[0], _several(prompts).items(), strict=True):
            alpha = max(0.1, 0.9 / len(each) ** 0.5)
            for number, prompt in enumerate(each):
                vectors, codes = _vectors(prompt), prompt.category.numpy()
                eot = vectors[prompt.e]
                lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(eot)
                # A zeroed embedding has no direction, and is like nothing.
                cosine = np.divide(
                    vectors @ eot, lengths, out=np.zeros(len(vectors)), where=lengths > 0
                )
                x = np.arange(len(cosine)) - prompt.e
                ax.plot(x, cosine, color="#cccccc", linewidth=0.5, alpha=alpha, zorder=1)
                for code, category in enumerate(CATEGORIES):
                    at = codes == code
                    look = {"color": INK[category], "marker": MARKERS[category], "alpha": alpha}
                    label = category if number == 0 else None
                    ax.plot(x[at], cosine[at], linestyle="none", label=label, **look)
            ax.set(title=literal(name), xlabel="position, from eot")
        axes[0, 0].set_ylabel("cosine similarity to eot")
        legend(figure, axes[0, 0])
        _opaque(figure)
    return figure


def embedding_pca(prompts: Paddings) -> Figure:
    """The embeddings on their first two principal components, a panel for each padding.

    Example:
        >>> bang = ip.encode(pipe, a.text, pad_token="!")
        >>> plot.embedding_pca({"padded with <eot>": a, "padded with !": bang})

    Components are those of all panels' embeddings together, so positions can be compared.

    Args:
        prompts: encoded prompts, one or several, by the name of their padding.
    """
    given = _several(prompts)
    every = np.concatenate([_vectors(prompt) for each in given.values() for prompt in each])
    pca = PCA(2).fit(every)
    with canvas(1, len(given), PAGE, 2.6, sharey=True, sharex=True) as (figure, axes):
        for ax, (name, each) in zip(axes[0], given.items(), strict=True):
            points = pca.transform(np.concatenate([_vectors(prompt) for prompt in each]))
            codes = np.concatenate([prompt.category.numpy() for prompt in each])
            # Pads first and eot last: it is one point among dozens on the same spot.
            for category in ("pad", "prompt", "sot", "eot"):
                x, y = points[codes == CATEGORIES.index(category)].T
                look = {"color": INK[category], "marker": MARKERS[category], "label": category}
                alpha = 1.0 if category == "eot" else 0.6
                ax.plot(x, y, linestyle="none", alpha=alpha, **look)
            share = pca.explained_variance_ratio_
            ax.set(title=literal(name), xlabel=f"component 1 ({share[0]:.0%})")
        axes[0, 0].set_ylabel(f"component 2 ({share[1]:.0%})")
        legend(figure, axes[0, 0])
        _opaque(figure)
    return figure


def _several(prompts: Paddings) -> dict[str, list[Prompt]]:
    return {
        name: [each] if isinstance(each, Prompt) else list(each) for name, each in prompts.items()
    }


def _vectors(prompt: Prompt) -> np.ndarray:
    return prompt.embeds.detach().double().cpu().numpy()


def _opaque(figure: Figure) -> None:
    """Legends show colours as they are, however faint the dots."""
    for box in figure.legends:
        for handle in box.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
