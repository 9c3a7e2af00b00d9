"""Annotations in COCO's format: what we read of them."""

from __future__ import annotations

from pydantic import StrictInt, StrictStr

from .base import Many, Open

_Id = StrictInt | StrictStr


class _Image(Open):
    id: _Id


class _Category(Open):
    id: _Id
    name: StrictStr


class _Instance(Open):
    image_id: _Id
    category_id: _Id


class _Caption(Open):
    image_id: _Id
    caption: StrictStr


class InstancesFile(Open):
    """An `instances_*.json`."""

    images: Many[_Image]
    annotations: Many[_Instance]
    categories: Many[_Category]


class CaptionsFile(Open):
    """A `captions_*.json`."""

    annotations: Many[_Caption]
