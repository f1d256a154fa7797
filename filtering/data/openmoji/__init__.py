"""OpenMoji as a dataset with planted duplicates: its images, which of them are planted, and the shards."""

from memsieve.filtering.data.openmoji.build import ATTRIBUTION, LICENCE, DatasetPlan, build_openmoji
from memsieve.filtering.data.openmoji.pictures import Picture, draw_pictures
from memsieve.filtering.data.openmoji.planting import Plant, choose_planted, parse_plant

__all__ = [
    "ATTRIBUTION",
    "LICENCE",
    "DatasetPlan",
    "Picture",
    "Plant",
    "build_openmoji",
    "choose_planted",
    "draw_pictures",
    "parse_plant",
]
