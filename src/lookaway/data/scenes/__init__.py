"""Generated scenes: coloured shapes, and questions whose answers are known by construction.

Why a generator: a small model must meet every kind of question many times, with balanced answers, and a reader of
exit curves needs families that differ in how much of the image they need. Every scene supports every family of its set
(scenes that do not are drawn again). Deterministic from (split, seed, index).
"""

from .drawing import draw, owners
from .questions import FAMILIES, Question, questions
from .sets import SETS, SceneSet, full_scene, samples, samples_of
from .things import COLOURS, HELD_OUT, PIXELS, SHAPES, SIZES, SYMBOLS, Scene, Thing, make_scene, stream

__all__ = ["COLOURS", "FAMILIES", "HELD_OUT", "PIXELS", "SETS", "SHAPES", "SIZES", "SYMBOLS", "Question", "Scene",
           "SceneSet", "Thing", "draw", "full_scene", "make_scene", "owners", "questions", "samples", "samples_of",
           "stream"]  # fmt: skip
