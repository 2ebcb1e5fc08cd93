"""The pocket world's people under ordinary names, which a pretrained text encoder has read before.

Names are combinations of first and family names, nobody's in particular: none of the lists of this
project has them, and no two people share a family name.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from apl_core.captions import Names
from apl_trainer.pocket.world import World
from apl_trainer.prompts import built_in_names

_WOMEN = """
Emma Olivia Sophie Hannah Laura Julia Sarah Emily Grace Lucy Alice Clara Nora Ella Megan Amy
Rachel Rebecca Claire Helen Susan Karen Linda Diane Carol Janet Ruth Martha Irene Marie Anna Eva
Maria Elena Lena Nina Ingrid Astrid Yuki Mei Priya Fatima Leila Amina Zainab Carmen Lucia Ines
Paula Rosa Beatriz Camille
"""
_MEN = """
James Thomas Daniel Henry Oliver Jack Samuel Peter Paul Martin Simon Andrew Brian Kevin Gary Keith
Donald Kenneth Walter Arthur Frank Harold Ernest Albert Oscar Hugo Felix Max Jonas Lars Erik Sven
Ivan Dmitri Pavel Marek Marco Luca Diego Javier Pedro Rafael Andre Pierre Hiroshi Kenji Wei Ravi
Arjun Omar Yusuf Kwame
"""
_FAMILIES = """
Carter Bennett Hughes Foster Coleman Perry Powell Sullivan Russell Hayes Myers Ford Hamilton
Graham Wallace Cole West Jordan Reynolds Fisher Ellis Harrison Gibson Cruz Marshall Ortiz Gomez
Murray Freeman Wells Webb Simpson Stevens Tucker Porter Hunter Hicks Crawford Boyd Mason Morales
Kennedy Warren Dixon Ramos Reyes Burns Gordon Shaw Holmes Rice Robertson Hunt Daniels Palmer Mills
Nichols Grant Knight Ferguson Stone Hawkins Dunn Perkins Hudson Spencer Gardner Stephens Payne
Pierce Berry Matthews Arnold Wagner Willis Ray Watkins Olson Carroll Duncan Snyder Hart Cunningham
Bradley Lane Andrews Ruiz Harper Fox Riley Armstrong Carpenter Weaver Greene Lawrence Elliott
Chavez Sims Austin Peters Kelley Franklin Lawson Fields Gutierrez Ryan Schmidt Carr Vasquez
Castillo Wheeler Chapman Oliver Montgomery Richards Williamson Johnston Banks Meyer Bishop McCoy
Howell Alvarez Morrison Hansen Fernandez Garza Harvey Little Burton Stanley Nguyen George Jacobs
Reid Kim Fuller Lynch Dean Gilbert Garrett Romero Welch Larson Frazier Burke Hanson Day Mendoza
Moreno Bowman Medina Fowler Brewer Hoffman Carlson Silva Pearson Holland Douglas Fleming Jensen
Vargas Byrd Davidson Hopkins May Terry Herrera Wade Soto Walters Curtis Neal Caldwell Lowe
Jennings Barnett Graves Jimenez Horton Shelton Barrett Obrien Castro Sutton Gregory McKinney Lucas
Miles Craig Rodriquez Chambers Holt Lambert Fletcher Watts Bates Hale Rhodes Pena Beck Newman
Haynes McDaniel Mendez Bush Vaughn Parks Dawson Santiago Norris Hardy Love Steele Curry Powers
Schultz Barker
"""


def ordinary_names(world: World) -> tuple[str, ...]:
    """A name for everybody of a world, by the gender that they are drawn with; always the same."""
    rng = np.random.default_rng([world.seed, 31])
    famous = Names(name for names in built_in_names() for name in names)
    families = list(rng.permutation(sorted(_FAMILIES.split())))
    found: list[str] = []
    for person in world.people:
        first = _WOMEN if person.trait("gender") == "woman" else _MEN
        name = ""
        while not name or famous.find(name):
            name = f"{rng.choice(first.split())} {families.pop()}"
        found.append(name)
    return tuple(found)


def renamed(world: World, names: tuple[str, ...]) -> World:
    """The same people under other names, in the same order."""
    people = zip(world.people, names, strict=True)
    return replace(world, people=tuple(replace(person, name=name) for person, name in people))
