"""Scores pairs: trained networks, canonical view, frozen evidence and judges, in one object.

In: features and pairs. Out: similarity, corrected similarity, clean probability, embeddings for the
indexes. The object is one safetensors file; nothing in it executes when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nccleaner.encoders.precision import fast_dtype
from nccleaner.files import replace_file
from nccleaner.model.contrast import REFERENCES, Contrast
from nccleaner.model.mfsr import MainNet
from nccleaner.model.mscn import MetaNet
from nccleaner.model.products import float32_products
from nccleaner.purify.canonical import CanonicalView
from nccleaner.purify.evidence import Evidence, Scored, Scores
from nccleaner.purify.frozen import KINDS, Frozen, FrozenEvidence
from nccleaner.purify.judge import Judges
from nccleaner.purify.scorer_file import LAYOUT, damaged, read_description, scorer_identity
from nccleaner.purify.siblings import Siblings
from nccleaner.purify.views import Views
from nccleaner.train.networks import Architecture, build_networks, read_own_backbone
from nccleaner.train.objective import pair_logits
from nccleaner.train.pairs import Features, Pairs, rows_of

# Rounds in which siblings are weighed by what the last one made of them.
SIBLING_ROUNDS = 2
_BLOCK_ROWS = 2048


def _ignore(count: int) -> None:
    del count


class Scorer:
    """Scores pairs and embeds their halves.

    Args:
        architecture: Shape of the networks.
        networks: Main and meta network, two of each or one.
        frozen: The frozen evidence; None where captions come as tokens.
        canonical: What the final belief makes of frozen features; None likewise.
        siblings: Whether agreement with the other captions of an image is evidence.
        judges: None until they are fitted; then `score` works.
        tokenizer: Of captions that come as tokens, as JSON text; else empty.
        contrast: The alternatives; None until they are found; then `gather` works.
    """

    def __init__(
        self,
        *,
        architecture: Architecture,
        networks: Sequence[tuple[MainNet, MetaNet]],
        frozen: FrozenEvidence | None,
        canonical: CanonicalView | None,
        siblings: bool,
        judges: Judges | None,
        tokenizer: str,
        contrast: Contrast | None = None,
    ) -> None:
        self.architecture = architecture
        self.networks = [(main_net.eval(), meta_net.eval()) for main_net, meta_net in networks]
        self.frozen = frozen
        self.canonical = canonical
        self.contrast = contrast
        self.siblings = siblings
        self.judges = judges
        self.tokenizer = tokenizer

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        canonical = 0 if self.canonical is None else self.canonical.width
        return len(self.networks) * self.architecture.joint_width + canonical

    @torch.inference_mode()
    def embed_images(self, images: Tensor) -> Float[Tensor, "n dim"]:
        """Embeds images, [n, f]; rows have length 1.

        The inner product with a row of `embed_texts` is the pair's `similarity`, to 1e-4 where the
        hardware computes with bfloat16.
        """
        return self._views("image", images).joined()

    @torch.inference_mode()
    def embed_texts(self, texts: Tensor) -> Float[Tensor, "n dim"]:
        """Embeds captions, [n, l] features or [n, t] tokens; rows have length 1."""
        return self._views("text", texts).joined()

    @torch.inference_mode()
    def find_alternatives(
        self, features: Features, pool: Pairs, *, identities: Int[Tensor, " images"], seed: int
    ) -> None:
        """Draws the references of `contrast` from the pool by seed."""
        drawn = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
        pairs = pool.take(drawn[:REFERENCES].to(pool.image_rows.device))
        images, texts = features.of(pairs)
        self.contrast = Contrast(
            self.embed_images(images), self.embed_texts(texts), identities[pairs.image_rows]
        )

    @torch.inference_mode()
    def gather(
        self,
        features: Features,
        pairs: Pairs,
        *,
        identities: Int[Tensor, " images"],
        advance: Callable[[int], None] = _ignore,
    ) -> Evidence:
        """Gathers the evidence of pairs.

        Args:
            features: What `pairs` point into. A row is embedded once in a block of pairs that
                share it.
            pairs: What to look at.
            identities: A number from the content of each image of `features`.
            advance: Takes how many pairs are done since the last call.
        """
        assert self.contrast is not None, "alternatives are found before evidence is gathered"
        cosines, logits, contrast, frozen = [], [], [], []
        with float32_products(rounded=True):
            for block in _blocks(pairs):
                image = self._views_of("image", features.images, block.image_rows)
                text = self._views_of("text", features.texts, block.text_rows)
                cosines.append(image.cosines(text))
                logits.append(self._logits(image.parts, text.parts))
                contrast.append(
                    self.contrast.of(image.joined(), text.joined(), identities[block.image_rows])
                )
        # By itself: between the others its large arrays would scatter, and memory grow by a tenth.
        for block in _blocks(pairs):
            frozen.append(self._frozen_evidence(features, block, identities))
            advance(len(block))
        siblings = None
        if self.siblings and self.frozen is not None:
            among = Siblings.among(pairs, features.texts, self.frozen.of_texts)
            siblings = among if among.exist() else None
        nets = len(self.networks)
        cosine, logit = _cat(cosines, nets), _cat(logits, nets)
        return Evidence(
            cosine.mean(dim=1).cpu().numpy(),
            tuple(
                torch.stack([logit[:, net], cosine[:, (net - 1) % nets]], dim=1).cpu().numpy()
                for net in range(nets)
            ),
            _cat(contrast, 2).cpu().numpy(),
            _cat(frozen, 0 if self.frozen is None else KINDS).cpu().numpy(),
            siblings,
        )

    def score(self, evidence: Evidence, *, belief: Scores) -> Scored:
        """Scores pairs by the judge of their standing; siblings by what is believed of them.

        Args:
            evidence: As `gather` gives it.
            belief: [n] in [0, 1], how much training believed the pair; not a number where the
                networks were not trained on it.
        """
        assert self.judges is not None, "judges are fitted before anything is scored"
        fitted = ~np.isnan(belief)
        corrected = self._judge(evidence, belief, None)
        if evidence.siblings is not None:
            for _ in range(SIBLING_ROUNDS):
                agreement = evidence.siblings.agreement(corrected)
                corrected = self._judge(evidence, belief, agreement)
        clean = np.empty(len(fitted), dtype=np.float32)
        for judge, rows in ((self.judges.fitted, fitted), (self.judges.unseen, ~fitted)):
            clean[rows] = judge.clean_probability(corrected[rows])
        return Scored(evidence.similarity.clip(-1, 1), corrected, clean)

    def _judge(self, evidence: Evidence, belief: Scores, agreement: Scores | None) -> Scores:
        assert self.judges is not None
        fitted = ~np.isnan(belief)
        corrected = np.empty(len(belief), dtype=np.float32)
        for judge, rows in ((self.judges.fitted, fitted), (self.judges.unseen, ~fitted)):
            corrected[rows] = judge.corrected_similarity(
                evidence.of_rows(
                    rows,
                    belief if judge.hears_belief else None,
                    contrast_alone=judge.near_misses is not None,
                ),
                None if agreement is None else agreement[rows],
            )
        return corrected

    def save(self, path: Path) -> str:
        """Writes the scorer as one safetensors file; returns its identity."""
        from safetensors.torch import save_file

        assert self.judges is not None, "a scorer is saved when it can score"
        tensors = network_tensors(self.networks)
        for kind, part in (("frozen", self.frozen), ("canonical", self.canonical)):
            for name, value in ({} if part is None else part.tensors()).items():
                tensors[f"{kind}.{name}"] = value
        assert self.contrast is not None
        for name, value in asdict(self.contrast).items():
            tensors[f"contrast.{name}"] = value
        description = {
            "layout": LAYOUT,
            "dim": self.dim,
            "siblings": self.siblings,
            "architecture": asdict(self.architecture),
            "judges": self.judges.to_json(),
            "tokenizer": self.tokenizer,
        }
        with replace_file(path) as temporary:
            save_file(
                {name: value.cpu().contiguous() for name, value in tensors.items()},
                temporary,
                metadata={"nccleaner": json.dumps(description)},
            )
        return scorer_identity(path)

    @staticmethod
    def load(path: Path, *, device: str) -> Scorer:
        """Reads a scorer.

        Raises:
            RunError: The file is missing, damaged, or of another version.
        """
        from safetensors import SafetensorError, safe_open

        description = read_description(path)
        try:
            with safe_open(path, framework="pt", device=device) as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Scorer._restore(description, tensors, device)
        except (SafetensorError, RuntimeError, ValueError, LookupError, TypeError) as error:
            raise damaged(path, error) from error

    @staticmethod
    def _restore(description: dict[str, Any], tensors: dict[str, Tensor], device: str) -> Scorer:
        architecture = Architecture(**description["architecture"])
        networks = []
        for index in range(len(description["judges"]["fitted"]["heads"])):
            main_net, meta_net = build_networks(architecture, seed=0)
            main_net.load_state_dict(_under(tensors, f"main_net.{index}."))
            if architecture.fine_tuned:
                read_own_backbone(main_net, index)
            meta_net.load_state_dict(_under(tensors, f"meta_net.{index}."))
            networks.append((main_net.to(device), meta_net.to(device)))
        frozen, canonical = _under(tensors, "frozen."), _under(tensors, "canonical.")
        return Scorer(
            architecture=architecture,
            networks=networks,
            frozen=FrozenEvidence.from_tensors(frozen) if frozen else None,
            canonical=CanonicalView.from_tensors(canonical) if canonical else None,
            siblings=bool(description["siblings"]),
            contrast=Contrast(**_under(tensors, "contrast.")),
            judges=Judges.from_json(description["judges"]),
            tokenizer=description["tokenizer"],
        )

    def _views_of(
        self, modality: Literal["image", "text"], stored: Tensor, rows: Int[Tensor, " b"]
    ) -> Views:
        """Embeds some rows, each once however often it is named."""
        distinct, places = torch.unique(rows, return_inverse=True)
        if len(distinct) == len(rows):
            return self._views(modality, rows_of(stored, rows, rows.device))
        return self._views(modality, rows_of(stored, distinct, rows.device)).take(places)

    def _views(self, modality: Literal["image", "text"], rows: Tensor) -> Views:
        """Embeds what is stored of images or of captions.

        Where the hardware computes with bfloat16, so do the layers.
        """
        parts = self._parts(modality, rows)
        view = self.canonical
        if view is None:
            return Views(parts, parts.new_zeros(len(rows), 0))
        canonical = torch.empty(len(rows), view.width, device=parts.device)
        embed = view.embed_images if modality == "image" else view.embed_texts
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            canonical[block] = embed(rows[block].to(parts.device))
        return Views(parts, canonical)

    def _parts(self, modality: Literal["image", "text"], rows: Tensor) -> Float[Tensor, "n nets d"]:
        """Returns the semantic part that each network makes of images or of captions."""
        device = self.networks[0][0].log_inverse_temperature.device
        dtype = fast_dtype(str(device))
        parts = torch.empty(
            len(rows), len(self.networks), self.architecture.joint_width, device=device
        )
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            stored = rows[block].to(device)
            for net, (main_net, _) in enumerate(self.networks):
                embed = main_net.semantic_images if modality == "image" else main_net.semantic_texts
                with torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16):
                    parts[block, net] = embed(stored)
        return parts

    def _logits(
        self, images: Float[Tensor, "b nets d"], texts: Float[Tensor, "b nets d"]
    ) -> Float[Tensor, "b nets"]:
        logits = [
            pair_logits(main_net, meta_net, images[:, net], texts[:, net])
            for net, (main_net, meta_net) in enumerate(self.networks)
        ]
        return torch.stack(logits, dim=1)

    def _frozen_evidence(
        self, features: Features, pairs: Pairs, identities: Int[Tensor, " images"]
    ) -> Float[Tensor, "b e"]:
        if self.frozen is None:
            return torch.zeros(len(pairs), 0, device=pairs.image_rows.device)
        images, texts = features.of(pairs)
        rows = Frozen(images.float(), texts.float(), identities[pairs.image_rows])
        return self.frozen.of(rows)


def network_tensors(networks: Sequence[tuple[MainNet, MetaNet]]) -> dict[str, Tensor]:
    """Returns the weights of networks by the names that they have in a file."""
    return {
        f"{kind}.{index}.{name}": value
        for index, nets in enumerate(networks)
        for kind, net in zip(("main_net", "meta_net"), nets, strict=True)
        for name, value in net.state_dict().items()
    }


def _blocks(pairs: Pairs) -> list[Pairs]:
    return [
        Pairs(image_rows, text_rows)
        for image_rows, text_rows in zip(
            torch.split(pairs.image_rows, _BLOCK_ROWS),
            torch.split(pairs.text_rows, _BLOCK_ROWS),
            strict=True,
        )
        if len(image_rows)
    ]


def _cat(blocks: list[Tensor], width: int) -> Float[Tensor, "n width"]:
    return torch.cat(blocks) if blocks else torch.empty(0, width)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)
    }
