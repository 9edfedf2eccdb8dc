"""Samples of a shard whose samples are groups of members: a tar, or a folder of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from nccleaner.data.captions import (
    Fault,
    caption_fault,
    caption_field,
    decode_text,
    image_fault,
    missing_detail,
    parse_fields,
)
from nccleaner.data.folders import FolderMembers
from nccleaner.data.members import Group, group_members
from nccleaner.data.metadata import JsonColumns, Sidecar, read_sidecar
from nccleaner.data.tars import TarMembers
from nccleaner.records import (
    CAPTION_TOO_LONG,
    MISSING_IMAGE,
    OK,
    TRUNCATED_SHARD,
    UNREADABLE_METADATA,
    Limits,
    Sample,
    Shard,
)


class GroupedSamples:
    """Iterates the samples of a tar or folder, then the sidecar's rows that it has no image for.

    Attributes:
        problems: What is wrong with the shard; complete after iteration.
    """

    def __init__(self, shard: Shard, *, limits: Limits) -> None:
        self.problems: list[str] = []
        self._shard = shard
        self._limits = limits
        kind = TarMembers if shard.kind == "webdataset" else FolderMembers
        self._members = kind(shard.url, max_member_bytes=limits.max_member_bytes)
        self._sidecar: Sidecar | None = None
        if shard.sidecar_url is not None:
            self._sidecar, problem = read_sidecar(shard.sidecar_url)
            self.problems += self._sidecar.problems if self._sidecar else [problem]
        self._json = JsonColumns()

    def __iter__(self) -> Iterator[Sample]:
        seen: set[str] = set()
        known_roles: set[str] = set()
        for group in group_members(self._members):
            roles = {member.role for member in group.members.values()}
            sample = self._sample(group)
            if group.last and self._members.cut:
                sample = _at_the_cut(sample, group, known_roles - roles, is_first=not known_roles)
            known_roles |= roles
            seen.add(group.key)
            if self._sidecar is None:
                self._json.add(sample.caption, sample.metadata)
            yield sample
        if self._sidecar is not None:
            for row in self._sidecar.rows_without(seen):
                lost = row.status == "success" and self._members.cut
                yield Sample(
                    shard=self._shard.name,
                    key=row.key,
                    image=None,
                    caption=row.caption,
                    status=TRUNCATED_SHARD if lost else MISSING_IMAGE,
                    detail=missing_detail(row.status, row.error_message),
                )
        self.problems += self._members.problems
        if self._json.skipped_columns:
            self.problems.append("its JSON has too many different fields; the last were left out")

    def expected_images(self) -> tuple[int | None, str]:
        """How many images the sidecar counts, and its name for people."""
        return (None if self._sidecar is None else self._sidecar.images()), "its sidecar"

    def is_cut(self) -> bool:
        """Whether samples may be lost that nothing tells of."""
        return self._members.cut

    def metadata(self, keys: Sequence[str]) -> pa.Table:
        """One row for each sample yielded, whose keys are `keys`."""
        return self._json.table(keys) if self._sidecar is None else self._sidecar.join(keys)

    def _sample(self, group: Group) -> Sample:
        faults: list[Fault] = []
        image = group.image
        if image is None:
            others = ", ".join(sorted(group.members))
            faults.append((MISSING_IMAGE, f"no jpg, jpeg, png or webp, only: {others}"))
        elif fault := image_fault(image.size_bytes, self._limits):
            faults.append(fault)
        caption, fields, note, fault = self._texts(group)
        if fault := fault or caption_fault(caption, self._limits):
            faults.append(fault)
        status, detail = faults[0] if faults else (OK, note)
        return Sample(
            shard=self._shard.name,
            key=group.key,
            image=image.data if image else None,
            caption=caption,
            metadata=fields,
            status=status,
            detail=detail,
        )

    def _texts(self, group: Group) -> tuple[str | None, Mapping[str, object], str, Fault | None]:
        """Finds the caption: `txt`, else in `json`, else the sidecar's; and the JSON fields.

        Returns:
            The caption, the fields, a note for people, and the fault that hides the caption.
        """
        text, document = group.members.get("txt"), group.members.get("json")
        fields: Mapping[str, object] = {}
        caption, note = None, ""
        # With a sidecar the fields come from there, and only a missing caption needs the JSON.
        if document is not None and (self._sidecar is None or text is None):
            fields, note = parse_fields(document.data or b"")
        if text is not None:
            if text.data is None:
                found = f"{text.size_bytes} bytes; at most {self._limits.max_member_bytes} are read"
                return None, fields, note, (CAPTION_TOO_LONG, found)
            caption, text_note = decode_text(text.data)
            return caption, fields, "; ".join(filter(None, (note, text_note))), None
        caption = caption_field(fields)
        if caption is None and self._sidecar is not None:
            caption = self._sidecar.caption(group.key)
        if caption is None and note:
            return None, fields, note, (UNREADABLE_METADATA, note)
        return caption, {} if self._sidecar else fields, note, None


def _at_the_cut(sample: Sample, group: Group, missing: set[str], *, is_first: bool) -> Sample:
    """Decides whether the last sample before a cut is whole.

    It is only if nothing speaks against it: the cut is not inside one of its members; it has an
    image, a caption and every kind of member that any sample before it had; and there was one, as
    else nothing tells what a whole sample has. It must not pass with the caption of its `json`
    where its `txt` is lost.

    Args:
        sample: The last sample.
        group: Its members.
        missing: The kinds of members that others had and it has not.
        is_first: Whether no other came before it.
    """
    broken = [m.suffix for m in group.members.values() if not m.whole]
    if broken:
        detail = f"the shard is cut or damaged inside its {broken[0]}"
    elif missing:
        detail = f"the shard ends before its {', '.join(sorted(missing))}"
    elif sample.status == MISSING_IMAGE or sample.caption is None:
        detail = "the shard ends inside this sample"
    elif is_first:
        detail = "the shard ends after this sample, the first, and nothing tells if it is whole"
    else:
        return sample
    return replace(sample, image=None, status=TRUNCATED_SHARD, detail=detail)
