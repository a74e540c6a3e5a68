"""Predictions as functions of what the UNet is given, around a point where they are differentiated.

Each takes points of one prompt, all rows or some, and returns a function of as many rows; what it
does not name stays as it is at the points. `derivatives` takes them.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from einops import reduce
from jaxtyping import Float
from torch import Tensor

from interp.attribute.points import Points, predict
from interp.session import Session

Prediction = Callable[[Tensor], Tensor]


def each(points: Points) -> Iterator[Points]:
    """The points one by one: a derivative takes several times the memory of a prediction.

    Example:
        >>> [vjp(eps_c(sd, point), point.latents, point.eps_c) for point in each(points)]
    """
    return (points[[row]] for row in range(len(points)))


def eps_c(session: Session, points: Points) -> Prediction:
    """The conditional prediction, of latents.

    Example:
        >>> eps_c(sd, points)(points.latents)           # points.eps_c
    """
    prompt = points.prompt
    return lambda latents: predict(session, replace(points, latents=latents), prompt.embeds)


def eps_u(session: Session, points: Points) -> Prediction:
    """The unconditional prediction, of latents.

    Example:
        >>> eps_u(sd, points)(points.latents)           # points.eps_u
    """
    return eps_c(session, replace(points, prompt=session.unconditional))


def guidance(session: Session, points: Points) -> Prediction:
    """`eps_c - eps_u`, of latents.

    Example:
        >>> jvp(guidance(sd, points), points.latents, direction)
    """
    c, u = eps_c(session, points), eps_u(session, points)
    return lambda latents: c(latents) - u(latents)


def guided(session: Session, points: Points) -> Prediction:
    """`eps_u + w (eps_c - eps_u)` with the session's w, of latents.

    Example:
        >>> diagonal(guided(sd, points), points.latents, probes)
    """
    c, u, weight = eps_c(session, points), eps_u(session, points), session.guidance
    return lambda latents: weight * c(latents) + (1 - weight) * u(latents)


def of_embeds(session: Session, points: Points) -> Prediction:
    """The conditional prediction, of embeddings, one for each row.

    Example:
        >>> embeds = torch.stack([a.embeds] * len(points))
        >>> jvp(of_embeds(sd, points), embeds, embeds - empty.embeds)

    SDXL's pooled embedding stays the prompt's.
    """
    return lambda embeds: predict(session, points, embeds)


def lengths(values: Float[Tensor, "row c h w"]) -> Float[Tensor, " row"]:
    """The Euclidean norm of every row, in float32.

    Example:
        >>> lengths(points.eps_c - points.eps_u)
    """
    return reduce(values.float().square(), "row c h w -> row", "sum").sqrt()
